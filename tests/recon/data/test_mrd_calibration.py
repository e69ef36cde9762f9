"""Lines of ISMRMRD files that were acquired for calibration: within the image's scan, or by a scan of their own."""

import h5py
import ismrmrd
import numpy as np
import pytest

from recon.data import readers
from recon.data.readers import Hints
from recon.errors import InputError
from tests.recon.data.mrdfiles import COILS, COLUMNS, ROWS, document, encoding, random_kspace, readouts, write

ALONE, SHARED = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING
THIRD = range(0, COLUMNS, 3)
MIDDLE = range(4, 9)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scan.h5"


def integrated(kspace, **how: object):
    """Every third line, and those in the middle; the image's among them are flagged to be for both."""
    lines = readouts(kspace, columns=[y for y in THIRD if y not in MIDDLE], **how)
    lines += readouts(kspace, columns=[y for y in THIRD if y in MIDDLE], flags=(SHARED,), **how)
    return lines + readouts(kspace, columns=[y for y in MIDDLE if y not in THIRD], flags=(ALONE,), **how)


def only(kspace, columns):
    """k-space with other columns set to zero."""
    found = np.zeros_like(kspace)
    found[..., list(columns)] = kspace[..., list(columns)]
    return found


def test_integrated_lines_belong_to_the_image_too(path):
    kspace = random_kspace(slices=2)
    volume = readers.read_volume(write(path, [one for n in range(2) for one in integrated(kspace[n], number=n)]))
    kept = sorted({*THIRD, *MIDDLE})
    np.testing.assert_array_equal(np.flatnonzero(volume.mask), kept)
    for position in range(2):
        np.testing.assert_array_equal(volume.read_slice(position), only(kspace[position], kept))
        np.testing.assert_array_equal(volume.load_calibration(position), only(kspace[position], MIDDLE))


@pytest.mark.parametrize("flagged", [False, True])
def test_a_separate_scan_is_for_calibration_only(path, flagged):
    """Though lines of the image may be flagged to be for calibration too: the scan has another scale."""
    kspace, reference = random_kspace()[0], 3j * random_kspace(seed=1)[0]
    lines = readouts(reference, columns=MIDDLE, flags=(ALONE,))
    lines += readouts(kspace, columns=THIRD, flags=(SHARED,) if flagged else ())
    volume = readers.read_volume(write(path, lines))
    np.testing.assert_array_equal(np.flatnonzero(volume.mask), THIRD)
    np.testing.assert_array_equal(volume.read_slice(0), only(kspace, THIRD))
    np.testing.assert_array_equal(volume.load_calibration(0), only(reference, MIDDLE))


def test_lines_that_no_line_of_the_image_shares_a_flag_with_are_separate(path):
    """Nothing says that they are of the image's scale, though they lie where the image has no lines."""
    kspace = random_kspace()[0]
    between = [y for y in MIDDLE if y not in THIRD]
    lines = readouts(kspace, columns=THIRD) + readouts(5 * kspace, columns=between, flags=(ALONE,))
    volume = readers.read_volume(write(path, lines))
    np.testing.assert_array_equal(volume.read_slice(0), only(kspace, THIRD))
    np.testing.assert_array_equal(volume.load_calibration(0), only(5 * kspace, between))


def test_lines_of_a_whole_scan_may_be_flagged_for_calibration(path):
    kspace = random_kspace()[0]
    outer = [y for y in range(COLUMNS) if y not in MIDDLE]
    lines = readouts(kspace, columns=outer) + readouts(kspace, columns=MIDDLE, flags=(SHARED,))
    volume = readers.read_volume(write(path, lines))
    assert volume.mask is None
    np.testing.assert_array_equal(volume.load_calibration(0), only(kspace, MIDDLE))


def test_there_is_no_calibration_where_no_line_is_flagged(path):
    assert readers.read_volume(write(path, readouts(random_kspace()[0]))).load_calibration is None


@pytest.mark.parametrize(("samples", "centre"), [(8, 4), (8, 0), (8, 8), (7, 2), (ROWS, 8), (20, 10)])
def test_a_reference_of_another_length_lies_about_its_own_centre(path, samples, centre):
    """A centre sample that cannot be is taken for the middle."""
    kspace = random_kspace()[0]
    reference = np.random.default_rng(2).standard_normal((COILS, samples, COLUMNS)).astype(np.complex64)
    lines = readouts(kspace, columns=THIRD) + readouts(reference, columns=MIDDLE, centre=centre, flags=(ALONE,))
    found = readers.read_volume(write(path, lines)).load_calibration(0)
    middle = centre if 0 < centre < samples else samples // 2
    expected = np.zeros((COILS, 3 * ROWS, COLUMNS), np.complex64)
    first = ROWS + ROWS // 2 - middle
    expected[:, first : first + samples, list(MIDDLE)] = reference[..., list(MIDDLE)]
    np.testing.assert_array_equal(found, expected[:, ROWS : 2 * ROWS])


