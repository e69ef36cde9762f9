"""What every reader gives: one raw volume, its header facts at once and its samples slice by slice."""

from __future__ import annotations

import contextlib
import hashlib
import os
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from recon.config import Config
from recon.data.readers.drawn import DrawnNoise
from recon.errors import InputError

SLICE_BYTES = 4 * 1024**3
"""A slice of k-space larger than this is a damaged header: 128 coils of 2048 × 1024 samples take half of it."""
TASKS = {"CORPD_FBK": "PDw", "CORPDFS_FBK": "PDw-FS", "CORT2_FBK": "T2w"}
"""fastMRI's knee protocols, and a T2-weighted one of the simulator, by the names that the literature uses."""
SIMULATION = "simulation"
"""Of the HDF5 attribute (a text) and of the hint that say the settings of a simulated volume."""
AXES = ("slices", "coils", "rows", "columns")


SOLID = 0.99
"""Samples lie without gaps if at least this share of what they enclose is there; a sample may be zero by chance."""


class Hints(Config):
    """What a file does not say, or says wrongly. A JSON file beside it, ``scan.npy.json`` for ``scan.npy``, says it.

    A fact that is given overrules the file's header.
    """

    axes: tuple[str, ...] | None = None
    """Axes of a plain array in its order: slices, coils, rows (readout) and columns.

    The slices may be missing. A three-dimensional scan has an axis ``readout`` in their place, and its rows and columns
    are the two phase-encode directions.
    """
    oversampling: float | None = Field(default=None, ge=1, le=16)
    """Readout oversampling: acquired rows over rows of the image.

    None: what the header says, and 1 where there is no header.
    """
    padding: tuple[NonNegativeInt, NonNegativeInt] | None = None
    """Number of columns at the left and at the right edge that were never acquired.

    None: what the header says; without a header, columns of zeros at the edges count as never acquired.
    """
    images: Literal["one", "volumes", "average"] = "one"
    """How to take a file that holds several images of each slice: repetitions, echoes, contrasts.

    ``one``: refuse it. ``volumes``: each becomes a volume of its own, of one patient; echoes and contrasts become
    tasks. ``average``: repetitions are averaged, and the others become volumes.
    """
    crop: tuple[PositiveInt, PositiveInt] | None = None
    """Rows and columns of the region for losses and metrics.

    None: what the header says, and the whole image where there is no header.
    """
    task: str | None = None
    """Name of the task that the file belongs to."""
    patient: str | None = None
    """Name of the patient that the file belongs to."""
    simulated_noise: DrawnNoise | None = None
    """Record of the noise that a simulator added."""
    simulation: str | None = None
    """Settings with which a simulator made the file."""

    @model_validator(mode="before")
    @classmethod
    def _oversampling_was_one_where_nobody_said(cls, value: Any) -> Any:
        # Records of earlier versions hold every field but ``images``, and 1 for an oversampling that nobody gave.
        every = {"axes", "padding", "crop", "task", "patient", "oversampling"}
        if isinstance(value, dict) and every <= set(value) and "images" not in value and value["oversampling"] == 1:
            return {name: one for name, one in value.items() if name != "oversampling"}
        return value

    @field_validator("axes")
    @classmethod
    def _names_each_axis_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        known = (AXES, AXES[1:], ("readout", *AXES[1:]))
        if value is not None and sorted(value) not in [sorted(names) for names in known]:
            raise ValueError(
                f"axes are {', '.join(AXES)} in the array's order (slices may be missing, or readout in their place), "
                f"found {value}"
            )
        return value


@dataclass(frozen=True)
class Geometry:
    """Where a volume lies in the patient, in DICOM's coordinates (left, posterior, superior), in mm.

    Attributes:
        voxel_mm: distance between neighbouring rows, columns and slices of the image, once the readout oversampling is
            off.
        directions: (3, 3): the unit vectors along which the row, the column and the slice number grow; None where the
            file does not say.
        centre: (3,): the middle of the volume; None where the file does not say.
    """

    voxel_mm: tuple[float, float, float]
    directions: NDArray[np.float64] | None = None
    centre: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class RawVolume:
    """A raw Cartesian multi-coil volume. Rows are the readout, columns the phase-encode direction.

    A three-dimensional scan is a volume, too: its slices lie along the readout, already in image space, and its rows
    and columns are the two phase-encode directions.

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
        mask: what was acquired, where the volume is undersampled: (columns,) if whole columns are missing, (rows,
            columns) if samples are; None where it is fully sampled. What lies outside the acquired region (padding, a
            partial echo, the corners of a three-dimensional scan) does not make a volume undersampled.
        load: reads one slice; use ``read_slice``, which checks what it reads.
        files: every file that the volume was read from.
        load_noise: reads the samples of a noise scan, (coils, samples); None where there is none.
        load_maps: reads the coil maps that come with a slice, (coils, rows, columns); None where there are none.
        load_calibration: reads a slice's lines that were acquired for calibration, (coils, rows, columns), zero where
            there are none; their scale and phase may differ from the image's. None where there are no such lines.
        simulated_noise: how the noise in it was drawn, where a simulator says so.
        simulation: identity of the settings with which a simulator made the volume, subject and contrast aside.
        phase_encodings: 1, or 2 for a three-dimensional scan.
        geometry: where it lies in the patient, as far as the file says.
        notes: what the reader noticed and a user should know; each becomes a warning.

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
    load_calibration: Callable[[int], NDArray[np.complex64]] | None = None
    simulated_noise: DrawnNoise | None = None
    simulation: str = ""
    phase_encodings: Literal[1, 2] = 1
    geometry: Geometry | None = None
    notes: tuple[str, ...] = ()

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
        raise InputError(f"{path}: {what}{_why(error)}") from error


def _why(error: Exception) -> str:
    """Why a library could not read a file, in words for its user: HDF5's own speak of its inside."""
    frames = traceback.extract_tb(error.__traceback__)
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if not (frames and "h5py" in Path(frames[-1].filename).parts) or isinstance(error, MemoryError):
        return f", it is damaged or not what its name says ({reason})"
    if isinstance(error, OSError) and error.errno:
        # The file may be whole: no permission, a disk that is away.
        return f" ({os.strerror(error.errno)})"
    return ", it is cut off or damaged"


