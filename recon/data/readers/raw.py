"""What every reader gives: one raw volume, its header facts at once and its samples slice by slice."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from recon.config import Config
from recon.data.readers.drawn import DrawnNoise
from recon.errors import InputError

SLICE_BYTES = 4 * 1024**3
"""A slice of k-space larger than this is a damaged header: 128 coils of 2048 × 1024 samples take half of it."""
TASKS = {"CORPD_FBK": "PDw", "CORPDFS_FBK": "PDw-FS"}
"""fastMRI's knee protocols by the names that the literature uses."""
AXES = ("slices", "coils", "rows", "columns")


class Hints(Config):
    """What a file without a header cannot say. A JSON file beside it, ``scan.npy.json`` for ``scan.npy``, says it."""

    axes: tuple[str, ...] | None = None
    """Axes of a plain array in its order: slices, coils, rows (readout) and columns.

    The slices may be missing.
    """
    oversampling: float = Field(default=1.0, ge=1, le=16)
    """Readout oversampling: acquired rows over rows of the image."""
    padding: tuple[NonNegativeInt, NonNegativeInt] | None = None
    """Number of columns at the left and at the right edge that were never acquired.

    None: columns of zeros at the edges count as never acquired.
    """
    crop: tuple[PositiveInt, PositiveInt] | None = None
    """Rows and columns of the region for losses and metrics.

    None: the whole image.
    """
    task: str | None = None
    """Name of the task that the file belongs to."""
    patient: str | None = None
    """Name of the patient that the file belongs to."""
    simulated_noise: DrawnNoise | None = None
    """Record of the noise that a simulator added."""

    @field_validator("axes")
    @classmethod
    def _names_each_axis_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and sorted(value) not in (sorted(AXES), sorted(AXES[1:])):
            raise ValueError(f"axes are {', '.join(AXES)} in the array's order (slices may be missing), found {value}")
        return value


@dataclass(frozen=True)
class RawVolume:
    """A raw Cartesian multi-coil volume. Rows are the readout, columns the phase-encode direction.

    Attributes:
        path: the file it comes from, or the one that stands for several.
        name: of the volume, unique in a data set; usually the file's, without its ending.
        format: the reader's name for the format.
        acquisition: the protocol's name as the file gives it.
        task: the task that the acquisition stands for.
        patient: whose volume it is; volumes of one patient stay on one side of a split.
        slices, coils, rows, columns: shape of the k-space as acquired, readout oversampling and padding included.
        image_rows: rows that remain once the readout oversampling is removed.
        pad_left, pad_right: columns at either edge of k-space that were never acquired, as counts.
        crop: (rows, columns) of the scanner's reconstruction, the region that matters.
        mask: columns that were acquired, where the volume is undersampled; None where it is fully sampled.
        load: reads one slice; use ``read_slice``, which checks what it reads.
        files: every file that the volume was read from.
        load_noise: reads the samples of a noise scan, (coils, samples); None where there is none.
        load_maps: reads the coil maps that come with a slice, (coils, rows, columns); None where there are none.
        simulated_noise: how the noise in it was drawn, where a simulator says so.

    Raises:
        InputError: where a slice would be larger than any scanner's.
    """

    path: Path
    name: str
    format: str
    acquisition: str
    task: str
    patient: str
    slices: int
    coils: int
    rows: int
    columns: int
    image_rows: int
    pad_left: int
    pad_right: int
    crop: tuple[int, int]
    mask: NDArray[np.bool_] | None
    load: Callable[[int], NDArray[np.complex64]]
    files: tuple[Path, ...]
    load_noise: Callable[[], NDArray[np.complex64]] | None = None
    load_maps: Callable[[int], NDArray[np.complex64]] | None = None
    simulated_noise: DrawnNoise | None = None

    def __post_init__(self) -> None:
        check_shape(self.path, (self.coils, self.rows, self.columns))

    def read_slice(self, position: int) -> NDArray[np.complex64]:
        """k-space of one slice, (coils, rows, columns), centred.

        Raises:
            InputError: where the samples cannot be read.
        """
        with parsing(self.path, f"slice {position} cannot be read"):
            kspace = np.ascontiguousarray(self.load(position), dtype=np.complex64)
        expected = (self.coils, self.rows, self.columns)
        if kspace.shape != expected:
            raise InputError(
                f"{self.path}: slice {position} is {_times(kspace.shape)}, where {_times(expected)} is due"
            )
        return kspace


