"""Three-dimensional scans: one transform along the readout gives slices with two phase-encode directions."""

import subprocess

import numpy as np
import pytest
import sigpy as sp

from recon.data import readers
from recon.errors import InputError
from tests.recon.bart import needs_bart
from tests.recon.data.test_reader_plain import write_cfl

READOUT, COILS, ROWS, COLUMNS = 10, 3, 8, 6


def random_scan(seed=0):
    """k-space of three dimensions, (READOUT, COILS, ROWS, COLUMNS)."""
    rng = np.random.default_rng(seed)
    shape = (READOUT, COILS, ROWS, COLUMNS)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def write_three_d(path, scan):
    """BART's order: readout, both phase encodings, coils."""
    path.write_bytes(scan.transpose(0, 2, 3, 1).astype("<c8").tobytes(order="F"))
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{READOUT} {ROWS} {COLUMNS} {COILS}\n")
    return path


def assert_is_transformed(volume, scan, kept=slice(None)):
    """The slices are sigpy's centred transform of the readouts."""
    due = sp.ifft(scan, axes=(0,))[kept]
    assert (volume.slices, volume.coils, volume.rows, volume.columns) == due.shape
    for position, one in enumerate(due):
        np.testing.assert_allclose(volume.read_slice(position), one, atol=1e-6)
    assert (volume.phase_encodings, volume.mask, volume.image_rows) == (2, None, ROWS)


def test_a_three_dimensional_cfl_becomes_slices_along_its_readout(tmp_path):
    scan = random_scan()
    assert_is_transformed(readers.read_volume(write_three_d(tmp_path / "scan.cfl", scan)), scan)


def test_readout_oversampling_of_a_three_dimensional_scan_is_slices_that_are_left_out(tmp_path):
    scan = random_scan()
    volume = readers.read_volume(write_three_d(tmp_path / "scan.cfl", scan), readers.Hints(oversampling=2))
    # The centre is sample 5 of 10, and sample 2 of the 5 that are kept.
    assert_is_transformed(volume, scan, slice(3, 8))


def test_numpy_axes_may_name_a_readout_in_place_of_slices(tmp_path):
    scan = random_scan()
    np.save(tmp_path / "scan.npy", scan.transpose(1, 3, 0, 2))
    hints = readers.Hints(axes=("coils", "columns", "readout", "rows"))
    assert_is_transformed(readers.read_volume(tmp_path / "scan.npy", hints), scan)


def test_a_large_scan_is_transformed_on_disk(tmp_path, monkeypatch):
    scan = random_scan()
    monkeypatch.setattr(readers.hybrid, "IN_MEMORY", 100)
    assert_is_transformed(readers.read_volume(write_three_d(tmp_path / "scan.cfl", scan)), scan)


def test_corners_that_a_three_dimensional_scan_leaves_out_are_no_undersampling(tmp_path):
    scan = random_scan()
    row, column = np.mgrid[:ROWS, :COLUMNS]
    inside = ((row - ROWS / 2 + 0.5) / ROWS) ** 2 + ((column - COLUMNS / 2 + 0.5) / COLUMNS) ** 2 < 0.25
    assert not inside[0, 0]
    assert_is_transformed(readers.read_volume(write_three_d(tmp_path / "scan.cfl", scan * inside)), scan * inside)
    kept = inside & (np.random.default_rng(1).random(inside.shape) < 0.5)
    mask = readers.read_volume(write_three_d(tmp_path / "few.cfl", scan * kept)).mask
    np.testing.assert_array_equal(mask, kept)


@needs_bart
def test_barts_own_scans_are_read_as_bart_transforms_them(tmp_path):
    """``fft -u -i 1`` is BART's transform along the readout; ``slice`` leaves 1 × ky × kz × coils."""

    def bart(command):
        subprocess.run(["bart", *command.split()], cwd=tmp_path, check=True, timeout=60, capture_output=True)

    bart("phantom -k -3 -x 12 -s 2 scan")
    bart("fft -u -i 1 scan hybrid")
    bart("slice 0 7 hybrid one")
    whole, one = (readers.read_volume(tmp_path / name) for name in ("scan.cfl", "one.cfl"))
    assert (whole.slices, whole.coils, whole.rows, whole.columns) == (12, 2, 12, 12)
    assert (one.slices, one.coils, one.rows, one.columns, one.phase_encodings) == (1, 2, 12, 12, 2)
    due = one.read_slice(0)
    np.testing.assert_allclose(whole.read_slice(7), due, atol=1e-5 * np.abs(due).max())


@needs_bart
def test_barts_two_dimensional_phantom_keeps_its_readout(tmp_path):
    command = ["bart", "phantom", "-k", "-x", "12", "-s", "2", "flat"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    volume = readers.read_volume(tmp_path / "flat.cfl")
    assert (volume.slices, volume.coils, volume.rows, volume.columns, volume.phase_encodings) == (1, 2, 12, 12, 1)


def write_images(path):
    """Two echoes and three repetitions: (2, 3, COILS, ROWS, COLUMNS) as written."""
    rng = np.random.default_rng(3)
    shape = (2, 3, COILS, ROWS, COLUMNS)
    images = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    header = f"# Dimensions\n{ROWS} {COLUMNS} 1 {COILS} 1 2 1 1 1 1 3\n"
    path = write_cfl(path, images[0, :1], header)
    path.write_bytes(images.transpose(3, 4, 2, 0, 1).astype("<c8").tobytes(order="F"))
    return path, images


def test_echoes_and_times_of_a_cfl_become_volumes_where_asked(tmp_path):
    path, images = write_images(tmp_path / "scan.cfl")
    with pytest.raises(InputError, match=r"\(2 in dimension 5 and 3 in dimension 10\); --images volumes"):
        readers.read_volumes(path)
    found = readers.read_volumes(path, readers.Hints(images="volumes"))
    assert [one.name for one in found] == [f"scan_echo{echo}_rep{time}" for echo in (1, 2) for time in (1, 2, 3)]
    assert {one.patient for one in found} == {"scan"}
    assert [one.task for one in found] == ["scan-echo1"] * 3 + ["scan-echo2"] * 3
    for one, due in zip(found, images.reshape(6, COILS, ROWS, COLUMNS), strict=True):
        np.testing.assert_array_equal(one.read_slice(0), due)
    named = readers.read_volume(path, readers.Hints(images="volumes", task="T1"), name="scan_echo2_rep1")
    assert named.task == "T1-echo2"


def test_repetitions_of_a_cfl_are_averaged_where_asked(tmp_path):
    path, images = write_images(tmp_path / "scan.cfl")
    found = readers.read_volumes(path, readers.Hints(images="average"))
    assert [one.name for one in found] == ["scan_echo1", "scan_echo2"]
    for one, due in zip(found, images.mean(1), strict=True):
        np.testing.assert_allclose(one.read_slice(0), due, atol=1e-6)
