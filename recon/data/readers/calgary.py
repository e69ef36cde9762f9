"""Reads Calgary-Campinas' raw data (Souza et al. 2018): ``kspace`` (slices, ky, kz, 2 · coils) of T1-weighted brains.

Real and imaginary parts of the coils take turns along the last axis, and slices are in image space. A plain
``numpy.fft.ifft2`` without shifts puts the image in its place, though the centre of k-space is in the middle: samples
differ from centred ones by a phase that changes its sign from one to the next.
"""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.data.readers.raw import Hints, RawVolume, headless, parsing
from recon.errors import InputError

FORMAT = "calgary-campinas"
SUFFIXES = (".h5", ".hdf5")

TASK = "T1w"
EXAM = re.compile(r"(e\d+)s\d+_.*")
"""The scanner's names of files: ``e14089s3_P53248.7`` is series 3 of exam 14089."""
ACQUIRED = 0.85
"""Part of kz that is acquired, from the first column on."""
LEFT_OUT = 0.1
"""Columns behind those are taken as never acquired if their energy is below this part of their mirror images'."""


def recognises(path: Path) -> bool:
    """Whether the file is HDF5 with real numbers over four axes as k-space, an even number along the last."""
    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            found = file.get("kspace")
            return (
                isinstance(found, h5py.Dataset)
                and "ismrmrd_header" not in file
                and found.ndim == 4
                and found.dtype.kind == "f"
                and found.shape[-1] % 2 == 0
            )
    except OSError:
        return False


def read(path: Path, hints: Hints) -> RawVolume:
    """Read the shape of k-space and its middle slice; volumes of an exam are one patient's.

    Raises:
        InputError: naming the file, where it is damaged or empty.
    """
    with parsing(path), h5py.File(path, "r") as file:
        shape = tuple(int(n) for n in file["kspace"].shape)
    if 0 in shape:
        raise InputError(f"{path}: kspace is empty, its shape is {shape}")
    slices, rows, columns, numbers = shape
    phase = np.multiply.outer(_phase(rows), _phase(columns)).astype(np.complex64)

    def load(position: int) -> NDArray[np.complex64]:
        with h5py.File(path, "r") as file:
            one = np.asarray(file["kspace"][position], np.float32)
        with np.errstate(invalid="ignore"):
            return np.moveaxis(one[..., ::2] + 1j * one[..., 1::2], -1, 0) * phase

    acquired = int(np.ceil(ACQUIRED * columns))
    with parsing(path):
        middle = load(slices // 2)
    # Numbers that are not finite are found later, slice by slice.
    energy = (np.nan_to_num(np.abs(middle), posinf=0) ** 2).sum((0, 1), dtype=np.float64)
    # Column c mirrors column 2 · (columns // 2) − c about the centre.
    mirrored = energy[[2 * (columns // 2) - column for column in range(acquired, columns)]]
    left_out = energy[acquired:].sum() < LEFT_OUT * mirrored.sum()
    exam = EXAM.fullmatch(path.stem)
    return headless(
        path,
        (slices, numbers // 2, rows, columns),
        load,
        hints,
        format=FORMAT,
        name=path.stem,
        task=TASK,
        files=(path,),
        padding=(0, columns - acquired) if left_out else None,
        patient=exam[1] if exam else None,
        phase_encodings=2,
    )


def _phase(size: int) -> NDArray[np.complex128]:
    """What turns samples whose plain transform is in place into centred ones: exp(2πi c (k − c) / n), c = n // 2."""
    centre = size // 2
    return np.exp(2j * np.pi * ((centre * (np.arange(size) - centre)) % size) / size)
