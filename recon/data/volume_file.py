"""One prepared volume as an HDF5 file: k-space, maps and target slice by slice, and where they came from."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from recon.config import Config
from recon.data.kept import Kept
from recon.errors import DataError, InputError
from recon.files import replace_file
from recon.physics.coils import magnitude_of

VOLUMES_FOLDER = "volumes"


class VolumeRecord(Config):
    """The record in a volume file: the facts that the index repeats for each slice, and the volume's origin."""

    volume: str
    task: str
    patient: str
    slices: int = Field(ge=1)
    coils: int = Field(ge=1)
    rows: int = Field(ge=1)
    columns: int = Field(ge=1)
    pad_left: int = Field(ge=0)
    pad_right: int = Field(ge=0)
    crop_rows: int = Field(ge=1)
    crop_columns: int = Field(ge=1)
    scale: float = Field(gt=0)
    key: str
    """Identity of the content: hash of the raw k-space, the header facts used, and the recipe."""
    kspace_sha256: str
    """Of the raw k-space samples, slice by slice: two files with equal samples are one volume listed twice."""
    calibration: str
    """Identity of the maps: of the samples, the coils' matrix and the calibration, whatever the file was called."""
    prewhitened: Literal["scan", "edge", "no"]
    """The source of the noise covariance."""
    source: str
    """The raw file's name, without its folder."""
    source_sha256: str
    source_format: str
    acquisition: str
    recipe: dict[str, JsonValue]
    versions: dict[str, str]
    warnings: tuple[tuple[int | None, str], ...] = ()
    """Warnings: slice (None: the whole volume), and a sentence."""
    left_out: tuple[tuple[int | None, str], ...] = ()
    """Errors that kept slices out: number of the slice in the raw volume, and a sentence."""
    simulated_noise: str = ""
    """Identity of what the raw file said about how its noise was drawn; nothing where it said nothing."""
    truth: bool = False
    """Whether the file holds the noise-free truth."""
    raw_slices: int = 0
    """Number of slices of the raw volume, those that were left out included."""
    positions: tuple[int, ...] | None = None
    """The raw volume's slices that the file holds, in order; None: all of them."""
    kept: tuple[float, ...] = ()
    """Of each slice, the share of the object's energy that its maps keep (``recon.data.kept``)."""
    covered: tuple[float, ...] = ()
    """Of each slice, the share of the object that its maps cover."""
    simulation: str = ""
    """Identity of the settings with which a simulator made the volume; nothing where it was not simulated."""
    phase_encodings: Literal[1, 2] = 1
    """2: a three-dimensional scan, whose rows are a phase-encode direction, too."""


def volume_file(volume: str) -> str:
    """Where a volume lies, relative to the data set's folder."""
    return f"{VOLUMES_FOLDER}/{volume}.h5"


class Piece(NamedTuple):
    """One prepared slice on its way into a volume file."""

    kspace: NDArray[np.complex64]
    maps: NDArray[np.complex64]
    target: NDArray[np.complex64]
    truth: NDArray[np.complex64] | None = None
    """The target without its noise, if it is known."""
    position: int = 0
    """Number of the slice in the raw volume."""
    kept: Kept | None = None
    """What the maps keep of it."""


