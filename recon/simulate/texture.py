"""Random fields of a subject: smooth three-dimensional noise that any slice can look up, and soft edges.

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
    covered: Float = np.clip(distance + half, -edge, edge) - np.clip(distance - half, -edge, edge)
    return covered / np.float32(width)


def window(value: Float, low: float, high: float, soft: float) -> Float:
    """One between `low` and `high`, falling to zero over `soft` on either side."""
    return np.clip(np.minimum(value - low, high - value) / np.float32(soft) + 1, 0, 1)
