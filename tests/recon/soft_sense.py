"""Slices with several sets of maps that tests share."""

import numpy as np

from recon.data.index import IndexRow
from recon.data.prepared import Slice
from recon.physics.fourier import fft


def orthonormal_sets(sets: int, coils: int, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Maps (sets, coils, rows, columns) that are orthonormal or zero at each pixel: each set has its own support."""
    rng = np.random.default_rng(seed)
    draws = rng.standard_normal((2, rows, columns, coils, sets))
    maps = np.linalg.qr(draws[0] + 1j * draws[1])[0].transpose(3, 2, 0, 1)
    y, x = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    for number in range(sets):
        maps[number] *= (x**2 + y**2 < 0.9) & (x > 0.5 * number - 1)
    return maps.astype(np.complex64)


def soft_slice(sets: int, coils: int = 4, rows: int = 24, columns: int = 28, scale: float = 3.0) -> Slice:
    """A slice whose k-space is that of one smooth image per set, without noise."""
    maps = orthonormal_sets(sets, coils, rows, columns)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    images = np.stack([scale / (1 + n) * np.exp(-3 * (x - 0.2 * n) ** 2 - 2 * y**2 + 1j * x * y) for n in range(sets)])
    target = (images * (maps != 0).any(axis=1)).astype(np.complex64)
    kspace = fft((maps * target[:, None]).sum(axis=0)).astype(np.complex64)
    facts = IndexRow(
        0, "PDw", "one", "one", 0, "val", coils, rows, columns, 0, 0, rows - 4, columns - 4, scale, -1, -1, "one.h5"
    )
    return Slice(kspace, maps, target, facts, target)
