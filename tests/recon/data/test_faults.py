"""A fault of prepared data names the file and the cause in one line, wherever it is met, and gives no wrong number."""

import errno
import json
import os
import random
import re
import shutil

import h5py
import numpy as np
import pytest

from recon.data import volume_file as volumes
from recon.data.prepared import PreparedData
from recon.errors import DataError, InputError
from recon.training.loop import train
from tests.recon.networks import small


@pytest.fixture
def own(prepared, tmp_path):
    """A copy of the prepared data, to be hurt."""
    return shutil.copytree(prepared, tmp_path / "data")


def test_a_volume_cut_off_at_any_length_is_named_and_never_read_as_something_else(own):
    """While the data set is open: HDF5 compares the length of a file with the one that it stored."""
    data, rng = PreparedData(own), random.Random(0)
    slice_id = data.subset("PDw")[0]
    path, good = own / data.row(slice_id).file, data.read(slice_id)
    content = path.read_bytes()
    lengths = [*range(0, 600, 40), *rng.sample(range(len(content)), 60), *range(len(content) - 20, len(content))]
    for length in lengths:
        path.write_bytes(content[:length])
        with pytest.raises(DataError) as caught:
            data.read(slice_id)
        assert re.fullmatch(rf"{path} cannot be read: [^\n]+", str(caught.value))
        with pytest.raises(DataError, match=str(path)):
            data.record(data.row(slice_id).volume)
    assert "is cut off at" in str(caught.value)
    path.write_bytes(content)
    np.testing.assert_array_equal(data.read(slice_id).kspace, good.kspace)


def test_a_volume_cut_off_while_it_is_read_is_named(own, monkeypatch):
    """There HDF5 says nothing, and reads zeros."""
    data = PreparedData(own)
    slice_id = data.subset("PDw")[-1]
    path = own / data.row(slice_id).file
    content, key_of = path.read_bytes(), volumes.record_key

    def cut(file, where):
        key = key_of(file, where)
        os.truncate(path, len(content) // 4)
        return key

    with h5py.File(path, "r") as file:
        cut(file, path)
        assert not file["kspace"][file["kspace"].shape[0] - 1].any(), "what this guards against"
    path.write_bytes(content)
    monkeypatch.setattr("recon.data.prepared.record_key", cut)
    with pytest.raises(DataError, match=rf"^{path} cannot be read: it was cut off to \d+ of \d+ bytes$"):
        data.read(slice_id)


@pytest.mark.parametrize(
    ("hurt", "cause"),
    [
        (lambda path: path.unlink(), "no such file or directory"),
        (lambda path: path.write_bytes(b"words" * 1000), "file signature not found"),
        (lambda path: (path.unlink(), path.mkdir()), "is a directory"),
    ],
)
def test_a_volume_that_is_gone_or_another_file_is_named_with_the_cause(own, hurt, cause):
    data = PreparedData(own)
    slice_id = data.subset("PDw")[0]
    path = own / data.row(slice_id).file
    hurt(path)
    with pytest.raises(DataError, match=rf"^{path} cannot be read: {cause}$"):
        data.read(slice_id)


def test_an_hdf5_file_that_is_no_volume_is_named(own):
    data = PreparedData(own)
    slice_id = data.subset("PDw")[0]
    path = own / data.row(slice_id).file
    record = json.loads(h5py.File(path, "r").attrs["record"])
    for about in (None, "no JSON", "[1]", "{}"):
        with h5py.File(path, "w") as file:
            if about is not None:
                file.attrs["record"] = about
        with pytest.raises(DataError, match=rf"^{path} is not a prepared volume; prepare it again$"):
            data.read(slice_id)
    with h5py.File(path, "w") as file:
        file.attrs["record"] = json.dumps(record)
    with pytest.raises(DataError, match=rf"^{path} cannot be read: "):
        data.read(slice_id)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EACCES, errno.EIO])
def test_what_the_system_answers_is_the_cause(own, monkeypatch, number):
    """A stale handle of a network's file system cannot be made here, so h5py's answer to one is put in its place."""
    data = PreparedData(own)
    slice_id = data.subset("PDw")[0]
    path = own / data.row(slice_id).file
    why = os.strerror(number)
    said = f"Unable to synchronously open file (unable to open file: name = '{path}', errno = {number}, error message"
    for error in (OSError(f"{said} = '{why}', flags = 0, o_flags = 0)"), OSError(number, why, str(path))):

        def answer(*args: object, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(volumes.h5py, "File", answer)
            with pytest.raises(DataError, match=rf"^{path} cannot be read: {why.lower()}$"):
                data.read(slice_id)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_training_on_a_volume_that_is_cut_off_ends_at_once_and_names_it(own, split, workers):
    data = PreparedData(own)
    slice_id = data.subset("PDw-FS", split=split)[0]
    path = own / data.row(slice_id).file
    os.truncate(path, path.stat().st_size // 2)
    steps = []
    config = small(slices={}, cut="volumes", network={"layout": "I1", "channels": 1, "pools": 1}, epochs=2)
    with pytest.raises(DataError, match=rf"^{path} cannot be read: it is cut off at \d+ of \d+ bytes$"):
        train(config, data, workers=workers, progress=steps.append)
    assert len(steps) <= 8, "in the first epoch"


def test_a_data_set_that_is_no_longer_there_is_a_fault_of_the_data(own):
    data = PreparedData(own)
    shutil.rmtree(own)
    with pytest.raises(DataError, match=f"^{own}"):
        PreparedData(own)
    with pytest.raises(DataError, match=f"^{own}.* cannot be read: no such file or directory$"):
        data.read(0)
    with pytest.raises(InputError, match="has no slice 9999") as caught:
        data.read(9999)
    assert not isinstance(caught.value, DataError), "what is asked for is wrong, and not the data"
