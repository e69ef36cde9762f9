"""Writes the magnitude images of a volume: fastMRI's HDF5, NIfTI with the place in the patient, or PNG to look at."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import matplotlib.image
import numpy as np
from numpy.typing import NDArray

from recon.data.readers.raw import Geometry
from recon.errors import InputError
from recon.files import replace_file

ImageFormat = Literal["fastmri", "nifti", "png"]
ENDINGS: dict[ImageFormat, tuple[str, ...]] = {
    "fastmri": (".h5", ".hdf5"),
    "nifti": (".nii.gz", ".nii"),
    "png": (".png",),
}
"""Endings of each format's files; the first is the usual one."""
WINDOW_PERCENT = 99.5
"""Magnitudes from 0 to this percentile of the volume become black to white."""


@dataclass(frozen=True)
class Images:
    """The magnitude images of a volume.

    Attributes:
        values: (slices, rows, columns), a region about the centre of the whole images.
        whole: (rows, columns) of the whole images.
        geometry: where the whole volume lies, as far as it is known.
        about: what made them, for the formats that can hold it.
    """

    values: NDArray[np.float32]
    whole: tuple[int, int]
    geometry: Geometry | None
    about: Mapping[str, Any]


def format_of(path: Path) -> ImageFormat | None:
    """The format that a file's ending stands for; None for any other ending."""
    for one in get_args(ImageFormat):
        if path.name.lower().endswith(ENDINGS[one]):
            return one
    return None


def target_of(out: Path, name: str, format: ImageFormat | None) -> tuple[Path, ImageFormat]:
    """The file to write, and its format.

    Args:
        out: a file, or a folder that gets a file of the volume's name; a name without ending is a folder.
        name: of the volume.
        format: None: what the ending of ``out`` says, and fastMRI's for a folder.

    Raises:
        InputError: an ending that is no format's, or another format's.
    """
    if out.is_dir() or not out.suffix:
        chosen = format or "fastmri"
        return out / f"{name}{ENDINGS[chosen][0]}", chosen
    ending = format_of(out)
    if ending is None:
        known = ", ".join(one for endings in ENDINGS.values() for one in endings)
        raise InputError(f"{out} ends like no file of images ({known}); a folder's name has no ending")
    if format not in (None, ending):
        raise InputError(f"{out} ends like a file of the format {ending}, and the format is to be {format}")
    return out, ending


def write_images(path: Path, format: ImageFormat, images: Images) -> tuple[str, ...]:
    """Write a volume's images whole or not at all; returns sentences on what the file lacks."""
    with replace_file(path) as fresh:
        if format == "fastmri":
            return _write_hdf5(fresh, images)
        if format == "nifti":
            return _write_nifti(fresh, images, compress=path.name.lower().endswith(".gz"))
        return _write_png(fresh, images)


def _write_hdf5(path: Path, images: Images) -> tuple[str, ...]:
    with h5py.File(path, "w") as file:
        file["reconstruction"] = images.values
        file.attrs.update(images.about)
    return ()


def _write_png(path: Path, images: Images) -> tuple[str, ...]:
    """All slices on one sheet, row by row from the upper left, each pixel a pixel."""
    slices, rows, columns = images.values.shape
    across = math.ceil(math.sqrt(slices))
    down = math.ceil(slices / across)
    sheet = np.zeros((down, across, rows, columns), np.float32)
    sheet.reshape(-1, rows, columns)[:slices] = images.values
    top = float(np.percentile(images.values, WINDOW_PERCENT)) or 1.0
    whole = sheet.swapaxes(1, 2).reshape(down * rows, across * columns)
    matplotlib.image.imsave(path, whole, cmap="gray", vmin=0, vmax=top, format="png")
    return ()


def _write_nifti(path: Path, images: Images, compress: bool) -> tuple[str, ...]:
    """NIfTI-1: first axis columns, then rows, then slices, as converters from DICOM have it."""
    # It takes a while to import, and other formats need none of it.
    import nibabel

    matrix = affine(images)
    image = nibabel.Nifti1Image(np.ascontiguousarray(images.values.transpose(2, 1, 0), np.float32), matrix)
    head = image.header
    head.set_xyzt_units("mm")
    head["descrip"] = f"splitpoint, task {images.about.get('task', '')}".encode()[:79]
    notes: tuple[str, ...] = ()
    if matrix is None:
        voxel = images.geometry.voxel_mm if images.geometry else (1.0, 1.0, 1.0)
        head.set_zooms((voxel[1], voxel[0], voxel[2]))
        known = "" if images.geometry else ", nor the size of a voxel, which is set to 1 mm"
        notes = (f"the raw file does not say where it lies in the patient{known}",)
    else:
        # 1: the scanner's coordinates.
        image.set_qform(matrix, code=1)
        image.set_sform(matrix, code=1)
    content = image.to_bytes()
    path.write_bytes(gzip.compress(content, mtime=0) if compress else content)
    return notes


def affine(images: Images) -> NDArray[np.float64] | None:
    """From (column, row, slice) of the images to NIfTI's coordinates (right, anterior, superior) in mm, (4, 4).

    None where the place of the volume is not known. A ``Geometry`` is of the whole images, and in DICOM's coordinates
    (left, posterior, superior); a region begins at n // 2 − m // 2 of n rows or columns.
    """
    geometry = images.geometry
    if geometry is None or geometry.directions is None or geometry.centre is None:
        return None
    slices, rows, columns = images.values.shape
    first = np.array([whole // 2 - part // 2 for whole, part in zip(images.whole, (rows, columns), strict=True)] + [0])
    middle = (np.array([*images.whole, slices]) - 1) / 2
    # Columns of it: one step along the rows, the columns and the slices, in DICOM's coordinates.
    steps = (np.asarray(geometry.directions) * np.asarray(geometry.voxel_mm)[:, None]).T
    matrix = np.eye(4)
    matrix[:3, :3] = steps[:, [1, 0, 2]]
    matrix[:3, 3] = geometry.centre + steps @ (first - middle)
    matrix[:2] *= -1
    return matrix
