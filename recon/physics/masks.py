"""Undersampling masks: which columns of k-space are kept, or which samples where both axes are phase-encode directions.

The pure functions here give the column patterns of fastMRI's ``fastmri.data.subsample`` for the same offset or the same
draws; ``recon.physics.plane_masks`` makes the patterns of samples. ``draw_mask`` chooses among a configuration's
accelerations and centre fractions; ``fixed`` gives the one mask that validation and test use.
``recon.physics.operators`` and ``recon.data.loading`` apply the mask.

Padding: a scanner may leave columns at both ends of k-space unacquired. As in fastMRI, a pattern is laid over the whole
plane, and then the padded columns are cleared.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recon.config import MaskConfig, MaskKind
from recon.errors import InputError
from recon.physics.plane_masks import Shape, poisson_disc, random_points


@dataclass(frozen=True, eq=False)
class Mask:
    """One mask and what it was made from."""

    kept: NDArray[np.bool_]
    """True where something is kept: (columns,) of a mask of whole columns, (rows, columns) of one of single samples."""
    kind: MaskKind
    acceleration: float
    """The nominal R that was asked for (a file's: its own net acceleration)."""
    acquired: int
    """How many columns (of a mask of single samples: samples) a full acquisition has; without padding."""
    offset: int | None = None
    """Where an equispaced pattern starts; None for other kinds."""
    padding: tuple[int, int] = (0, 0)
    """Unacquired columns at the left and right end."""

    @property
    def by_sample(self) -> bool:
        """Whether single samples are kept, not whole columns."""
        return self.kept.ndim == 2

    @property
    def unit(self) -> Literal["lines", "samples"]:
        """What ``count`` counts."""
        return "samples" if self.by_sample else "lines"

    @property
    def count(self) -> int:
        """How many columns, or samples, are kept."""
        return int(self.kept.sum())

    @property
    def net_acceleration(self) -> float:
        """What a full acquisition has over what is kept."""
        return self.acquired / self.count

    def within(self, acquired: NDArray[np.bool_]) -> "Mask":
        """The mask without the samples that were not acquired, such as the corners of a three-dimensional scan.

        A mask of whole columns stays as it is.

        Args:
            acquired: (rows, columns) bool.

        Raises:
            InputError: nothing is left.
        """
        if not self.by_sample:
            return self
        kept = self.kept & acquired
        if not kept.any():
            raise InputError(f"the {self.kind} mask keeps none of {int(acquired.sum())} acquired samples")
        left, right = self.padding
        return replace(self, kept=kept, acquired=int(acquired[:, left : acquired.shape[1] - right].sum()))


def centre_lines(columns: int, centre_fraction: float) -> int:
    """How many centre columns a fraction of the width means (fastMRI's rounding: halves go to the even number)."""
    return round(columns * centre_fraction)


def equispaced_fraction(columns: int, acceleration: float, centre_fraction: float, offset: int) -> NDArray[np.bool_]:
    """Equal steps outside the centre, chosen so that centre and steps together keep about columns / acceleration.

    The steps are no whole numbers, so neighbouring gaps differ by one (https://github.com/facebookresearch/fastMRI/issues/54).
    An acceleration of 1 keeps every column.

    Args:
        columns: width of k-space.
        acceleration: R, at least 1.
        centre_fraction: share of the width that is kept at the centre.
        offset: the first column of the steps, in [0, ``offsets(...)``).

    Returns:
        (columns,) bool.

    Raises:
        InputError: the centre alone keeps as many columns as R permits.
    """
    mask = _centre(columns, centre_fraction)
    if acceleration == 1:
        return np.ones(columns, dtype=bool)
    step = _fraction_step(columns, acceleration, centre_fraction)
    mask[np.around(np.arange(offset, columns - 1, step)).astype(int)] = True
    return mask


def equispaced(columns: int, acceleration: float, centre_fraction: float, offset: int) -> NDArray[np.bool_]:
    """Every R-th column from ``offset`` on, and the centre beside them; so the net acceleration is below R.

    Arguments and result as in ``equispaced_fraction``.

    Raises:
        InputError: R is not a whole number.
    """
    mask = _centre(columns, centre_fraction)
    mask[offset :: _whole(acceleration)] = True
    return mask


def random(columns: int, acceleration: float, centre_fraction: float, draws: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The centre, and every other column with the probability that keeps columns / acceleration on average.

    Args:
        columns: width of k-space.
        acceleration: R, at least 1.
        centre_fraction: share of the width that is kept at the centre.
        draws: (columns,) uniform in [0, 1), one per column.

    Returns:
        (columns,) bool.

    Raises:
        InputError: the centre alone keeps more columns than R permits.
    """
    mask = _centre(columns, centre_fraction)
    centre = centre_lines(columns, centre_fraction)
    if centre * acceleration > columns:
        raise _too_much_centre(columns, acceleration, centre_fraction, "at most")
    if centre == columns:
        return mask
    return mask | (draws < (columns / acceleration - centre) / (columns - centre))


def from_file(path: str | Path, shape: Shape) -> NDArray[np.bool_]:
    """Read a mask, an array of zeros and ones in NumPy's ``.npy`` format.

    Returns:
        (columns,) bool, or (rows, columns), as the file has it.

    Raises:
        InputError: there is no such file, it is no array of 0 and 1, or it does not fit k-space of this shape.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: the mask cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError):
        raise InputError(f"{path}: this is no mask in NumPy's .npy format") from None
    if not isinstance(array, np.ndarray) or array.ndim not in (1, 2) or not np.isin(array, (0, 1)).all():
        raise InputError(
            f"{path}: a mask is an array of 0 and 1, one for each column of k-space or one for each row and column"
        )
    if array.ndim == 1 and array.size != shape[1]:
        raise InputError(f"{path}: the mask has {array.size} columns, where the k-space has {shape[1]}")
    if array.ndim == 2 and array.shape != shape:
        raise InputError(
            f"{path}: the mask has {array.shape[0]} × {array.shape[1]} samples, where the k-space has "
            f"{shape[0]} × {shape[1]}"
        )
    return array.astype(bool)


def offsets(kind: MaskKind, columns: int, acceleration: float, centre_fraction: float) -> int:
    """How many offsets an equispaced pattern can start from: 0 up to, but not including, this number."""
    if kind == "equispaced":
        return _whole(acceleration)
    if acceleration == 1:
        return 1
    return round(_fraction_step(columns, acceleration, centre_fraction))


def draw_mask(config: MaskConfig, shape: Shape, rng: np.random.Generator, padding: tuple[int, int] = (0, 0)) -> Mask:
    """Draw one mask: an acceleration, a centre fraction, then the offset, the columns or the samples.

    Args:
        config: kind, and the accelerations and centre fractions to choose from, each pair equally likely.
        shape: rows and columns of k-space, padding included.
        rng: where the draws come from; the same state gives the same mask.
        padding: unacquired columns at the left and at the right end; they are never sampled.

    Raises:
        InputError: no such mask can be, or nothing is left of it.
    """
    columns = shape[1]
    if min(padding) < 0 or sum(padding) >= columns:
        raise InputError(f"a padding of {padding[0]} and {padding[1]} columns leaves nothing of {columns}")
    acceleration = float(rng.choice(config.accelerations))
    centre_fraction = float(rng.choice(config.centre_fractions))
    offset = None
    if config.kind == "file":
        assert config.path is not None  # MaskConfig sees to it
        pattern = from_file(config.path, shape)
    elif config.kind == "random":
        pattern = random(columns, acceleration, centre_fraction, rng.uniform(size=columns))
    elif config.kind == "poisson-disc" or config.kind == "random-points":
        samples_of = poisson_disc if config.kind == "poisson-disc" else random_points
        pattern = samples_of(shape, acceleration, centre_fraction, rng)
    else:
        offset = int(rng.integers(offsets(config.kind, columns, acceleration, centre_fraction)))
        pattern_of = equispaced if config.kind == "equispaced" else equispaced_fraction
        pattern = pattern_of(columns, acceleration, centre_fraction, offset)
    kept, acquired = _unpadded(pattern, padding)
    if not kept.any():
        whole = f"{columns} columns" if kept.ndim == 1 else f"{shape[0]} × {columns} samples"
        raise InputError(
            f"the {config.kind} mask keeps none of {whole}: lower the acceleration {acceleration:g} "
            f"or raise the centre fraction {centre_fraction:g}"
        )
    if config.kind == "file":
        return given(kept, padding)
    return Mask(kept, config.kind, acceleration, acquired, offset, padding)


def fixed(config: MaskConfig, shape: Shape, padding: tuple[int, int] = (0, 0)) -> Mask:
    """The one mask of a configuration for (rows, columns); apart from the shape it depends on ``config.seed`` alone.

    So the whole test set is undersampled identically, as in the paper. The mask is drawn once, so it is read-only.
    """
    draw = _draw_fixed if config.kind == "file" else _remember_fixed  # a file may change
    return draw(config, shape, padding)


def _draw_fixed(config: MaskConfig, shape: Shape, padding: tuple[int, int]) -> Mask:
    mask = draw_mask(config, shape, np.random.default_rng(np.random.SeedSequence([config.seed])), padding)
    mask.kept.setflags(write=False)
    return mask


_remember_fixed = functools.lru_cache(maxsize=64)(_draw_fixed)


def given(pattern: NDArray[np.bool_], padding: tuple[int, int] = (0, 0)) -> Mask:
    """The mask of what was acquired, as a raw file says: (columns,) or (rows, columns) bool.

    Raises InputError where it keeps nothing.
    """
    kept, acquired = _unpadded(np.asarray(pattern, bool), padding)
    if not kept.any():
        raise InputError(f"the mask keeps none of the acquired {'columns' if kept.ndim == 1 else 'samples'}")
    return Mask(kept, "file", acquired / int(kept.sum()), acquired, None, padding)


def _unpadded(pattern: NDArray[np.bool_], padding: tuple[int, int]) -> tuple[NDArray[np.bool_], int]:
    """The pattern without padded columns, and how many columns or samples it has beside them."""
    inside = np.ones(pattern.shape[-1], bool)
    inside[: padding[0]] = inside[inside.size - padding[1] :] = False
    return pattern & inside, int(np.broadcast_to(inside, pattern.shape).sum())


def _centre(columns: int, centre_fraction: float) -> NDArray[np.bool_]:
    lines = centre_lines(columns, centre_fraction)
    mask = np.zeros(columns, dtype=bool)
    first = (columns - lines + 1) // 2
    mask[first : first + lines] = True
    return mask


def _fraction_step(columns: int, acceleration: float, centre_fraction: float) -> float:
    """The step between columns outside the centre with which n / R columns are kept in all (fastMRI's adjusted R)."""
    centre = centre_lines(columns, centre_fraction)
    if centre * acceleration >= columns:
        raise _too_much_centre(columns, acceleration, centre_fraction, "fewer than")
    return acceleration * (centre - columns) / (centre * acceleration - columns)


def _whole(acceleration: float) -> int:
    if acceleration != int(acceleration):
        raise InputError(f"an equispaced mask needs a whole acceleration, found {acceleration:g}")
    return int(acceleration)


def _too_much_centre(columns: int, acceleration: float, centre_fraction: float, limit: str) -> InputError:
    centre = centre_lines(columns, centre_fraction)
    return InputError(
        f"a centre fraction of {centre_fraction:g} keeps {centre} of {columns} columns, "
        f"where an acceleration of {acceleration:g} permits {limit} {columns / acceleration:.4g}"
    )
