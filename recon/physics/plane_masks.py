"""Undersampling patterns in two dimensions: which samples of the plane of two phase-encode directions are kept.

``poisson_disc`` keeps a variable-density Poisson disc: samples keep a distance from each other that grows with their
distance from the centre, as in ``sigpy.mri.poisson`` (the oracle of its tests). ``random_points`` keeps samples at
random. Both have a fully sampled centre and keep exactly the share of the plane that the acceleration names.
``recon.physics.masks`` chooses among patterns.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from recon.errors import InputError

Shape = tuple[int, int]
Plane = NDArray[np.bool_]

SURPLUS = 1.03
"""A Poisson disc is made for this many times the samples that are due: draws vary, and what is too much is dropped."""

SHORTER = 0.9
"""A sample shortens the distance that it asks for by at most this. So the density falls as sigpy's does, which measures
from a random place in a sample's cell to the corner of another's."""

LEVELS = 8
"""Distances are rounded to this fraction of a sample, so that few shapes of discs are needed."""


def centre_size(shape: Shape, centre_fraction: float) -> Shape:
    """Rows and columns of the centre that a fraction means: the same share of both (halves go to the even number)."""
    return round(shape[0] * centre_fraction), round(shape[1] * centre_fraction)


def random_points(shape: Shape, acceleration: float, centre_fraction: float, rng: np.random.Generator) -> Plane:
    """The centre, and as many other samples at random as the acceleration permits.

    Args:
        shape: rows and columns of k-space.
        acceleration: R, at least 1; rows · columns / R samples are kept.
        centre_fraction: share of the rows and of the columns that the fully sampled centre has.
        rng: where the draws come from.

    Returns:
        (rows, columns) bool.

    Raises:
        InputError: the centre alone has more samples than R permits.
    """
    mask, due = _centre(shape, acceleration, centre_fraction)
    return _completed(mask, due, rng)


def poisson_disc(shape: Shape, acceleration: float, centre_fraction: float, rng: np.random.Generator) -> Plane:
    """The centre, and a Poisson disc whose density falls towards the edges as steeply as the acceleration asks.

    All samples are tried in random order. One that lies too near to an earlier one is left out. The distance that a
    sample asks for is 1 + t ρ, where ρ is 0 at the edge of the centre and 1 in the middle of the plane's outer edges
    (sigpy's rule; along the shorter axis it is shorter in proportion). It is shortened at random, because on a grid the
    number of samples would otherwise jump with t. Where even t = 0 keeps too few, at accelerations near 1, the others
    come at random.

    Arguments, result and errors as in ``random_points``.
    """
    mask, due = _centre(shape, acceleration, centre_fraction)
    if mask.sum() == due or due == mask.size:
        return _completed(mask, due, rng)
    slope = _slope(shape, centre_size(shape, centre_fraction), due)
    thrown = _throw(mask, _spacing(shape, centre_size(shape, centre_fraction), slope), rng)
    for sample in thrown[: due - int(mask.sum())]:
        mask.flat[sample] = True
    return _completed(mask, due, rng)


def _centre(shape: Shape, acceleration: float, centre_fraction: float) -> tuple[Plane, int]:
    """The fully sampled centre, and how many samples are to be kept in all."""
    rows, columns = size = centre_size(shape, centre_fraction)
    due = round(shape[0] * shape[1] / acceleration)
    if rows * columns > due:
        raise InputError(
            f"a centre fraction of {centre_fraction:g} keeps {rows} × {columns} of {shape[0]} × {shape[1]} samples, "
            f"where an acceleration of {acceleration:g} permits at most {due}"
        )
    top, left = ((n - m + 1) // 2 for n, m in zip(shape, size, strict=True))
    mask = np.zeros(shape, bool)
    mask[top : top + rows, left : left + columns] = True
    return mask, due


def _completed(mask: Plane, due: int, rng: np.random.Generator) -> Plane:
    """The mask with as many samples at random as it lacks."""
    lacking = due - int(mask.sum())
    if lacking:
        mask.flat[rng.choice(np.flatnonzero(~mask), lacking, replace=False)] = True
    return mask


def _spacing(shape: Shape, centre: Shape, slope: float) -> NDArray[np.float64]:
    """The distance 1 + t ρ that each sample keeps, in samples of the longer axis: (rows, columns)."""
    away = [np.maximum(np.abs(np.arange(n) - n // 2) - m / 2, 0) for n, m in zip(shape, centre, strict=True)]
    rows, columns = (one / max(one.max(), 1) for one in away)
    return np.asarray(1 + slope * np.sqrt(rows[:, None] ** 2 + columns**2))


@functools.lru_cache(maxsize=64)
def _slope(shape: Shape, centre: Shape, due: int) -> float:
    """The t with which a Poisson disc has a few samples more than are due; 0 where none has as many.

    A model of the density, (spacing)⁻², gives t. It is scaled to the number that a disc with this t has, and so on.
    The t is rounded, so that sums whose last bits differ between machines give the same masks.
    """
    mask = np.zeros(shape, bool)
    outside = due - centre[0] * centre[1]
    top, left = ((n - m + 1) // 2 for n, m in zip(shape, centre, strict=True))
    mask[top : top + centre[0], left : left + centre[1]] = True
    wanted, scale, slope = SURPLUS * outside, 0.7, 0.0
    for _ in range(5):
        low, high = 0.0, float(max(shape))
        for _ in range(30):
            slope = (low + high) / 2
            more = scale * (1 / _spacing(shape, centre, slope)[~mask] ** 2).sum() > wanted
            low, high = (slope, high) if more else (low, slope)
        slope = round(slope, 4)
        found = len(_throw(mask, _spacing(shape, centre, slope), np.random.default_rng(0)))
        if abs(found / wanted - 1) < 0.01 or (slope == 0 and found < wanted):
            break
        scale *= found / float(scale * (1 / _spacing(shape, centre, slope)[~mask] ** 2).sum())
    return slope


def _throw(taken: Plane, spacing: NDArray[np.float64], rng: np.random.Generator) -> list[int]:
    """Samples in random order, as flat indices, that are not taken and keep their distance from each other."""
    rows, columns = shape = taken.shape
    levels = (LEVELS * (spacing + rng.random(shape) - SHORTER)).astype(int).ravel()
    order = rng.permutation(rows * columns)
    shapes = {level: _disc((level + 0.5) / LEVELS, (rows, columns)) for level in np.unique(levels).tolist()}
    discs = {level: (disc, disc.shape[0] // 2, disc.shape[1] // 2) for level, disc in shapes.items()}
    height, width = (max(sizes) for sizes in zip(*(sizes for _, *sizes in discs.values()), strict=True))
    # A margin, so that no disc is cut off at the edge.
    blocked = np.pad(taken, ((height, height), (width, width)))
    found = []
    at = zip(order.tolist(), levels[order].tolist(), *(one.tolist() for one in np.divmod(order, columns)), strict=True)
    for sample, level, row, column in at:
        if not blocked[row + height, column + width]:
            found.append(sample)
            disc, above, beside = discs[level]
            if above or beside:  # else it is in nobody's way
                top, left = row + height - above, column + width - beside
                blocked[top : top + 2 * above + 1, left : left + 2 * beside + 1] |= disc
    return found


def _disc(radius: float, shape: Shape) -> Plane:
    """The samples nearer than a radius, which is in samples of the longer axis."""
    radii = [max(radius * n / max(shape), 1e-9) for n in shape]
    rows, columns = (np.arange(-int(one), int(one) + 1) / one for one in radii)
    return np.asarray(rows[:, None] ** 2 + columns**2 < 1)
