"""The data set: splits, files, reproducibility, and sentences for wrong arguments."""

import hashlib
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from recon.data.readers import read_volume
from recon.errors import InputError
from recon.simulate import simulate
from tests.recon.simulate.conftest import SMALL


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.h5")}


def backwards(function, examinations):
    """A map that works from the last to the first and returns in order."""
    return [function(e) for e in list(examinations)[::-1]][::-1]


def test_writes_two_contrasts_a_subject_and_returns_the_paths(tmp_path):
    steps = []
    paths = simulate(
        tmp_path, subjects={"train": 1, "test": 1}, matrix=32, slices=1, coils=2, progress=lambda *s: steps.append(s)
    )
    assert [str(p.relative_to(tmp_path)) for p in paths] == [
        "train/knee0000_CORPD_FBK.h5",
        "train/knee0000_CORPDFS_FBK.h5",
        "test/knee8000_CORPD_FBK.h5",
        "test/knee8000_CORPDFS_FBK.h5",
    ]
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(paths)
    assert steps == [(2, 4), (4, 4)]


def test_seed_reproduces_every_byte_in_other_orders_and_processes(knees, tmp_path):
    before = np.random.get_state()[1].copy()  # noqa: NPY002  the global state must stay untouched
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        simulate(tmp_path / "pool", subjects={"train": 2}, map=pool.map, **SMALL)
    simulate(tmp_path / "back", subjects={"train": 2}, map=backwards, **SMALL)
    expected = {name: digest for name, digest in digests(knees).items() if name.startswith("train")}
    assert len(expected) == 4
    assert digests(tmp_path / "pool") == expected
    assert digests(tmp_path / "back") == expected
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_bytes_do_not_depend_on_the_number_of_threads(knees, tmp_path):
    code = (
        f"import sys; from recon.simulate import simulate; simulate(sys.argv[1], subjects={{'train': 1}}, **{SMALL!r})"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True)
    expected = digests(knees)
    for name, digest in digests(tmp_path).items():
        assert digest == expected[name]


def test_more_subjects_leave_the_others_as_they_are(knees, tmp_path):
    simulate(tmp_path, subjects={"train": 1, "test": 1}, **SMALL)
    expected = digests(knees)
    assert digests(tmp_path).items() <= expected.items()


def test_a_third_contrast_leaves_the_others_as_they_are(knees, tmp_path):
    paths = simulate(tmp_path / "all", subjects={"train": 1}, contrasts=["T2w", "PDw-FS", "PDw"], **SMALL)
    assert [path.name for path in paths] == [f"knee0000_{name}_FBK.h5" for name in ("CORPD", "CORPDFS", "CORT2")]
    expected = digests(knees)
    found = digests(tmp_path / "all")
    alone = found.pop("train/knee0000_CORT2_FBK.h5")
    assert found.items() <= expected.items()
    simulate(tmp_path / "alone", subjects={"train": 1}, contrasts=["T2w"], **SMALL)
    assert digests(tmp_path / "alone") == {"train/knee0000_CORT2_FBK.h5": alone}


def test_the_third_contrast_is_a_task_of_its_own_with_a_known_truth(tmp_path):
    scan = {"subjects": {"train": 1}, "matrix": 32, "slices": 2, "coils": 2, "contrasts": ["T2w"]}
    (path,) = simulate(tmp_path, **scan, snr=15)
    noisy = read_volume(path)
    assert (noisy.task, noisy.patient) == ("T2w", "knee0000")
    clean = simulate(
        tmp_path / "clean", subjects={"train": 1}, matrix=32, slices=2, coils=2, contrasts=["T2w"], snr=np.inf
    )
    assert noisy.simulated_noise is not None
    for position in range(2):
        found = noisy.read_slice(position) - noisy.simulated_noise.of_slice(position)
        np.testing.assert_allclose(found, read_volume(clean[0]).read_slice(position), atol=1e-6 * np.abs(found).max())


def test_another_seed_gives_another_knee(knees, tmp_path):
    simulate(tmp_path, subjects={"train": 1}, **{**SMALL, "seed": 4})
    name = "train/knee0000_CORPD_FBK.h5"
    with h5py.File(tmp_path / name) as new, h5py.File(knees / name) as old:
        a, b = new["reconstruction_rss"][()], old["reconstruction_rss"][()]
    assert np.linalg.norm(a - b) > 0.2 * np.linalg.norm(b)


def test_no_test_subject_comes_from_a_training_knee(knees):
    origin: dict[str, set[str]] = {}
    for path in knees.rglob("*.h5"):
        with h5py.File(path) as file:
            origin.setdefault(path.parent.name, set()).add(file.attrs["knee"])
    assert origin == {"train": {"a", "b"}, "val": {"a"}, "test": {"c"}}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"subjects": {"train": -1}}, "train is -1"),
        ({"subjects": {"training": 2}}, "'training'"),
        ({"subjects": {"train": 0}}, "at least one"),
        ({"matrix": 65}, "matrix is 65"),
        ({"matrix": 8}, "matrix is 8"),
        ({"slices": 0}, "slices is 0"),
        ({"coils": 0}, "coils is 0"),
        ({"field_of_view_mm": 20}, "field_of_view_mm is 20"),
        ({"phase_lines": 4}, "phase_lines is 4"),
        ({"snr": -1}, "snr is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"contrasts": ["T1w"]}, "contrasts is T1w, where some of PDw, PDw-FS, T2w"),
        ({"contrasts": ["PDw", "PDw"]}, "each once"),
        ({"contrasts": []}, "contrasts is empty"),
        ({"format": "dicom"}, "'dicom'"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_written(wrong, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        simulate(tmp_path / "out", **{"subjects": {"train": 1}, **wrong})
    assert not (tmp_path / "out").exists()
