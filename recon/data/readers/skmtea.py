"""Reads SKM-TEA (Desai et al. 2021): ``kspace`` (x, ky, kz, echoes, coils) of a knee, already in image space along x.

``maps`` (x, ky, kz, coils, sets) come with it. The transforms of the two others are centred.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.data.readers.raw import Hints, RawVolume, headless, parsing
from recon.errors import InputError

FORMAT = "skm-tea"
SUFFIXES = (".h5", ".hdf5")


def recognises(path: Path) -> bool:
    """Whether the file is HDF5 with k-space of five axes and no header."""
    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            kspace = file.get("kspace")
            return isinstance(kspace, h5py.Dataset) and kspace.ndim == 5 and "ismrmrd_header" not in file
    except OSError:
        return False


def read_all(path: Path, hints: Hints) -> tuple[RawVolume, ...]:
    """Read the shape of k-space; each echo is a volume of its own, ``echo1`` and ``echo2`` are the tasks.

    Slices lie along x, rows along ky and columns along kz. Zeros at the edges are padding.

    Raises:
        InputError: naming the file and the array that does not fit.
    """
    with parsing(path), h5py.File(path, "r") as file:
        shape = tuple(int(n) for n in file["kspace"].shape)
        kind = file["kspace"].dtype
        maps = file.get("maps")
        of_maps = tuple(int(n) for n in maps.shape) if isinstance(maps, h5py.Dataset) else None
    if kind.kind != "c" or 0 in shape:
        raise InputError(
            f"{path}: kspace is {shape} of {kind}; complex samples over x, ky, kz, echoes and coils are expected"
        )
    slices, rows, columns, echoes, coils = shape
    due = (slices, rows, columns, coils)
    if of_maps is not None and (of_maps[:4] != due or len(of_maps) != 5):
        raise InputError(f"{path}: maps are {of_maps}, where {due} and a number of sets are due")

    def load_maps(position: int) -> NDArray[np.complex64]:
        with h5py.File(path, "r") as file:
            return np.asarray(file["maps"][position, :, :, :, 0], np.complex64).transpose(2, 0, 1)

    def volume(echo: int) -> RawVolume:
        def load(position: int) -> NDArray[np.complex64]:
            with h5py.File(path, "r") as file:
                return np.asarray(file["kspace"][position, :, :, echo], np.complex64).transpose(2, 0, 1)

        task = f"echo{echo + 1}"
        return headless(
            path,
            (slices, coils, rows, columns),
            load,
            hints.model_copy(update={"task": f"{hints.task}-{task}" if hints.task else None}),
            format=FORMAT,
            name=f"{path.stem}_{task}",
            task=task,
            files=(path,),
            load_maps=load_maps if of_maps else None,
            patient=path.stem,
            phase_encodings=2,
        )

    return tuple(volume(echo) for echo in range(echoes))
