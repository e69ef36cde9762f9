"""Slices of a three-dimensional scan: one Fourier transform along the readout.

Any slice needs all readouts, so that a scan is transformed once, when its first slice is read. The result is kept in
memory if it is small, else in a file without a name in the temporary folder, which vanishes with the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from recon.data.volume_file import centre
from recon.physics.fourier import ifft

IN_MEMORY = 512 * 1024**2
"""Bytes of a transformed scan that are kept in memory."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A three-dimensional scan, to be read slice by slice.

    Attributes:
        shape: samples of a readout, coils, rows, columns; the two last are the phase-encode directions.
        slices: central samples along the readout in image space that remain once its oversampling is removed.
        load_coil: reads the k-space of one coil, (readout, rows, columns).
    """

    shape: tuple[int, int, int, int]
    slices: int
    load_coil: Callable[[int], NDArray[np.complex64]]

    def load(self, position: int) -> NDArray[np.complex64]:
        """One slice, (coils, rows, columns)."""
        return np.array(_transformed(self)[position])


def slices_of(readout: int, oversampling: float | None) -> int:
    """Slices that remain of a readout of so many samples."""
    return max(1, round(readout / (oversampling or 1)))


# One, as a scan is read from its first slice to its last.
@lru_cache(maxsize=1)
def _transformed(scan: Scan) -> NDArray[np.complex64]:
    """(slices, coils, rows, columns), in image space along the slices."""
    readout, coils, rows, columns = scan.shape
    kept = centre((readout, 1), (scan.slices, 1))[0]
    out = scratch((scan.slices, coils, rows, columns))
    for coil in range(coils):
        out[:, coil] = ifft(np.asarray(scan.load_coil(coil), np.complex64), (0,))[kept]
    return out


def scratch(shape: tuple[int, int, int, int]) -> NDArray[np.complex64]:
    """Zeros, in memory or in a file without a name in the temporary folder, which vanishes with the process."""
    if 8 * int(np.prod(shape, dtype=object)) <= IN_MEMORY:
        return np.zeros(shape, np.complex64)
    # The mapping keeps the file; the folder forgets it at once.
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.complex64, "w+", shape=shape)
