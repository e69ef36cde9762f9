"""Where ISMRMRD volumes lie in the patient. Samples are placed by a point of the object whose position is known."""

import numpy as np
import pytest

from recon.data import readers
from recon.physics.fourier import ifft
from tests.recon.data.mrdfiles import COILS, document, encoding, random_kspace, readout, readouts, write

# Columns: readout, phase encoding and slice of an oblique scan.
OBLIQUE = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0].T
MIDDLE = np.array([12.5, -30.0, 71.0])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scan.h5"


def stack(path, positions, *, axes=OBLIQUE, encoded=(16, 12, 1), fields=None, order=None):
    """A file with a slice at each position."""
    fields = fields or ((200.0, 180.0, 5.0), (200.0, 180.0, 5.0))
    kspace = random_kspace(slices=len(positions))
    lines = []
    for number in order or range(len(positions)):
        for line in readouts(kspace[number], number=number, axes=axes, position=None):
            line.position[:] = positions[number]
            lines.append(line)
    image = (round(encoded[0] * fields[1][0] / fields[0][0]), 12, 1)
    return readers.read_volume(write(path, lines, document(encoding(encoded=encoded, image=image, fields=fields))))


def place(geometry, shape, index):
    """Where a sample (row, column, slice) lies, by the geometry's definition."""
    from_middle = (np.asarray(index) - (np.asarray(shape) - 1) / 2) * geometry.voxel_mm
    return geometry.centre + from_middle @ geometry.directions


def test_a_stack_lies_where_its_positions_say(path):
    """Sample n // 2 of rows and columns lies at a slice's position: the transform has its origin there."""
    positions = [MIDDLE + number * 6.5 * OBLIQUE[2] for number in range(4)]
    volume = stack(path, positions)
    found = volume.geometry
    np.testing.assert_allclose(found.voxel_mm, (200 / 16, 180 / 12, 6.5), rtol=1e-5)
    np.testing.assert_allclose(found.directions, OBLIQUE, atol=1e-6)
    for number in range(4):
        where = place(found, (volume.image_rows, volume.columns, 4), (8, 6, number))
        np.testing.assert_allclose(where, positions[number], atol=1e-4)


def test_slices_that_come_in_any_order_grow_along_the_slice_direction(path):
    positions = [MIDDLE - number * 4 * OBLIQUE[2] for number in (2, 0, 3, 1)]
    found = stack(path, positions, order=[3, 0, 1, 2]).geometry
    assert found.voxel_mm[2] == pytest.approx(4, rel=1e-5)
    np.testing.assert_allclose(place(found, (16, 12, 4), (8, 6, 0)), MIDDLE - 12 * OBLIQUE[2], atol=1e-4)


def test_the_readout_oversampling_does_not_change_the_voxel(path):
    volume = stack(path, [MIDDLE], fields=((400.0, 180.0, 5.0), (200.0, 180.0, 5.0)))
    assert volume.image_rows == 8
    np.testing.assert_allclose(volume.geometry.voxel_mm, (25, 15, 5))
    np.testing.assert_allclose(place(volume.geometry, (8, 12, 1), (4, 6, 0)), MIDDLE, atol=1e-4)


def test_base_resolution_gives_the_voxel_of_the_encoded_matrix(path):
    volume = stack(path, [MIDDLE], encoded=(8, 12, 1))
    assert (volume.rows, volume.image_rows) == (16, 8)
    np.testing.assert_allclose(volume.geometry.voxel_mm, (25, 15, 5))


def test_one_slice_is_as_thick_as_the_header_says(path):
    assert stack(path, [MIDDLE]).geometry.voxel_mm[2] == 5


@pytest.mark.parametrize("axes", [np.zeros((3, 3)), np.ones((3, 3)), 2 * np.eye(3), np.full((3, 3), np.nan)])
def test_directions_that_are_none_are_not_given(path, axes):
    found = stack(path, [MIDDLE, MIDDLE + 3], axes=axes).geometry
    assert found.directions is None
    assert found.centre is None
    np.testing.assert_allclose(found.voxel_mm[:2], (12.5, 15))


