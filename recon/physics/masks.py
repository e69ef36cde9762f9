"""Undersampling masks along the phase-encode direction: which columns of k-space are kept.

The pure functions give the patterns of fastMRI's ``fastmri.data.subsample`` for the same offset or the same draws.
``draw_mask`` chooses among a configuration's accelerations and centre fractions; ``fixed`` gives the one mask that
validation and test use. ``recon.physics.operators`` and ``recon.data.loading`` apply the mask.

Padding: a scanner may leave columns at both ends of k-space unacquired. As in fastMRI, a pattern is laid over the whole
width, and then the padded columns are cleared.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon.config import MaskConfig, MaskKind
from recon.errors import InputError


@dataclass(frozen=True, eq=False)
class Mask:
    """One column mask and what it was made from."""

    columns: np.ndarray
    """(columns,) bool: True where a column is kept."""
    kind: MaskKind
    acceleration: float
    """The nominal R that was asked for (a file's: its own net acceleration)."""
    centre_lines: int
    """How many adjacent columns at the centre were asked for (a file's: how many it has)."""
    offset: int | None = None
    """Where an equispaced pattern starts; None for other kinds."""
    padding: tuple[int, int] = (0, 0)
    """Unacquired columns at the left and right end."""

    @property
    def lines(self) -> int:
        """How many columns are kept."""
        return int(self.columns.sum())

    @property
    def acquired(self) -> int:
        """How many columns a full acquisition has: the width without its padding."""
        return self.columns.size - sum(self.padding)

    @property
    def net_acceleration(self) -> float:
        """Acquired columns over kept columns."""
        return self.acquired / self.lines


def centre_lines(columns: int, centre_fraction: float) -> int:
    """How many centre columns a fraction of the width means (fastMRI's rounding: halves go to the even number)."""
    return round(columns * centre_fraction)


def equispaced_fraction(columns: int, acceleration: float, centre_fraction: float, offset: int) -> np.ndarray:
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


def equispaced(columns: int, acceleration: float, centre_fraction: float, offset: int) -> np.ndarray:
    """Every R-th column from ``offset`` on, and the centre beside them; so the net acceleration is below R.

    Arguments and result as in ``equispaced_fraction``.

    Raises:
        InputError: R is not a whole number.
    """
    mask = _centre(columns, centre_fraction)
    mask[offset :: _whole(acceleration)] = True
    return mask


def random(columns: int, acceleration: float, centre_fraction: float, draws: np.ndarray) -> np.ndarray:
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


def from_file(path: str | Path, columns: int) -> np.ndarray:
    """Read a column mask, an array of zeros and ones in NumPy's ``.npy`` format.

    Returns:
        (columns,) bool.

    Raises:
        InputError: there is no such file, it is no array of 0 and 1, or its length is not ``columns``.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: the mask cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError):
        raise InputError(f"{path}: this is no mask in NumPy's .npy format") from None
    if not isinstance(array, np.ndarray) or array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise InputError(f"{path}: a mask is a one-dimensional array of 0 and 1, one for each column of k-space")
    if array.size != columns:
        raise InputError(f"{path}: the mask has {array.size} columns, where the k-space has {columns}")
    return array.astype(bool)


def offsets(kind: MaskKind, columns: int, acceleration: float, centre_fraction: float) -> int:
    """How many offsets an equispaced pattern can start from: 0 up to, but not including, this number."""
    if kind == "equispaced":
        return _whole(acceleration)
    if acceleration == 1:
        return 1
    return round(_fraction_step(columns, acceleration, centre_fraction))


def draw_mask(config: MaskConfig, columns: int, rng: np.random.Generator, padding: tuple[int, int] = (0, 0)) -> Mask:
    """Draw one mask: an acceleration, a centre fraction, then the offset (or, for ``random``, the columns).

    Args:
        config: kind, and the accelerations and centre fractions to choose from, each pair equally likely.
        columns: width of k-space, padding included.
        rng: where the draws come from; the same state gives the same mask.
        padding: unacquired columns at the left and at the right end; they are never sampled.

    Raises:
        InputError: no such mask can be, or nothing is left of it.
    """
    if min(padding) < 0 or sum(padding) >= columns:
        raise InputError(f"a padding of {padding[0]} and {padding[1]} columns leaves nothing of {columns}")
    acceleration = float(rng.choice(config.accelerations))
    centre_fraction = float(rng.choice(config.centre_fractions))
    offset = None
    if config.kind == "file":
        assert config.path is not None  # MaskConfig sees to it
        pattern = from_file(config.path, columns)
    elif config.kind == "random":
        pattern = random(columns, acceleration, centre_fraction, rng.uniform(size=columns))
    else:
        offset = int(rng.integers(offsets(config.kind, columns, acceleration, centre_fraction)))
        pattern_of = equispaced if config.kind == "equispaced" else equispaced_fraction
        pattern = pattern_of(columns, acceleration, centre_fraction, offset)
    pattern[: padding[0]] = False
    pattern[columns - padding[1] :] = False
    if not pattern.any():
        raise InputError(
            f"the {config.kind} mask keeps none of {columns} columns: lower the acceleration {acceleration:g} "
            f"or raise the centre fraction {centre_fraction:g}"
        )
    if config.kind == "file":
        return given(pattern, padding)
    return Mask(pattern, config.kind, acceleration, centre_lines(columns, centre_fraction), offset, padding)


def fixed(config: MaskConfig, columns: int, padding: tuple[int, int] = (0, 0)) -> Mask:
    """The one mask of a configuration for this width; apart from the width it depends on ``config.seed`` alone.

    So the whole test set is undersampled identically, as in the paper.
    """
    return draw_mask(config, columns, np.random.default_rng(np.random.SeedSequence([config.seed])), padding)


def given(pattern: np.ndarray, padding: tuple[int, int] = (0, 0)) -> Mask:
    """The mask of the columns that were acquired, (columns,) bool, as a raw file says.

    Raises InputError where it keeps none.
    """
    kept = np.asarray(pattern, bool).copy()
    kept[: padding[0]] = False
    kept[kept.size - padding[1] :] = False
    if not kept.any():
        raise InputError("the mask keeps none of the acquired columns")
    return Mask(kept, "file", (kept.size - sum(padding)) / int(kept.sum()), _centre_run(kept), None, padding)


def _centre(columns: int, centre_fraction: float) -> np.ndarray:
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


def _centre_run(pattern: np.ndarray) -> int:
    """How many adjacent kept columns contain the centre column."""
    centre = pattern.size // 2
    gaps = np.flatnonzero(~pattern)
    left, right = gaps[gaps <= centre], gaps[gaps >= centre]
    first = left[-1] + 1 if left.size else 0
    last = right[0] if right.size else pattern.size
    return int(max(last - first, 0))
