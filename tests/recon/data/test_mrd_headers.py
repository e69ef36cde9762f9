"""ISMRMRD headers as vendors and converters write them: matrices, fields of view, centres; and hints that overrule."""

import ismrmrd
import numpy as np
import pytest

from recon.data import readers
from recon.data.readers import Hints, header
from recon.errors import InputError
from recon.physics.fourier import fft, ifft
from tests.recon.data.mrdfiles import (
    COILS,
    COLUMNS,
    ROWS,
    document,
    encoding,
    random_kspace,
    readout,
    readouts,
    write,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scan.h5"


def oversampled(times=2, seed=0):
    """k-space (coils, times · ROWS, COLUMNS) of an object in the central ROWS, and its k-space without oversampling."""
    kspace = random_kspace(seed=seed)[0]
    rows = times * ROWS
    image = np.zeros((COILS, rows, COLUMNS), np.complex64)
    first = rows // 2 - ROWS // 2
    image[:, first : first + ROWS] = ifft(kspace, (-2, -1))
    return fft(image, (-2, -1)).astype(np.complex64), kspace


# The readout


@pytest.mark.parametrize("times", [2, 4])
@pytest.mark.parametrize("centre", ["its own", "the base resolution's", 0])
def test_the_encoded_matrix_may_be_the_base_resolution(path, times, centre):
    kspace, _ = oversampled(times)
    sample = {"its own": times * ROWS // 2, "the base resolution's": ROWS // 2, 0: 0}[centre]
    volume = readers.read_volume(write(path, readouts(kspace, centre=sample)))
    assert (volume.rows, volume.image_rows, volume.crop) == (times * ROWS, ROWS, (ROWS, COLUMNS))
    assert volume.notes == (
        f"its readouts belong to {times * ROWS} samples, where encodedSpace says {ROWS}; that counts as its base "
        f"resolution, and {ROWS} rows of the image remain",
    )
    np.testing.assert_array_equal(volume.read_slice(0), kspace)


@pytest.mark.parametrize("begin", [3, 10, 14])
@pytest.mark.parametrize("side", ["begin", "end"])
def test_a_partial_echo_in_base_resolution_is_placed_by_its_centre(path, begin, side):
    kspace, _ = oversampled()
    kept = slice(begin, None) if side == "begin" else slice(None, 2 * ROWS - begin)
    centre = ROWS - (begin if side == "begin" else 0)
    volume = readers.read_volume(write(path, readouts(kspace[:, kept], centre=centre)))
    assert (volume.rows, volume.image_rows) == (2 * ROWS, ROWS)
    expected = np.zeros_like(kspace)
    expected[:, kept] = kspace[:, kept]
    np.testing.assert_array_equal(volume.read_slice(0), expected)


def test_a_field_of_view_may_hold_the_oversampling_that_the_matrix_lacks(path):
    kspace, _ = oversampled()
    volume = readers.read_volume(write(path, readouts(kspace, centre=ROWS), fields=(400.0, 200.0)))
    assert (volume.rows, volume.image_rows, volume.crop) == (2 * ROWS, ROWS, (ROWS, COLUMNS))


def test_the_base_resolution_is_told_without_fields_of_view(path):
    kspace, _ = oversampled()
    volume = readers.read_volume(
        write(path, readouts(kspace, centre=ROWS), document(encoding(fields=((0.0, 0.0, 0.0),) * 2)))
    )
    assert (volume.rows, volume.image_rows) == (2 * ROWS, ROWS)


def test_oversampling_that_a_converter_removed_is_not_removed_again(path):
    """The header still tells of twice the samples and twice the field of view."""
    _, kspace = oversampled()
    one = encoding(encoded=(2 * ROWS, COLUMNS, 1), fields=((400.0, 160.0, 4.0), (200.0, 160.0, 4.0)))
    volume = readers.read_volume(write(path, readouts(kspace), document(one)))
    assert (volume.rows, volume.image_rows) == (ROWS, ROWS)
    assert "that counts as removed already" in volume.notes[0]
    np.testing.assert_array_equal(volume.read_slice(0), kspace)


@pytest.mark.parametrize("samples", [ROWS + 2, ROWS + 8, 2 * ROWS - 6])
def test_readouts_that_are_no_multiple_of_the_encoded_matrix_are_refused(path, samples):
    lines = readouts(np.ones((COILS, samples, COLUMNS)), centre=samples // 2)
    with pytest.raises(InputError, match=r"number_of_samples, center_sample and encodedSpace do not fit"):
        readers.read_volume(write(path, lines))


def test_an_encoded_matrix_far_longer_than_its_readouts_is_refused(path):
    one = encoding(encoded=(5 * ROWS, COLUMNS, 1))
    with pytest.raises(InputError, match=r"scan\.h5: its longest readout has 16 samples, encodedSpace 80; "):
        readers.read_volume(write(path, readouts(random_kspace()[0]), document(one)))


def test_a_reversed_readout_is_placed_by_its_centre(path):
    """Its sample j lies at 8 - j: the first one lies outside, and row 0 stays empty."""
    kspace = random_kspace()[0]
    turned = np.roll(kspace[:, ::-1], 1, axis=1)
    assert np.array_equal(turned[:, ROWS // 2], kspace[:, ROWS // 2])
    odd, even = range(1, COLUMNS, 2), range(0, COLUMNS, 2)
    lines = readouts(kspace, columns=even) + readouts(turned, columns=odd, flags=(ismrmrd.ACQ_IS_REVERSE,))
    expected = kspace.copy()
    expected[:, 0, 1::2] = 0
    np.testing.assert_array_equal(readers.read_volume(write(path, lines)).read_slice(0), expected)


def test_a_reversed_partial_echo_may_begin_one_sample_outside(path):
    kspace = random_kspace()[0]
    # Samples at 8, 7 … -3 from the centre.
    part = np.concatenate([kspace[:, :1], kspace[:, :4:-1]], axis=1)
    volume = readers.read_volume(write(path, readouts(part, centre=ROWS // 2, flags=(ismrmrd.ACQ_IS_REVERSE,))))
    expected = kspace.copy()
    expected[:, :5] = 0
    np.testing.assert_array_equal(volume.read_slice(0), expected)


@pytest.mark.parametrize(("centre", "shift"), [(7, 1), (9, -1), (10, -2), (0, 0), (3, 0), (15, 0)])
def test_a_whole_readout_is_placed_by_its_centre_unless_that_is_far_away(path, centre, shift):
    kspace = random_kspace()[0]
    expected = np.zeros_like(kspace)
    if shift >= 0:
        expected[:, shift:] = kspace[:, : ROWS - shift]
    else:
        expected[:, :shift] = kspace[:, -shift:]
    volume = readers.read_volume(write(path, readouts(kspace, centre=centre)))
    np.testing.assert_array_equal(volume.read_slice(0), expected)


# Lines


@pytest.mark.parametrize("first", [1, -1, 2])
def test_lines_beyond_the_encoded_matrix_widen_it_about_its_centre(path, first):
    kspace = random_kspace()[0]
    volume = readers.read_volume(write(path, readouts(kspace), centre=COLUMNS // 2 - first))
    wide, extra = COLUMNS + 2 * abs(first), abs(first)
    left = extra + first
    assert (volume.columns, volume.pad_left, volume.pad_right) == (wide, left, wide - COLUMNS - left)
    assert volume.notes[0].startswith(
        f"its lines of phase encoding 1 reach beyond the encoded 12: k-space is widened to {wide}"
    )
    np.testing.assert_array_equal(volume.read_slice(0)[..., left : left + COLUMNS], kspace)
    # The centre step lies at the middle, and the field of view is the header's.
    assert left + COLUMNS // 2 - first == wide // 2
    assert volume.crop[1] == wide


def test_lines_far_beyond_the_encoded_matrix_are_refused(path):
    lines = [*readouts(random_kspace()[0]), readout(np.ones((COILS, ROWS)), 60)]
    with pytest.raises(InputError, match=r"scan\.h5: its lines lie at columns 0 to 60 of 12; .* do not fit"):
        readers.read_volume(write(path, lines))


def test_a_centre_far_beyond_the_lines_is_refused(path):
    with pytest.raises(InputError, match=r"scan\.h5: its lines lie at columns -34 to -23 of 12; .* do not fit"):
        readers.read_volume(write(path, readouts(random_kspace()[0]), centre=40))


def test_lines_beyond_the_encoded_matrix_are_refused_where_their_centre_is_not_known(path):
    with pytest.raises(InputError, match=r"scan\.h5: its lines lie at columns 1 to 12 of 12; .* do not fit"):
        readers.read_volume(write(path, readouts(random_kspace()[0], first=-1), centre=None))


# The crop


@pytest.mark.parametrize(
    ("matrix", "fov", "crop"),
    [
        # The matrix is what the fields of view say, or nearly.
        ((ROWS, COLUMNS), (200.0, 160.0), (ROWS, COLUMNS)),
        # Interpolated to twice as many pixels, over the same field of view or a smaller one.
        ((2 * ROWS, 2 * COLUMNS), (200.0, 160.0), (ROWS, COLUMNS)),
        ((2 * ROWS, 2 * COLUMNS), (100.0, 80.0), (ROWS // 2, COLUMNS // 2)),
        # The same field of view, and a smaller matrix: a header that does not count the oversampling in its fields.
        ((10, 8), (200.0, 160.0), (10, 8)),
        ((4, 3), (100.0, 80.0), (ROWS // 2, COLUMNS // 2)),
    ],
)
def test_the_crop_follows_the_fields_of_view(path, matrix, fov, crop):
    one = encoding(image=(*matrix, 1), fields=((200.0, 160.0, 4.0), (*fov, 4.0)))
    volume = readers.read_volume(write(path, readouts(random_kspace()[0]), document(one)))
    assert volume.crop == crop


def test_a_knee_of_fastmri_keeps_its_matrix():
    """Matrices and fields of view of a file of the data set: 319.9 columns by the fields of view."""
    one = encoding(
        encoded=(640, 372, 1), image=(320, 320, 1), fields=((280.0, 162.818, 4.5), (140.0, 140.0, 4.5)), centre=160
    )
    assert header.image_rows(one, 640) == 320
    assert header.crop(one, 320, 372) == (320, 320)
    assert header.crop(one, 320, 368) == (320, 320)


# Hints


def test_hints_overrule_the_header(path):
    write(path, readouts(random_kspace()[0]), protocol="CORPD_FBK", fields=(400.0, 200.0))
    hints = Hints(oversampling=4, crop=(3, 99), task="T1", patient="P1")
    volume = readers.read_volume(path, hints)
    assert (volume.image_rows, volume.crop, volume.task, volume.patient) == (4, (3, COLUMNS), "T1", "P1")
    assert volume.acquisition == "CORPD_FBK"


def test_the_crop_is_no_larger_than_what_hints_leave_of_the_image(path):
    volume = readers.read_volume(write(path, readouts(random_kspace()[0])), Hints(oversampling=2))
    assert (volume.image_rows, volume.crop) == (ROWS // 2, (ROWS // 2, COLUMNS))


@pytest.mark.parametrize(("padding", "first"), [((3, 0), 3), ((1, 2), 1), ((4, 4), 4)])
def test_a_hint_of_padding_says_where_the_lines_lie(path, padding, first):
    """The header's centre line is off, say: 9 lines were acquired, and the hint says how many there are beside."""
    kspace = random_kspace()[0]
    write(path, readouts(kspace, columns=range(9)), centre=2)
    volume = readers.read_volume(path, Hints(padding=padding))
    assert (volume.columns, volume.pad_left, volume.pad_right) == (9 + sum(padding), *padding)
    np.testing.assert_array_equal(volume.read_slice(0)[..., first : first + 9], kspace[..., :9])
