"""What many tests share: a small simulated knee data set, raw and prepared once a run."""

import json
import os
import shutil
from pathlib import Path

import pytest

# One thread each: on small arrays more threads cost time, and the tests' trials run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def without_truth(prepared: Path, out: Path) -> Path:
    """A copy of prepared data as a version made them that knew no noise-free truth."""
    import h5py

    shutil.copytree(prepared, out)
    for path in (out / "volumes").glob("*.h5"):
        with h5py.File(path, "r+") as file:
            record = json.loads(file.attrs["record"])
            del record["truth"], record["simulated_noise"]
            file.attrs["record"] = json.dumps(record)
            file.pop("truth", None)
    return out


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """Raw fastMRI-layout volumes of four training, one validation and one test subject."""
    from recon.simulate import simulate

    folder = tmp_path_factory.mktemp("raw")
    simulate(folder, subjects={"train": 3, "val": 1, "test": 1}, matrix=32, slices=4, coils=4, seed=0)
    return folder


@pytest.fixture(scope="session")
def prepared(raw, tmp_path_factory) -> Path:
    """The same, prepared: tasks PDw and PDw-FS, 12 training slices each."""
    from recon.data.options import PrepareOptions
    from recon.data.prepare import prepare

    folder = tmp_path_factory.mktemp("data") / "prepared"
    report = prepare([raw], folder, PrepareOptions(calibration_width=16))
    assert report.ok, report.failed
    return folder
