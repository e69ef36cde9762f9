"""One prepared volume as an HDF5 file: k-space, maps and target slice by slice, and where they came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, ValidationError

from recon.config import Config
from recon.errors import InputError
from recon.files import replace_file

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
    simulated_noise: str = ""
    """Identity of what the raw file said about how its noise was drawn; nothing where it said nothing."""
    truth: bool = False
    """Whether the file holds the noise-free truth."""


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


def write_volume(
    path: Path,
    record: Mapping[str, Any],
    pieces: Iterable[Piece],
    matrices: Mapping[str, NDArray[np.complex64]] | None = None,
) -> VolumeRecord:
    """Write one volume, slice by slice, whole or not at all.

    Args:
        path: the file to write.
        record: the fields of ``VolumeRecord`` except ``scale``, which is found here: the volume's largest target
            magnitude inside the crop. Where its ``truth`` holds, each piece has one.
        pieces: the slices in order, as many as ``record['slices']``.
        matrices: what the coils were multiplied by, ``whitening`` first and ``compression`` then, to be stored too.

    Returns:
        The record as stored in the file.

    Raises:
        InputError: the target is zero everywhere inside the crop.
    """
    shape = (record["rows"], record["columns"])
    coils = (record["slices"], record["coils"], *shape)
    region = centre(shape, (record["crop_rows"], record["crop_columns"]))
    brightest = 0.0
    # The file is closed before it takes its name.
    with replace_file(path) as fresh, h5py.File(fresh, "w") as file:
        kspace = file.create_dataset("kspace", coils, np.complex64)
        maps = file.create_dataset("maps", coils, np.complex64)
        target = file.create_dataset("target", (record["slices"], *shape), np.complex64)
        truth = file.create_dataset("truth", target.shape, np.complex64) if record.get("truth") else None
        for position, piece in enumerate(pieces):
            kspace[position], maps[position], target[position] = piece.kspace, piece.maps, piece.target
            if truth is not None:
                truth[position] = piece.truth
            brightest = max(brightest, float(np.abs(piece.target[region]).max()))
        if brightest == 0:
            raise InputError(f"{record['source']}: the combined image is zero everywhere; is its k-space empty?")
        for name, matrix in (matrices or {}).items():
            file[name] = matrix
        full = VolumeRecord(**{**record, "scale": brightest})
        file.attrs["record"] = full.model_dump_json()
    return full


def read_record(path: Path) -> VolumeRecord:
    """What a volume file says of itself.

    Raises:
        InputError: the file is not a volume of a prepared data set.
    """
    try:
        with h5py.File(path, "r") as file:
            return VolumeRecord.model_validate_json(file.attrs["record"])
    except (OSError, KeyError, ValidationError) as error:
        raise InputError(f"{path} is not a prepared volume; prepare it again") from error


def centre(shape: tuple[int, int], size: tuple[int, int]) -> tuple[slice, slice]:
    """The region of ``size`` (rows, columns) about the centre of ``shape``, clipped to it.

    The centre is sample n // 2, as in a centred Fourier transform.
    """
    rows, columns = (
        slice(n // 2 - min(m, n) // 2, n // 2 - min(m, n) // 2 + min(m, n)) for n, m in zip(shape, size, strict=True)
    )
    return rows, columns
