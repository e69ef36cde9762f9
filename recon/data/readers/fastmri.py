"""Reads fastMRI's HDF5 layout: ``kspace`` (slices, coils, rows, columns), ``ismrmrd_header`` (XML) and attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.data.readers import drawn, header
from recon.data.readers.raw import Hints, RawVolume, parsing, usual_task
from recon.errors import InputError

FORMAT = "fastmri"
SUFFIXES = (".h5", ".hdf5")


def recognises(path: Path) -> bool:
    """Whether the file is HDF5 with fastMRI's k-space and header in it."""
    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return "kspace" in file and "ismrmrd_header" in file
    except OSError:
        # A truncated file has an intact signature but cannot be opened.
        return False


def read(path: Path, hints: Hints) -> RawVolume:
    """Read the header of a fastMRI file; its header says more than hints do.

    Padding is fastMRI's: left = encoded columns // 2 − centre line, and left + maximum + 1 is the first column of the
    right padding. The readout oversampling is the ratio of the encoded to the reconstructed field of view. Files of
    fastMRI's test split carry the ``mask`` of the columns that were kept.

    Raises:
        InputError: naming the file and the field that is missing or does not fit.
    """
    with parsing(path), h5py.File(path, "r") as file:
        kspace = file["kspace"]
        whole = isinstance(kspace, h5py.Dataset)
        shape = tuple(int(n) for n in kspace.shape) if whole else ()
        kind = kspace.dtype if whole else None
        document = file["ismrmrd_header"][()]
        attributes = dict(file.attrs)
        noise = file[drawn.NAME][()] if drawn.NAME in file else None
        mask = np.asarray(file["mask"]).astype(bool).reshape(-1) if "mask" in file else None
    if len(shape) != 4 or kind is None or kind.kind != "c":
        found = f"{shape} of {kind}" if whole else "a group"
        raise InputError(f"{path}: kspace is {found}; multi-coil k-space is complex, (slices, coils, rows, columns)")
    if 0 in shape:
        raise InputError(f"{path}: kspace is empty, its shape is {shape}")
    slices, coils, rows, columns = shape
    encoding = header.parse(path, document).encoding[0]
    pad_left, pad_right = _padding(path, encoding, columns)
    recon = encoding.reconSpace.matrixSize
    image_rows = header.image_rows(encoding, rows)
    if mask is not None and mask.size != columns:
        raise InputError(f"{path}: mask has {mask.size} columns, k-space has {columns}")
    acquisition = _text(attributes.get("acquisition")) or "unnamed"

    def load(position: int) -> NDArray[np.complex64]:
        with h5py.File(path, "r") as file:
            return np.asarray(file["kspace"][position], np.complex64)

    return RawVolume(
        path=path,
        name=path.stem,
        format=FORMAT,
        acquisition=acquisition,
        task=usual_task(acquisition),
        # A file without a patient is a patient of its own.
        patient=_text(attributes.get("patient_id")) or path.stem,
        slices=slices,
        coils=coils,
        rows=rows,
        columns=columns,
        image_rows=image_rows,
        pad_left=pad_left,
        pad_right=pad_right,
        crop=(min(recon.x, image_rows), min(recon.y, columns)),
        mask=mask,
        load=load,
        files=(path,),
        simulated_noise=drawn.parse(path, noise),
    )


def _padding(path: Path, encoding: Any, columns: int) -> tuple[int, int]:
    limits = encoding.encodingLimits and encoding.encodingLimits.kspace_encoding_step_1
    if limits is None:
        return 0, 0
    left = header.first_column(path, encoding)
    acquired = limits.maximum + 1
    if left < 0 or left + acquired > columns:
        raise InputError(
            f"{path}: ismrmrd_header puts lines {left} to {left + acquired} into k-space of {columns} columns; "
            "kspace_encoding_step_1 and encodedSpace do not fit"
        )
    return left, columns - left - acquired


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else "" if value is None else str(value)