def check_shape(path: Path, shape: tuple[int, ...]) -> None:
    """Raise InputError for a slice of (coils, rows, columns) that is empty, or larger than any scanner's."""
    if min(shape) < 1:
        raise InputError(f"{path}: k-space is empty, a slice of it is {_times(shape)}")
    if 8 * int(np.prod(shape, dtype=object)) > SLICE_BYTES:
        raise InputError(
            f"{path}: a slice of {_times(shape)} samples is larger than any scanner's; is the header whole?"
        )


class SamplesHash:
    """Identity of a volume's samples, whatever file they lie in.

    Args:
        shape: slices, coils, rows, columns.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self._digest = hashlib.sha256(repr(tuple(int(size) for size in shape)).encode())

    def add(self, kspace: NDArray[np.complex64]) -> None:
        """Add the next slice's k-space (coils, rows, columns)."""
        self._digest.update(kspace.tobytes())

    def hexdigest(self) -> str:
        """SHA-256 of what was added."""
        return self._digest.hexdigest()


@contextlib.contextmanager
def parsing(path: Path, what: str = "it cannot be read") -> Iterator[None]:
    """A context for calls of a library that parses a foreign file: any exception becomes a sentence that names the
    file.

    Such libraries raise nearly anything for a damaged file, so put only their calls inside.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: {what}, it is damaged or not what its name says ({reason})") from error


def acquired_columns(kspace: NDArray[np.complex64]) -> tuple[int, int, NDArray[np.bool_] | None]:
    """Padding and mask of a slice whose file does not say: a column that is zero in all coils was not acquired.

    Args:
        kspace: (coils, rows, columns).

    Returns:
        Columns of zeros at the left and the right edge, and the mask of the columns where some between are zero too.
    """
    kept = np.asarray(kspace.any(axis=(0, 1)))
    if not kept.any():
        return 0, 0, None
    left, right = int(kept.argmax()), int(kept[::-1].argmax())
    inside = kept[left : kept.size - right]
    return left, right, None if inside.all() else kept


def headless(
    path: Path,
    shape: tuple[int, int, int, int],
    load: Callable[[int], NDArray[np.complex64]],
    hints: Hints,
    *,
    format: str,
    name: str,
    task: str,
    files: tuple[Path, ...],
    padding: tuple[int, int] | None = None,
    load_maps: Callable[[int], NDArray[np.complex64]] | None = None,
) -> RawVolume:
    """A volume of a format without a header: hints say what they can, the middle slice's zeros say the rest.

    Args:
        path: as in ``RawVolume``, like format, name, files and load_maps.
        shape: slices, coils, rows, columns.
        load: reads one slice.
        hints: go before what the file says.
        task: where the hints name none.
        padding: columns left and right, where the file says so.

    Raises:
        InputError: where hints and shape do not fit together.
    """
    slices, coils, rows, columns = shape
    if slices < 1:
        raise InputError(f"{path}: k-space has no slices")
    check_shape(path, shape[1:])
    with parsing(path):
        middle = np.asarray(load(slices // 2))
    left, right, mask = acquired_columns(middle)
    if hints.padding or padding:
        left, right = hints.padding or padding or (0, 0)
        if min(left, right) < 0 or left + right >= columns:
            raise InputError(f"{path}: padding of {left} and {right} columns leaves nothing of {columns}")
        if mask is not None:
            mask[:left] = mask[columns - right :] = False
    image_rows = max(1, round(rows / hints.oversampling))
    crop = hints.crop or (image_rows, columns)
    return RawVolume(
        path=path,
        name=name,
        format=format,
        acquisition=task,
        task=hints.task or usual_task(task),
        patient=hints.patient or name,
        slices=slices,
        coils=coils,
        rows=rows,
        columns=columns,
        image_rows=image_rows,
        pad_left=left,
        pad_right=right,
        crop=(min(crop[0], image_rows), min(crop[1], columns)),
        mask=mask,
        load=load,
        files=files,
        load_maps=load_maps,
        simulated_noise=hints.simulated_noise,
    )


def usual_task(protocol: str) -> str:
    """The task that a protocol stands for where nobody names one: its usual name, else the protocol's own."""
    return TASKS.get(protocol, protocol)


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