def test_a_stack_whose_positions_were_left_out_has_no_centre(path):
    found = stack(path, [np.zeros(3), np.zeros(3)]).geometry
    np.testing.assert_allclose(found.directions, OBLIQUE, atol=1e-6)
    assert (found.centre, found.voxel_mm[2]) == (None, 5)


def test_slices_of_several_orientations_have_no_direction_and_a_note(path):
    """A localiser."""
    kspace, lines = random_kspace(slices=3), []
    for number in range(3):
        axes = np.roll(np.eye(3), number, axis=0)
        lines += readouts(kspace[number], number=number, axes=axes)
    volume = readers.read_volume(write(path, lines))
    assert volume.geometry.directions is None
    assert volume.notes == ("its slices do not have the same orientation; they are taken in the order of counting",)
    for position in range(3):
        np.testing.assert_array_equal(volume.read_slice(position), kspace[position])


def test_without_fields_of_view_there_is_no_geometry(path):
    assert stack(path, [MIDDLE], fields=((0.1, 0.0, 0.0), (0.1, 0.0, 0.0))).geometry is None


def test_a_point_of_a_slab_lies_where_its_phases_say(path):
    """Slices grow along the readout, rows along the phase encoding, columns along the slice direction."""
    size, field = np.array([16, 10, 6]), np.array([320.0, 200.0, 90.0])
    voxel = field / size
    # From the middle, along readout, phase encoding and slice.
    shift = np.array([-2, 3, 1])
    steps = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in size), indexing="ij"), axis=-1)
    kspace = np.exp(-2j * np.pi * (steps / size) @ shift).astype(np.complex64)
    lines = [
        readout(
            np.broadcast_to(kspace[:, y, z], (COILS, 16)),
            y,
            axes=OBLIQUE,
            counters={"kspace_encode_step_2": z},
        )
        for y in range(10)
        for z in range(6)
    ]
    for line in lines:
        line.position[:] = MIDDLE
    one = encoding(
        encoded=(16, 10, 6),
        image=(8, 10, 6),
        fields=(tuple(field.tolist()), (160.0, 200.0, 90.0)),
        centre=5,
        second=3,
    )
    volume = readers.read_volume(write(path, lines, document(one)))
    image = np.stack([np.abs(ifft(volume.read_slice(s)[0], (-2, -1))) for s in range(volume.slices)], axis=-1)
    found = np.unravel_index(image.argmax(), image.shape)
    assert image.shape == (10, 6, 8)
    np.testing.assert_allclose(volume.geometry.voxel_mm, voxel[[1, 2, 0]], rtol=1e-5)
    where = MIDDLE + (shift * voxel) @ OBLIQUE
    np.testing.assert_allclose(place(volume.geometry, image.shape, found), where, atol=1e-3)


def test_a_point_of_a_stack_lies_where_its_phases_say(path):
    shift = np.array([5, -4])
    rows, columns = np.mgrid[-8:8, -6:6]
    kspace = np.exp(-2j * np.pi * (rows * shift[0] / 16 + columns * shift[1] / 12)).astype(np.complex64)
    lines = readouts(np.broadcast_to(kspace, (COILS, 16, 12)), axes=OBLIQUE)
    for line in lines:
        line.position[:] = MIDDLE
    one = encoding(fields=((200.0, 180.0, 5.0), (200.0, 180.0, 5.0)))
    volume = readers.read_volume(write(path, lines, document(one)))
    image = np.abs(ifft(volume.read_slice(0)[0], (-2, -1)))[..., None]
    where = MIDDLE + (shift * np.array([200 / 16, 180 / 12])) @ OBLIQUE[:2]
    found = np.unravel_index(image.argmax(), image.shape)
    np.testing.assert_allclose(place(volume.geometry, image.shape, found), where, atol=1e-3)