def test_reversed_and_repeated_reference_lines_are_turned_and_averaged(path):
    kspace, first, second = (random_kspace(seed=seed)[0] for seed in range(3))
    lines = readouts(kspace, columns=THIRD) + readouts(first, columns=MIDDLE, flags=(ALONE,))
    turned = second[:, ::-1]
    lines += readouts(
        turned,
        columns=MIDDLE,
        centre=ROWS // 2 - 1,
        flags=(ALONE, ismrmrd.ACQ_IS_REVERSE),
        counters={"average": 1},
    )
    found = readers.read_volume(write(path, lines)).load_calibration(0)
    np.testing.assert_allclose(found, only((first + second) / 2, MIDDLE), rtol=1e-5, atol=1e-6)


def test_a_slice_without_such_lines_is_a_sentence(path):
    kspace = random_kspace(slices=3)
    lines = [one for n in range(3) for one in readouts(kspace[n], number=n, columns=THIRD)]
    lines += [one for n in (0, 1) for one in readouts(kspace[n], number=n, columns=MIDDLE, flags=(ALONE,))]
    volume = readers.read_volume(write(path, lines))
    np.testing.assert_array_equal(volume.load_calibration(1), only(kspace[1], MIDDLE))
    with pytest.raises(InputError, match=r"scan\.h5: slice 2 has no lines that were acquired for calibration"):
        volume.load_calibration(2)


def test_a_reference_may_have_an_encoding_and_a_count_of_its_own(path):
    """Its own matrix over the same field of view, its lines counted from 0, its centre said by its own limits."""
    kspace, reference = random_kspace()[0], random_kspace(seed=1)[0]
    part = reference[:, 4:12]
    lines = readouts(kspace, columns=THIRD)
    lines += readouts(part, columns=MIDDLE, first=4, centre=4, flags=(ALONE,), encoding_space_ref=1)
    says = document(encoding(), encoding(encoded=(8, 5, 1), image=(8, 5, 1), centre=2))
    found = readers.read_volume(write(path, lines, says)).load_calibration(0)
    expected = only(reference, MIDDLE)
    expected[:, :4] = expected[:, 12:] = 0
    np.testing.assert_array_equal(found, expected)


def test_reference_lines_that_miss_the_centre_are_moved_there(path):
    """They are counted from 0, and nothing says where their centre is; a shift of all coils alike leaves the maps."""
    kspace, reference = random_kspace()[0], random_kspace(seed=1)[0]
    lines = readouts(kspace, columns=THIRD)
    lines += readouts(reference, columns=MIDDLE, first=4, flags=(ALONE,))
    found = readers.read_volume(write(path, lines)).load_calibration(0)
    np.testing.assert_array_equal(found, only(reference, MIDDLE))


@pytest.mark.parametrize(
    ("why", "reference", "how"),
    [
        ("they have another number of coils", np.ones((COILS + 1, ROWS, COLUMNS)), {}),
        ("their field of view is another", np.ones((COILS, ROWS, COLUMNS)), {"encoding_space_ref": 1}),
        (
            "readouts are of encoding 7, its header has 2",
            np.ones((COILS, ROWS, COLUMNS)),
            {"encoding_space_ref": 7},
        ),
        ("they are of other slices", np.ones((COILS, ROWS, COLUMNS)), {"number": 4}),
    ],
)
def test_a_reference_that_does_not_fit_is_left_out_and_said_so(path, why, reference, how):
    lines = readouts(random_kspace()[0], columns=THIRD)
    lines += readouts(reference, columns=MIDDLE, flags=(ALONE,), **how)
    wider = encoding(fields=((300.0, 160.0, 4.0), (300.0, 160.0, 4.0)))
    volume = readers.read_volume(write(path, lines, document(encoding(), wider)))
    assert volume.load_calibration is None
    assert volume.notes == (f"its lines for calibration are left out: {why}",)


def test_repetitions_without_a_reference_of_their_own_share_the_first(path):
    kspace, reference = random_kspace(slices=2), random_kspace(seed=1)[0]
    lines = readouts(reference, columns=MIDDLE, flags=(ALONE,))
    for repetition in range(2):
        lines += readouts(kspace[repetition], columns=THIRD, counters={"repetition": repetition})
    for volume in readers.read_volumes(write(path, lines), Hints(images="volumes")):
        np.testing.assert_array_equal(volume.load_calibration(0), only(reference, MIDDLE))


def test_the_number_of_numbers_of_a_reference_is_checked(path):
    lines = readouts(random_kspace()[0], columns=THIRD) + readouts(random_kspace()[0], columns=MIDDLE, flags=(ALONE,))
    write(path, lines)
    with h5py.File(path, "r+") as file:
        line = file["dataset/data"][5]
        line["data"] = np.ones(6, np.float32)
        file["dataset/data"][5] = line
    with pytest.raises(InputError, match=r"scan\.h5: readout 5 holds 6 numbers"):
        readers.read_volume(path).load_calibration(0)
