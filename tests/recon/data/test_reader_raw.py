"""What readers share: reasons of libraries that cannot read a file become sentences for its user."""

import errno
import os

import h5py
import numpy as np
import pytest

from recon.data.readers.raw import parsing
from recon.errors import InputError


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = np.arange(10**5)
    return tmp_path / "scan.h5"


def reason(path, call, what="it cannot be read"):
    """What is said when ``call`` fails."""
    with pytest.raises(InputError) as caught, parsing(path, what):
        call()
    return str(caught.value)


def read(path, name):
    """All of a data set."""
    with h5py.File(path, "r") as file:
        return file[name][()]


def test_a_file_that_is_cut_off_is_not_told_in_hdf5s_words(path):
    path.write_bytes(path.read_bytes()[:5000])
    assert reason(path, lambda: read(path, "kspace")) == f"{path}: it cannot be read, it is cut off or damaged"


def test_what_is_missing_inside_is_not_told_in_hdf5s_words(path):
    said = reason(path, lambda: read(path, "mask"), "slice 3 cannot be read")
    assert said == f"{path}: slice 3 cannot be read, it is cut off or damaged"


def test_a_file_that_is_not_there_or_not_allowed_is_not_called_damaged(path):
    gone = path.with_name("gone.h5")
    assert reason(gone, lambda: read(gone, "kspace")) == f"{gone}: it cannot be read ({os.strerror(errno.ENOENT)})"


def test_reasons_of_other_libraries_are_kept(path):
    def call():
        raise ValueError("the mask has\n  three axes")

    assert reason(path, call).endswith("it is damaged or not what its name says (the mask has three axes)")


def test_an_array_that_memory_does_not_hold_is_told_by_its_size(path):
    with h5py.File(path, "r+") as file:
        file.create_dataset("huge", (10**7, 10**7), "c8", chunks=(64, 64))
    assert "TiB" in reason(path, lambda: read(path, "huge"))