def acquired_samples(kspace: NDArray[np.complex64]) -> tuple[int, int, NDArray[np.bool_] | None]:
    """Padding and mask of a slice whose file does not say: a sample that is zero in all coils was not acquired.

    Rows that are empty in every column (a partial echo) and corners that are cut off (a three-dimensional scan) are the
    edge of the acquired region, not undersampling.

    Args:
        kspace: (coils, rows, columns).

    Returns:
        Columns of zeros at the left and the right edge, and the mask, as in ``RawVolume``: None where the acquired
        region has no gaps.
    """
    there = np.asarray(kspace.any(axis=0))
    if not there.any():
        return 0, 0, None
    rows, columns = np.asarray(there.any(axis=1)), np.asarray(there.any(axis=0))
    left, right = int(columns.argmax()), int(columns[::-1].argmax())
    if there.sum() >= SOLID * rows.sum() * columns.sum() and is_solid(rows[:, None]):
        return left, right, None if columns[left : columns.size - right].all() else columns
    return left, right, None if is_solid(there) else there


def is_solid(there: NDArray[np.bool_]) -> bool:
    """Whether samples (rows, columns) lie without gaps along rows and along columns."""
    enclosed = _between(there, 0) | _between(there, 1)
    return bool(there.sum() >= SOLID * enclosed.sum())


def share_of(there: NDArray[np.bool_]) -> float:
    """The share of samples that are there (rows, columns), from the first to the last row and column with any."""
    rows, columns = (np.flatnonzero(there.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return 0.0
    return float(there[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean())


def undersampling(there: NDArray[np.bool_]) -> str:
    """How samples (rows, columns) with gaps between them are undersampled, to follow «it is …»."""
    rows, columns = np.asarray(there.any(axis=1)), np.asarray(there.any(axis=0))
    share = f"{share_of(there):.2f} of the samples in its acquired region are there"
    if not is_solid(rows[:, None]) and there.sum() >= SOLID * rows.sum() * columns.sum():
        return f"undersampled along its rows ({share}; are rows and columns swapped?)"
    return f"undersampled in two dimensions ({share})"


def _between(there: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """What lies between the first and the last sample along an axis."""
    begun = np.logical_or.accumulate(there, axis)
    return np.asarray(begun & np.flip(np.logical_or.accumulate(np.flip(there, axis), axis), axis))


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
    patient: str | None = None,
    phase_encodings: Literal[1, 2] = 1,
    notes: tuple[str, ...] = (),
) -> RawVolume:
    """A volume of a format without a header: hints say what they can, the middle slice's zeros say the rest.

    Args:
        path: as in ``RawVolume``, like format, name, files and load_maps.
        shape: slices, coils, rows, columns.
        load: reads one slice.
        hints: go before what the file says.
        task: where the hints name none.
        padding: columns left and right, where the file says so.
        patient: where the hints name none; the volume's name if None.
        phase_encodings: as in ``RawVolume``, like notes.

    Raises:
        InputError: where hints and shape do not fit together.
    """
    slices, coils, rows, columns = shape
    if slices < 1:
        raise InputError(f"{path}: k-space has no slices")
    check_shape(path, shape[1:])
    with parsing(path):
        middle = np.asarray(load(slices // 2))
    left, right, mask = acquired_samples(middle)
    if hints.padding or padding:
        left, right = hints.padding or padding or (0, 0)
        if min(left, right) < 0 or left + right >= columns:
            raise InputError(f"{path}: padding of {left} and {right} columns leaves nothing of {columns}")
        if mask is not None:
            mask[..., :left] = mask[..., columns - right :] = False
    image_rows = max(1, round(rows / (hints.oversampling or 1)))
    crop = hints.crop or (image_rows, columns)
    return RawVolume(
        path=path,
        name=name,
        format=format,
        acquisition=task,
        task=hints.task or usual_task(task),
        patient=hints.patient or patient or name,
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
        simulation=hints.simulation or "",
        phase_encodings=phase_encodings,
        notes=notes,
    )


def usual_task(protocol: str) -> str:
    """The task that a protocol stands for where nobody names one: its usual name, else the protocol's own."""
    return TASKS.get(protocol, protocol)


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
