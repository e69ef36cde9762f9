"""Reads plain NumPy arrays (``.npy``), whose axes someone has to name: hints beside the file, or the caller's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.data.readers.raw import AXES, Hints, RawVolume, headless, parsing
from recon.errors import InputError

FORMAT = "numpy"
SUFFIXES = (".npy",)
MAGIC = b"\x93NUMPY"


def recognises(path: Path) -> bool:
    """Whether the file begins as NumPy's arrays do."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read(path: Path, hints: Hints) -> RawVolume:
    """Read the shape of a complex array; samples are mapped, not loaded.

    Raises:
        InputError: axes not named, not complex, or not as many axes as named.
    """
    array = _open(path)
    if hints.axes is None:
        raise InputError(
            f"{path}: nothing says which axis is which of {' × '.join(map(str, array.shape))}; give "
            f"--axes 'slices coils rows columns' in the array's order, or {path.name}.json beside it"
        )
    axes = hints.axes
    if array.dtype.kind != "c" or array.ndim != len(axes):
        raise InputError(
            f"{path}: it is {array.ndim}-dimensional {array.dtype}, where complex over {', '.join(axes)} are due"
        )
    sizes = dict(zip(axes, array.shape, strict=True))
    order = [axes.index(name) for name in AXES if name in axes]

    def load(position: int) -> NDArray[np.complex64]:
        ordered = _open(path).transpose(order)
        return np.asarray(ordered[position] if "slices" in axes else ordered, np.complex64)

    return headless(
        path,
        (sizes.get("slices", 1), sizes["coils"], sizes["rows"], sizes["columns"]),
        load,
        hints,
        format=FORMAT,
        name=path.stem,
        task=path.stem,
        files=(path,),
    )


def _open(path: Path) -> NDArray[np.generic]:
    with parsing(path):
        array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