def write_volume(
    path: Path,
    record: Mapping[str, Any],
    pieces: Iterable[Piece],
    matrices: Mapping[str, NDArray[np.complex64]] | None = None,
    at_end: Callable[[], Mapping[str, Any]] = dict,
) -> VolumeRecord:
    """Write one volume, slice by slice, whole or not at all.

    Args:
        path: the file to write.
        record: the fields of ``VolumeRecord`` that are known before; ``slices`` is the most that may come, and is
            replaced by the number that came. ``scale`` is found here: the volume's largest target magnitude inside the
            crop. Where its ``truth`` holds, each piece has one.
        pieces: the slices in order.
        matrices: what the coils were multiplied by, ``whitening`` first and ``compression`` then, to be stored too.
        at_end: gives the fields that are known only when all pieces have come.

    Returns:
        The record as stored in the file.

    Raises:
        InputError: there is no piece, or the target is zero everywhere inside the crop.
    """
    shape = (record["rows"], record["columns"])
    region = centre(shape, (record["crop_rows"], record["crop_columns"]))
    brightest = 0.0
    positions: list[int] = []
    kept: list[Kept] = []
    # The file is closed before it takes its name.
    with replace_file(path) as fresh, h5py.File(fresh, "w") as file:
        for piece in pieces:
            arrays = {"kspace": piece.kspace, "maps": piece.maps, "target": piece.target}
            if record.get("truth"):
                assert piece.truth is not None
                arrays["truth"] = piece.truth
            for name, array in arrays.items():
                if not positions:
                    # A chunk a slice, so that slices that are left out leave no room behind.
                    most, chunk = (record["slices"], *array.shape), (1, *array.shape)
                    file.create_dataset(name, (0, *array.shape), np.complex64, maxshape=most, chunks=chunk)
                file[name].resize(len(positions) + 1, axis=0)
                file[name][len(positions)] = array
            brightest = max(brightest, float(magnitude_of(piece.target)[region].max()))
            positions.append(piece.position)
            kept += [] if piece.kept is None else [piece.kept]
        if brightest == 0:
            what = "the combined image is zero everywhere; is its k-space empty?" if positions else "no slice is left"
            raise InputError(f"{record['source']}: {what}")
        for name, matrix in (matrices or {}).items():
            file[name] = matrix
        about = {
            "slices": len(positions),
            "raw_slices": record["slices"],
            "positions": None if len(positions) == record["slices"] else positions,
            "kept": [round(min(1.0, one.energy), 4) for one in kept],
            "covered": [round(one.covered, 4) for one in kept],
            "scale": brightest,
        }
        full = VolumeRecord(**{**record, **about, **at_end()})
        file.attrs["record"] = full.model_dump_json()
    return full


@contextlib.contextmanager
def open_volume(path: Path) -> Iterator[h5py.File]:
    """Open a volume file for reading.

    What fails inside is the file's fault: the caller does nothing with it but read.

    Raises:
        DataError: the file is missing, cut off or damaged, or may not be read; or it was cut off while it was read,
            where HDF5 says nothing and fills up with zeros.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
            whole, left = file.id.get_filesize(), path.stat().st_size
    except (OSError, LookupError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise DataError(f"{path} cannot be read: {_cause(error)}") from error
    if left < whole:
        raise DataError(f"{path} cannot be read: it was cut off to {left} of {whole} bytes")


def _cause(error: Exception) -> str:
    """What went wrong with a file, in a few words, from what HDF5 says of it."""
    said = " ".join(str(error).split())
    cut = re.search(r"truncated file: eof = (\d+),.* stored_eof = (\d+)", said)
    if cut is not None:
        return f"it is cut off at {cut[1]} of {cut[2]} bytes"
    number = getattr(error, "errno", None) or next(iter(re.findall(r"errno = (\d+)", said)), None)
    if number is not None:
        return os.strerror(int(number)).lower()
    inner = re.search(r"\(([^()]+)\)$", said)  # what HDF5 says last is in brackets
    return inner[1] if inner else said


def read_record(path: Path) -> VolumeRecord:
    """What a volume file says of itself.

    Raises:
        DataError: the file cannot be read, or is not a volume of a prepared data set.
    """
    with open_volume(path) as file, _ours(path):
        return VolumeRecord.model_validate_json(file.attrs["record"])


def record_key(file: h5py.File, path: Path) -> str:
    """The key in the record of an open volume file; reading the whole record takes longer.

    Raises:
        DataError: the file is not a volume of a prepared data set.
    """
    with _ours(path):
        return str(json.loads(file.attrs["record"])["key"])


@contextlib.contextmanager
def _ours(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:  # pydantic's and JSON's are kinds of ValueError
        raise DataError(f"{path} is not a prepared volume; prepare it again") from error


def centre(shape: tuple[int, int], size: tuple[int, int]) -> tuple[slice, slice]:
    """The region of ``size`` (rows, columns) about the centre of ``shape``, clipped to it.

    The centre is sample n // 2, as in a centred Fourier transform.
    """
    rows, columns = (
        slice(n // 2 - min(m, n) // 2, n // 2 - min(m, n) // 2 + min(m, n)) for n, m in zip(shape, size, strict=True)
    )
    return rows, columns
