"""What coil maps keep of a slice: a check that finds most ways in which a reference can be wrong.

Maps that are zero, a crop of eigenvalues that eats the scalp, a centre of k-space at the wrong line, images taken for
k-space, an object larger than the field of view: each shows as energy of the coil images that the combined image lacks,
or as a part of the object without maps. No metric would show it, because every method is cut to the same maps.

Noise is no loss: combining coils is meant to lose it. So its expected energy is taken off both sides, by its level at
the corners of k-space.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recon.physics.coils import Complex, edge_samples, sense_combine

OBJECT = 0.1
"""The object is where the root-sum-of-squares image is above this part of its maximum."""
LEAST_KEPT = 2 / 3
"""A slice whose combined image holds less of the object's energy has no reference."""
USUAL_KEPT = 0.98
"""Maps that fit keep at least this part of the energy: .996 and more in acquired slices (docs/decisions.md)."""
LEAST_COVERED = 0.9
"""A reconstruction whose maps cover less of the object than this is refused: the rest of it would be black."""
USUAL_COVERED = 0.97
"""Maps usually cover at least this share of the object."""


class Kept(NamedTuple):
    """What the maps of one slice keep of its coil images inside the object."""

    energy: float
    """The combined image's energy over the root-sum-of-squares image's, both without their noise's."""
    covered: float
    """The share of the object where the maps are not zero."""
    left: float = 0.0
    """The norm of what the maps do not explain over that of the coil images, noise included."""

    def error(self, consequence: str = "has no reference") -> str:
        """Why the slice has no reference, or what else the consequence is; or nothing."""
        if self.covered == 0:
            return f"its coil maps are zero everywhere in the object, so it {consequence}"
        if self.energy < LEAST_KEPT:
            return (
                f"its coil maps explain {self.energy:.2f} of the energy of its coil images, where nearly all is due, "
                f"so it {consequence}; is its centre, its header or its format not what it says?"
            )
        return ""

    def warning(self) -> str:
        """What a user should look at, or nothing."""
        if self.covered < USUAL_COVERED:
            return f"its coil maps are zero in {1 - self.covered:.2f} of the object; lower --eigenvalue-crop"
        if self.energy < USUAL_KEPT:
            return (
                f"its coil maps leave {self.left:.3f} of its coil images unexplained (norm over norm), more than "
                "noise; is the object larger than the field of view (--maps-sets 2), or the centre elsewhere?"
            )
        return ""


def noise_power(kspace: Complex, pad_left: int = 0, pad_right: int = 0) -> NDArray[np.float64]:
    """Each coil's noise power in a sample, (coils,), by the corners of k-space (coils, rows, columns).

    An upper bound: the corners may still hold some signal. Where they hold far more than another part does, k-space is
    not centred, and that part is taken.
    """
    found = _power(edge_samples(kspace, pad_left, pad_right))
    rows, columns = kspace.shape[1] // 2, kspace.shape[2] // 2
    for shift in ((rows, 0), (0, columns), (rows, columns)):
        other = _power(edge_samples(kspace, shift=shift))
        if 0 < other.sum() < found.sum() / 2:
            found = other
    return found


def _power(samples: Complex) -> NDArray[np.float64]:
    """Mean power of samples (coils, samples), (coils,); nothing where there are none."""
    if not samples.shape[1]:
        return np.zeros(len(samples))
    return np.asarray((samples.real**2 + samples.imag**2).mean(axis=1, dtype=np.float64))


def kept_of(
    kspace: Complex, images: Complex, maps: Complex, noise: NDArray[np.float64], combined: Complex | None = None
) -> Kept:
    """What is kept of a slice.

    Args:
        kspace: (coils, rows, columns), zero where nothing was acquired.
        images: its coil images, (coils, rows, columns).
        maps: (coils, rows, columns), or (sets, coils, rows, columns) that are orthogonal to each other; Σ|s|² is one or
            zero at each pixel.
        noise: each coil's noise power in a sample, (coils,).
        combined: the images combined by the maps, where that was done.
    """
    sets = maps if maps.ndim == 4 else maps[None]
    # The transform is orthonormal, and samples that were not acquired have no noise.
    noise = noise * float(kspace.any(axis=0).mean())
    whole = (images.real**2 + images.imag**2).sum(axis=0, dtype=np.float64)
    by_set = (sense_combine(images, maps) if combined is None else combined).reshape(-1, *images.shape[1:])
    target = (by_set.real**2 + by_set.imag**2).sum(axis=0, dtype=np.float64)
    power = (sets.real**2 + sets.imag**2).sum(axis=0)
    signal = whole - noise.sum()
    # Above the noise, too: where there is nothing else, energy less its mean is as often above zero as below.
    inside = signal > max(OBJECT**2 * float(signal.max()), 4 * float(np.linalg.norm(noise)))
    if not inside.any():
        return Kept(1.0, 1.0)
    energy = (target - np.einsum("crk,c->rk", power, noise))[inside].sum() / signal[inside].sum()
    left = np.sqrt(max(0.0, 1 - float(target[inside].sum() / whole[inside].sum())))
    return Kept(float(energy), float((power.sum(axis=0)[inside] > 0).mean()), float(left))
