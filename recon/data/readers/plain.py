"""Reads plain NumPy arrays (``.npy``), whose axes someone has to name: hints beside the file, or the caller's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.data.readers.hybrid import Scan, slices_of
from recon.data.readers.raw import AXES, Hints, RawVolume, check_shape, headless, parsing
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
            f"--axes 'slices coils rows columns' in the array's order (three-dimensional: readout for slices), or "
            f"{path.name}.json beside it"
        )
    axes = hints.axes
    if array.dtype.kind != "c" or array.ndim != len(axes):
        raise InputError(
            f"{path}: it is {array.ndim}-dimensional {array.dtype}, where complex over {', '.join(axes)} are due"
        )
    sizes = dict(zip(axes, array.shape, strict=True))
    names = ("readout", *AXES) if "readout" in axes else AXES
    order = [axes.index(name) for name in names if name in axes]
    slices, coils, rows, columns = (sizes.get(name, 1) for name in AXES)

    def ordered() -> NDArray[np.generic]:
        return _open(path).transpose(order)

    def load(position: int) -> NDArray[np.complex64]:
        return np.asarray(ordered()[position] if "slices" in axes else ordered(), np.complex64)

    if "readout" in axes:
        check_shape(path, (coils, rows, columns))
        slices = slices_of(sizes["readout"], hints.oversampling)
        # Of the readout, which are the slices here.
        hints = hints.model_copy(update={"oversampling": None})
        shape = (sizes["readout"], coils, rows, columns)
        load = Scan(shape, slices, lambda coil: np.asarray(ordered()[:, coil], np.complex64)).load
    return headless(
        path,
        (slices, coils, rows, columns),
        load,
        hints,
        format=FORMAT,
        name=path.stem,
        task=path.stem,
        files=(path,),
        phase_encodings=2 if "readout" in axes else 1,
    )


def _open(path: Path) -> NDArray[np.generic]:
    with parsing(path):
        array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
