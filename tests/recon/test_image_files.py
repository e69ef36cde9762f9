"""Images on disk; nibabel and Pillow are the oracles."""

import re

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from recon.data.readers.raw import Geometry
from recon.errors import InputError
from recon.image_files import Images, affine, format_of, target_of, write_images

VOXEL = (0.7, 1.1, 4.5)
CENTRE = np.array([12.0, -31.0, 205.5])


def oblique(seed=0, left_handed=False):
    """Three orthonormal directions, none along an axis."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    if (np.linalg.det(q) < 0) != left_handed:
        q[:, 2] *= -1
    return q


def images(geometry, shape=(3, 6, 5), whole=(9, 8)):
    values = np.random.default_rng(1).random(shape, np.float32)
    return Images(values, whole, geometry, {"task": "PDw", "lines": 3})


def place(geometry, whole, slices, row, column, number):
    """Of a voxel of the whole volume, in mm to the left, posterior and superior: counted from the volume's middle."""
    steps = np.array([row, column, number]) - (np.array([*whole, slices]) - 1) / 2
    return geometry.centre + sum(
        step * size * direction
        for step, size, direction in zip(steps, geometry.voxel_mm, geometry.directions, strict=True)
    )


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize(("whole", "cut"), [((9, 8), (6, 5)), ((8, 9), (5, 4)), ((6, 5), (6, 5))], ids=str)
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_nifti_puts_each_voxel_where_it_lies(whole, cut, left_handed, ending, tmp_path):
    geometry = Geometry(VOXEL, oblique(left_handed=left_handed), CENTRE)
    # Whole images whose voxels are all different, cut as images are: about sample n // 2.
    full = np.arange(3 * whole[0] * whole[1], dtype=np.float32).reshape(3, *whole)
    top, left = (n // 2 - m // 2 for n, m in zip(whole, cut, strict=True))
    values = full[:, top : top + cut[0], left : left + cut[1]]
    path = tmp_path / f"made.{ending}"
    assert write_images(path, "nifti", Images(values, whole, geometry, {"task": "PDw"})) == ()
    read = nibabel.load(path)
    assert read.get_data_dtype() == np.float32
    assert read.shape == (cut[1], cut[0], 3)
    np.testing.assert_allclose(read.header.get_zooms(), (1.1, 0.7, 4.5), rtol=1e-6)
    assert read.header.get_xyzt_units()[0] == "mm"
    for of_header, code in (read.get_qform(coded=True), read.get_sform(coded=True)):
        assert code == 1
        for index in np.ndindex(read.shape):
            value = int(read.dataobj[index])
            slice_, row, column = np.unravel_index(value, full.shape)
            expected = place(geometry, whole, 3, row, column, slice_) * [-1, -1, 1]
            np.testing.assert_allclose(nibabel.affines.apply_affine(of_header, index), expected, atol=1e-3)


def test_a_coronal_scan_has_its_axes_named_as_they_point():
    """Rows run to the feet, columns to the left, slices to the back: nibabel names the axes of an image by its ends."""
    directions = np.array([[0, 0, -1.0], [1, 0, 0], [0, 1, 0]])
    matrix = affine(images(Geometry(VOXEL, directions, CENTRE)))
    assert nibabel.aff2axcodes(matrix) == ("L", "I", "P")


@pytest.mark.parametrize(
    ("geometry", "zooms", "said"),
    [
        (None, (1, 1, 1), "nor the size of a voxel"),
        (Geometry(VOXEL), (1.1, 0.7, 4.5), "does not say where it lies in the patient$"),
        (Geometry(VOXEL, oblique()), (1.1, 0.7, 4.5), "does not say where it lies in the patient$"),
    ],
    ids=["nothing", "voxels", "no centre"],
)
def test_nifti_claims_no_place_that_is_not_known(geometry, zooms, said, tmp_path):
    made = images(geometry)
    (note,) = write_images(tmp_path / "made.nii", "nifti", made)
    assert re.search(said, note)
    read = nibabel.load(tmp_path / "made.nii")
    assert (int(read.header["qform_code"]), int(read.header["sform_code"])) == (0, 0)
    np.testing.assert_allclose(read.header.get_zooms(), zooms, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(read.dataobj).transpose(2, 1, 0), made.values)


def test_the_same_images_give_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_images(tmp_path / name, "nifti", images(Geometry(VOXEL, oblique(), CENTRE)))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_png_shows_the_slices_row_by_row_from_black_to_white(tmp_path):
    values = np.zeros((5, 4, 6), np.float32)
    values[:] = np.arange(5)[:, None, None]
    values[0, 0, 1] = 1000.0  # one bright voxel of 120 does not darken the others
    write_images(tmp_path / "sheet.png", "png", Images(values, (4, 6), None, {}))
    with Image.open(tmp_path / "sheet.png") as file:
        sheet = np.asarray(file.convert("L")).astype(int)
    assert sheet.shape == (2 * 4, 3 * 6)
    tiles = sheet.reshape(2, 4, 3, 6).swapaxes(1, 2).reshape(6, 4, 6)
    assert tiles[0, 0, 1] == 255
    top = np.percentile(values, 99.5)
    for tile, value in zip(tiles[1:5], (1, 2, 3, 4), strict=True):
        assert np.abs(tile - min(255, 255 * value / top)).max() <= 1
    assert (tiles[5] == 0).all()


def test_hdf5_holds_the_images_and_what_made_them(tmp_path):
    made = images(None)
    write_images(tmp_path / "made.h5", "fastmri", made)
    with h5py.File(tmp_path / "made.h5") as file:
        np.testing.assert_array_equal(file["reconstruction"], made.values)
        assert dict(file.attrs) == {"task": "PDw", "lines": 3}


def test_endings_and_the_format_that_is_asked_for_agree(tmp_path):
    assert format_of(tmp_path / "A.NII.GZ") == format_of(tmp_path / "a.b.nii") == "nifti"
    assert target_of(tmp_path, "one", None) == (tmp_path / "one.h5", "fastmri")
    assert target_of(tmp_path / "new", "one", "nifti") == (tmp_path / "new" / "one.nii.gz", "nifti")
    assert target_of(tmp_path / "x.png", "one", None) == (tmp_path / "x.png", "png")
    with pytest.raises(InputError, match=r"x\.png ends like a file of the format png, .* to be nifti"):
        target_of(tmp_path / "x.png", "one", "nifti")
    with pytest.raises(InputError, match=r"x\.dcm ends like no file of images \(\.h5, .* \.png\)"):
        target_of(tmp_path / "x.dcm", "one", None)
