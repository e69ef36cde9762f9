"""Random fields of a subject: smooth noise in space, smooth maps over a scan; and soft edges.

Leaves to others: which tissue a field disturbs (`anatomy`).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from recon.simulate.atlas import look_up

Float = NDArray[np.float32]
TILE = 40


class Noise:
    """Periodic smooth noise of unit variance, `channels` of it; neighbours at about `scale` mm differ."""

    def __init__(self, rng: np.random.Generator, channels: int, scale: float) -> None:
        white = rng.standard_normal((channels, TILE, TILE, TILE), np.float32)
        smooth = np.stack([gaussian_filter(channel, 1.0, mode="wrap", truncate=3) for channel in white])
        smooth /= smooth.std(axis=(1, 2, 3), keepdims=True)
        self._values = torch.from_numpy(np.pad(smooth, ((0, 0), (0, 1), (0, 1), (0, 1)), mode="wrap"))
        self._step = scale / 2

    def __call__(self, points: Float, stretch: tuple[float, float, float] = (1, 1, 1)) -> Float:
        """Values (channels, n) at points (3, n) in mm; `stretch` makes the noise longer along x, y, z."""
        place = points / (self._step * np.array(stretch, np.float32)[:, None])
        return look_up(self._values, np.mod(place, np.float32(TILE)) * np.float32(2 / TILE) - 1)


def inside(distance: Float, width: float) -> Float:
    """The share of a pixel of `width` mm that lies where a signed distance in mm (negative inside) is below zero."""
    return np.clip(0.5 - distance / np.float32(width), 0, 1)


def sheet(distance: Float, thickness: float | Float, width: float) -> Float:
    """The share of a pixel of `width` mm covered by a sheet of a thickness in mm, `distance` mm from its middle."""
    half = np.asarray(thickness, np.float32) / 2
    edge = np.float32(width / 2)
    covered = np.clip(distance + half, -edge, edge) - np.clip(distance - half, -edge, edge)
    return np.asarray(covered / np.float32(width), np.float32)


def window(value: Float, low: float, high: float, soft: float) -> Float:
    """One between `low` and `high`, falling to zero over `soft` on either side."""
    return np.clip(np.minimum(value - low, high - value) / np.float32(soft) + 1, 0, 1)


class SmoothMap:
    """A smooth random function of position: a polynomial of third degree with unit-normal, falling coefficients."""

    def __init__(self, field_of_view_mm: float, rng: np.random.Generator) -> None:
        self._half = field_of_view_mm / 2
        self._powers = [(i, j, k) for i in range(4) for j in range(4) for k in range(4) if 0 < i + j + k <= 3]
        self._weights = rng.standard_normal(len(self._powers)) / np.sqrt([1 + 2 * sum(p) for p in self._powers])

    def __call__(self, x: float, y: NDArray[np.float64], z: NDArray[np.float64]) -> Float:
        """Values (rows, columns) in the plane x at rows y and columns z, all in mm."""
        u, v, w = x / self._half, y / self._half, z / self._half
        total = np.zeros((len(y), len(z)))
        for weight, (i, j, k) in zip(self._weights, self._powers, strict=True):
            total += weight * u**i * np.outer(v**j, w**k)
        return total.astype(np.float32)
