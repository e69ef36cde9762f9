import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recon.data.checks import Finding, Survey, compare_scales, table
from recon.data.readers import RawVolume
from recon.data.readers.raw import undersampling
from recon.data.volume_file import VolumeRecord
from recon.errors import InputError
from recon.physics import coils, espirit
from recon.physics.fourier import fft, ifft

SLICES, COILS, ROWS, COLUMNS = 4, 5, 48, 40
NOISE = 1e-3


def smooth_kspace(slices=SLICES, seed=0):
    """(slices, COILS, ROWS, COLUMNS): objects so smooth that k-space's corners hold noise alone; and its covariance."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, ROWS), np.linspace(-1, 1, COLUMNS), indexing="ij")
    places = rng.uniform(-0.8, 0.8, (2, COILS, 1, 1))
    maps = np.exp(-((y - places[0]) ** 2) - (x - places[1]) ** 2 + 1j * rng.uniform(0, 6, (COILS, 1, 1)))
    image = rng.uniform(0.7, 1.3, (slices, 1, 1, 1)) * np.exp(-12 * (y**2 + x**2))
    factor = NOISE * np.linalg.cholesky(np.eye(COILS) + 0.4)
    white = rng.standard_normal((2, slices, COILS, ROWS, COLUMNS)) * np.sqrt(0.5)
    noise = np.einsum("cd,sdrk->scrk", factor, white[0] + 1j * white[1])
    return (fft(maps * image) + noise).astype(np.complex64), factor @ factor.T


def volume(kspace, pad=(0, 0), mask=None):
    """A raw volume that holds an array."""
    slices, count, rows, columns = kspace.shape
    return RawVolume(
        path=Path("scan.raw"),
        name="scan",
        format="array",
        acquisition="any",
        task="any",
        patient="someone",
        slices=slices,
        coils=count,
        rows=rows,
        columns=columns,
        image_rows=rows,
        pad_left=pad[0],
        pad_right=pad[1],
        crop=(rows, columns),
        mask=mask,
        load=lambda position: kspace[position],
        files=(),
    )


def found(kspace, **how: object):
    """(slice, severity) of what a survey of the array finds, and its sentences."""
    findings = Survey(volume(kspace, **how), 12).findings
    assert {one.file for one in findings} <= {"scan.raw"}
    return [(one.slice, one.severity) for one in findings], " | ".join(one.what for one in findings)


def record(name, scale, task="T1"):
    return VolumeRecord(
        volume=name,
        task=task,
        patient=name,
        slices=1,
        coils=1,
        rows=8,
        columns=8,
        pad_left=0,
        pad_right=0,
        crop_rows=8,
        crop_columns=8,
        scale=scale,
        key="",
        kspace_sha256="",
        calibration="",
        prewhitened="no",
        source="",
        source_sha256="",
        source_format="",
        acquisition="",
        recipe={},
        versions={},
    )


@pytest.fixture
def kspace():
    return smooth_kspace()[0]


@pytest.fixture
def some_columns():
    """A mask of the centre and every third column."""
    mask = np.arange(COLUMNS) % 3 == 0
    mask[16:24] = True
    return mask


@pytest.mark.parametrize("scale", [1e-12, 1, 1e12])
def test_nothing_is_found_in_clean_data(kspace, scale):
    assert found((scale * kspace).astype(np.complex64)) == ([], "")


def test_nothing_is_found_in_data_with_padding_a_mask_and_partial_echoes(kspace, some_columns):
    padded = kspace.copy()
    padded[..., :3] = padded[..., -5:] = 0
    assert found(padded, pad=(3, 5)) == ([], "")
    assert found(kspace * some_columns, mask=some_columns) == ([], "")
    assert found(padded * some_columns, pad=(3, 5), mask=some_columns) == ([], "")
    padded[:, :, :10] = 0
    assert found(padded, pad=(3, 5)) == ([], "")


@pytest.mark.parametrize("value", [np.nan, np.inf, complex(0, -np.inf)])
def test_samples_that_are_not_finite_are_found(kspace, value):
    kspace[2, 1, 5, 7] = value
    where, what = found(kspace)
    assert where == [(2, "error")]
    assert what == "it holds samples that are not finite"


def test_samples_whose_squares_are_not_finite_are_found_without_a_warning(kspace, recwarn):
    kspace[2, 1, 5, 5] = 3e30
    seen, said = found(kspace)
    assert seen == [(2, "error")]
    assert "so large" in said
    assert not recwarn.list


def test_slices_of_zeros_are_found(kspace):
    kspace[1] = 0
    where, what = found(kspace)
    assert where == [(1, "error")]
    assert what == "it holds nothing but zeros"


def test_half_written_slices_are_found(kspace):
    kspace[3, ..., 25:] = 0
    where, what = found(kspace)
    assert where == [(3, "error")]
    assert "15 columns (25 to 39) hold nothing but zeros" in what


@pytest.mark.parametrize(
    ("coil", "row", "message"),
    [
        # A file that ends within a slice lacks its last coils, the last rows of one, or both.
        (3, 0, "96 rows of coil 3, 4 (counted from 0)"),
        (4, 20, "28 rows of coil 4 (counted from 0)"),
        (2, 40, "104 rows of coil 2, 3, 4 (counted from 0)"),
    ],
)
def test_slices_that_end_early_are_found(kspace, coil, row, message):
    kspace[2, coil, row:] = kspace[2, coil + 1 :] = 0
    kspace[1, 0, 0, 0] = np.nan
    seen = Survey(volume(kspace), 12)
    assert [(one.slice, one.severity) for one in seen.findings] == [(1, "error"), (2, "error")]
    assert f"{message} hold nothing but zeros, though other slices have them" in seen.findings[1].what


def test_a_volume_of_broken_slices_is_not_read_to_its_end():
    seen = Survey(volume(np.zeros((10**6, 2, 2, 2), np.complex64)), 12)
    assert [one.slice for one in seen.findings] == list(range(33))
    assert "the rest was not read" in seen.findings[-1].what


def test_columns_that_were_not_acquired_are_not_due_and_others_are(kspace, some_columns):
    kspace *= some_columns
    kspace[..., -5:] = 0
    kspace[2, ..., 30:] = 0
    where, what = found(kspace, pad=(0, 5), mask=some_columns)
    assert where == [(2, "error")]
    assert "2 columns (30 to 33) hold nothing but zeros" in what
    # Lines that the mask keeps in the padding may hold nothing, and stay the mask's.
    assert found(kspace[:2], pad=(0, 5), mask=some_columns) == ([], "")
    assert some_columns[-5:].any()


def test_all_bad_slices_are_listed_each_with_what_it_has(kspace):
    kspace[0, 0, 0, 0] = np.nan
    kspace[1] = 0
    kspace[3, ..., 0] = 0
    seen = Survey(volume(kspace), 12)
    assert [(one.slice, one.severity) for one in seen.findings] == [(0, "error"), (1, "error"), (3, "error")]
    assert ["finite" in seen.errors[0].what, "nothing but" in seen.errors[1].what] == [True, True]
    assert "1 columns (0 to 0)" in seen.errors[2].what
    with pytest.raises(InputError, match=r"^scan\.raw: slice 0: it holds samples .* \(2 more such slices\)$"):
        seen.require_whole()


def test_warnings_keep_no_volume_out(kspace):
    kspace[:, 2] = 0
    seen = Survey(volume(kspace), 12)
    assert [one.severity for one in seen.findings] == ["warning"]
    assert seen.errors == []
    seen.require_whole()


@pytest.mark.parametrize("empty", [[2], [0, 4], [0, 1, 3, 4]], ids=str)
@pytest.mark.parametrize("left", [0, 1e-6])
def test_empty_coils_are_found_however_many_they_are(kspace, empty, left):
    kspace[:, empty] *= left
    where, what = found(kspace)
    assert where == [(None, "warning")]
    assert f"coil {', '.join(map(str, empty))} of 5 (counted from 0) holds next to nothing" in what


def test_faint_coils_are_not_empty(kspace):
    kspace[:, 2] *= 0.01
    assert found(kspace) == ([], "")


def test_clipped_samples_are_found_in_their_slice(kspace):
    parts = kspace[1].view(np.float32)
    limit = np.sort(np.abs(parts), axis=None)[-20]
    np.clip(parts, -limit, limit, out=parts)
    where, what = found(kspace)
    assert where == [(1, "warning")]
    assert what.startswith("20 samples lie at exactly the largest value")


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_slices_of_another_scale_are_found(factor):
    kspace, _ = smooth_kspace(slices=6)
    kspace[[0, 3]] *= factor
    # A slice at the end of the object is faint, and no finding.
    kspace[2] *= 0.05
    where, what = found(kspace)
    assert where == [(0, "warning"), (3, "warning")]
    assert what.count("times the median slice's; is it scaled as the others?") == 2


@pytest.mark.parametrize(("axis", "brightest"), [(-2, r"row 0, column 20"), (-1, r"row 24, column 0")])
def test_kspace_that_is_not_centred_is_found(kspace, axis, brightest):
    where, what = found(np.ascontiguousarray(np.fft.ifftshift(kspace, axis)))
    assert where == [(None, "warning")]
    assert f"k-space is brightest at {brightest}, where its centre is 24, 20" in what


def test_a_centre_that_is_a_little_off_is_no_finding(kspace):
    """Steps of the echo and of partial Fourier move it by a few lines."""
    assert found(np.ascontiguousarray(np.roll(kspace, (3, -3), (-2, -1)))) == ([], "")


def test_more_coils_than_rows_are_found(kspace):
    swapped = np.ascontiguousarray(kspace[:, :, 6:42].transpose(0, 2, 1, 3))
    where, what = found(swapped)
    assert set(where) == {(None, "warning")}
    assert "it has more coils (36) than rows or columns (5 × 40); are axes swapped?" in what


def white(shape, seed=5):
    rng = np.random.default_rng(seed)
    return ((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) * NOISE).astype(np.complex64)


@pytest.mark.parametrize("louder", [1e-3, 1, 1e3])
@pytest.mark.parametrize("count", [1, COILS])
def test_a_slice_of_noise_alone_is_told_whatever_its_level(kspace, louder, count):
    kspace = kspace[:, :count].copy()
    kspace[2] = louder * white(kspace.shape[1:])
    seen = Survey(volume(kspace), 12)
    (about,) = [one for one in seen.findings if "noise alone" in one.what]
    assert about[1:3] == (2, "warning")
    assert seen.noise_alone == (2,)
    assert seen.usable == (0, 1, 3)


@pytest.mark.parametrize("dimmer", [1, 30, 100])
def test_a_dim_slice_is_not_noise(kspace, dimmer):
    seen = Survey(volume((kspace / dimmer + white(kspace.shape)).astype(np.complex64)), 12)
    assert seen.noise_alone == ()


def test_the_noise_beside_a_three_dimensional_object_is_one_finding():
    kspace = np.concatenate(
        [white((3, COILS, ROWS, COLUMNS)), smooth_kspace(4)[0], white((2, COILS, ROWS, COLUMNS), 6)]
    )
    seen = Survey(dataclasses.replace(volume(kspace), phase_encodings=2), 12)
    (about,) = [one for one in seen.findings if "noise alone" in one.what]
    assert about.slice is None
    assert "slices 0-2, 7-8 hold noise alone" in about.what
    assert seen.usable == (3, 4, 5, 6)


def test_a_volume_of_noise_alone_is_refused():
    with pytest.raises(InputError, match="all of its slices hold noise alone"):
        Survey(volume(white((3, COILS, ROWS, COLUMNS))), 12).require_some()


def test_images_in_the_place_of_kspace_are_told(kspace):
    clean, _ = found(kspace)
    assert clean == []
    seen, said = found(ifft(kspace))
    assert (None, "warning") in seen
    assert "look like images" in said


def two_dimensional(share=0.3, seed=3):
    """A random pattern (ROWS, COLUMNS) with a sampled centre; no row and no column of it is empty."""
    pattern = np.random.default_rng(seed).random((ROWS, COLUMNS)) < share
    pattern[ROWS // 2 - 6 : ROWS // 2 + 6, COLUMNS // 2 - 6 : COLUMNS // 2 + 6] = True
    return pattern


def test_samples_missing_between_others_are_told_where_no_mask_says_so(kspace):
    seen, said = found(kspace * two_dimensional())
    assert seen == [(position, "error") for position in range(SLICES)]
    assert "undersampled in two dimensions" in said


@pytest.mark.parametrize("step", [2, 3])
def test_rows_missing_between_others_are_told_as_such(kspace, step):
    rows = np.arange(ROWS) % step == 0
    seen, said = found(kspace * rows[:, None])
    assert seen == [(position, "error") for position in range(SLICES)]
    last = np.flatnonzero(rows)[-1]
    assert f"undersampled along its rows ({rows[: last + 1].mean():.2f} of" in said


def test_the_share_of_samples_counts_empty_lines_too():
    pattern = np.zeros((ROWS, COLUMNS), bool)
    pattern[::2, ::2] = True
    pattern[ROWS // 2 - 6 : ROWS // 2 + 6, COLUMNS // 2 - 6 : COLUMNS // 2 + 6] = True
    inside = pattern[: ROWS - 1, : COLUMNS - 1].mean()
    assert f"undersampled in two dimensions ({inside:.2f} of the samples" in undersampling(pattern)


def test_a_coil_that_holds_noise_alone_is_told(kspace):
    kspace[:, 2] = 30 * white(kspace.shape[:1] + kspace.shape[2:])
    seen, said = found(kspace)
    assert seen == [(None, "warning")]
    assert f"coil 2 of {COILS} (counted from 0) holds noise alone" in said


def test_samples_missing_inside_the_lines_of_a_mask_are_told(kspace, some_columns):
    seen, said = found(kspace * some_columns * two_dimensional(), mask=some_columns)
    assert seen == [(position, "error") for position in range(SLICES)]
    assert "undersampled in two dimensions" in said


def test_a_mask_in_two_dimensions_is_held_against_the_samples(kspace):
    pattern = two_dimensional()
    assert found(kspace * pattern, mask=pattern) == ([], "")
    fewer = kspace * pattern
    fewer[1] *= two_dimensional(0.5, seed=4)
    seen, said = found(fewer, mask=pattern)
    assert seen == [(1, "error")]
    assert "of the samples that count as acquired" in said


@pytest.mark.parametrize("edge", ["corners", "partial echo", "both", "one sample"])
def test_the_edge_of_what_was_acquired_is_no_undersampling(kspace, edge):
    y, x = np.ogrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
    there = np.ones((ROWS, COLUMNS), bool)
    if edge in ("corners", "both"):
        there &= x**2 + y**2 <= 1.05
    if edge in ("partial echo", "both"):
        there[:9] = False
    if edge == "one sample":
        there[5, 7] = False
    assert found(kspace * there) == ([], "")


def test_samples_are_known_by_their_hash_whatever_holds_them(kspace):
    same = dataclasses.replace(volume(kspace.copy()), path=Path("other.raw"), name="other", task="other")
    first = Survey(volume(kspace), 12).kspace_sha256
    assert Survey(same, 24, along_readout=True).kspace_sha256 == first
    assert Survey(volume(kspace[::-1]), 12).kspace_sha256 != first
    kspace[3, 4, 47, 39] *= 1.001
    assert Survey(volume(kspace), 12).kspace_sha256 != first


def test_covariance_of_the_corners_is_that_of_the_noise(some_columns):
    """Also where lines or samples were not acquired: their zeros are no noise."""
    kspace, truth = smooth_kspace(slices=12)
    padded, echo = kspace.copy(), kspace.copy()
    # What lies in the padding does not count, whatever it is.
    padded[..., :3] = padded[..., -2:] = 1
    echo[:, :, :12] = 0
    for array, how in [
        (kspace, {}),
        (padded, {"pad": (3, 2)}),
        (kspace * some_columns, {"mask": some_columns}),
        (echo, {}),
    ]:
        np.testing.assert_allclose(Survey(volume(array, **how), 12).edge, truth, atol=0.25 * NOISE**2)


def test_covariance_of_the_centre_is_that_of_the_calibration_regions(kspace, some_columns):
    regions = [espirit.calibration_region(one, 12, some_columns) for one in kspace]
    expected = sum(coils.coil_covariance(one) for one in regions)
    seen = Survey(volume(kspace * some_columns, mask=some_columns), 12)
    np.testing.assert_allclose(seen.centre, expected, rtol=1e-6)
    along = Survey(volume(kspace * some_columns, mask=some_columns), 12, along_readout=True)
    # The mask keeps 15 beside 16 to 23, and 24: ten lines about the centre.
    lines = [coils.readout_covariance(one[..., 15:25]) for one in kspace]
    np.testing.assert_allclose(along.centre, sum(lines), rtol=1e-6)


def test_volumes_of_another_scale_than_their_tasks_are_found():
    records = [record(f"t1-{number}", 10.0 + number) for number in range(5)]
    records += [record("small", 0.05), record("large", 5000.0), record("not-so-large", 900.0)]
    # Another task's scale is its own.
    records += [record(f"t2-{number}", 1e6, task="T2") for number in range(3)]
    paths = {one.volume: Path(f"{one.volume}.h5") for one in records}
    findings = compare_scales(records, paths)
    assert [(one.file, one.slice, one.severity) for one in findings] == [
        ("small.h5", None, "warning"),
        ("large.h5", None, "warning"),
    ]
    assert findings[0].what == "its scale is 4e-03 times the median of T1; is it in other units?"
    assert compare_scales(records[:5], paths) == []
    assert compare_scales([], {}) == []


def test_the_table_lists_errors_first_and_whole_volumes_before_their_slices():
    findings = [
        Finding("b", 1, "warning", "one"),
        Finding("a", 10, "error", "two"),
        Finding("a", 9, "error", "three"),
        Finding("b", None, "warning", "four"),
        Finding("b", 2, "error", "five"),
    ]
    listed = table(findings)
    assert listed.columns.tolist() == ["file", "slice", "severity", "what"]
    assert listed["what"].tolist() == ["three", "two", "five", "four", "one"]
    assert listed["slice"].dtype == pd.Int64Dtype()
    assert listed["slice"].isna().tolist() == [False, False, False, True, False]
    assert listed["slice"].dropna().tolist() == [9, 10, 2, 1]


def test_the_table_of_no_findings_has_its_columns():
    empty = table([])
    assert (len(empty), empty.columns.tolist()) == (0, ["file", "slice", "severity", "what"])
    assert empty["slice"].dtype == pd.Int64Dtype()
