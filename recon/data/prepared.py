"""The prepared data set: one folder with an index of slices, a description, and one HDF5 file a volume.

::

    OUT/dataset.json          format version, content hash, options, tasks, volumes, what failed, library versions
    OUT/index.csv             a line a slice, read with exact types
    OUT/problems.csv          what was found wrong with raw files, by file and slice
    OUT/volumes/<name>.h5     kspace, maps, target of one volume, and where they came from; where it was simulated, the
                              noise-free truth too

This module knows the format: how it is read, and the pieces that write it. How raw k-space becomes these arrays is
``recon.data.prepare``; how slices become batches is ``recon.data.loading``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from recon.config import Config, MaskConfig
from recon.data.readers import Hints
from recon.errors import InputError
from recon.files import replace_file

FORMAT_VERSION = 2
DATASET_FILE = "dataset.json"
INDEX_FILE = "index.csv"
PROBLEMS_FILE = "problems.csv"
VOLUMES_FOLDER = "volumes"

TRUTH = "noise-free truth"
"""What ``Slice.truth`` is called in tables."""
TRUTH_IS = (
    "The noise-free truth is no reconstruction: it is the simulated image before noise was added, measured against the "
    "noisy reference as every method is. It marks the ceiling that the reference's own noise leaves; a network can lie "
    "a little above by keeping the noise of the lines that it is given."
)
"""The same in sentences, for legends and files."""

Split = Literal["train", "val", "test"]
Cut = Literal["volumes", "slices"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class PrepareOptions(Config):
    """How raw k-space is prepared. Stored with the data; the first group decides what the volume files hold."""

    calibration: Literal["full", "mask"] = "full"
    """ESPIRiT from the fully sampled centre (the paper's way; a mild leak), or only from lines that a mask keeps."""
    calibration_mask: MaskConfig = MaskConfig()
    """The mask of ``calibration='mask'``: one acceleration, one centre fraction."""
    calibration_width: int = Field(default=24, ge=8)
    """Edge of the square centre of k-space that ESPIRiT calibrates from, in samples."""
    eigenvalue_crop: float = Field(default=0.95, ge=0, lt=1)
    """Maps are zero where ESPIRiT's largest eigenvalue is not above this."""
    maps: Literal["espirit", "own"] = "espirit"
    """ESPIRiT's, or those that come with the raw data."""
    espirit: Literal["splitpoint", "bart"] = "splitpoint"
    """Whose program: ours (sigpy's equations), or BART's ecalib, where it is installed."""
    prewhiten: Literal["auto", "scan", "edge", "off"] = "auto"
    """Make the coils' noise uncorrelated and of variance one: by the noise scan where there is one (``auto``), by the
    noise scan or not at all (``scan``: a volume without is refused), by the corners of k-space, or leave it."""
    coils: int | None = Field(default=None, ge=1)
    """Compress to this many virtual coils (a volume with fewer keeps its own)."""
    compression: Literal["svd", "geometric"] = "svd"
    """One matrix for the volume, or one for each position along the readout."""
    crop: Literal["header", "full"] | tuple[int, int] = "header"
    """The centre region (rows, columns) for losses and metrics: the header's reconstruction matrix, all, or a size."""

    hints: Hints = Hints()
    """What raw files without a header cannot say; a JSON file beside a raw file goes before them."""
    patients: Literal["header", "files"] = "header"
    """Whose a volume is: as its header says, or each volume a patient of its own."""
    tasks: dict[str, str] = Field(default={})
    """Glob on the raw file's path → task name; a file that no glob matches is named by its acquisition."""
    split: Literal["auto", "folders", "random"] = "auto"
    """By folders named train, val, test (or multicoil_train, …), by seeded draw, or by folders where there are any."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Parts of the patients for training, validation and test in a seeded draw."""
    split_seed: int = Field(default=0, ge=0)
    subset_seed: int = Field(default=0, ge=0)
    """Of the nested orders in which a scarce task's training volumes or slices are cut."""

    @field_validator("crop")
    @classmethod
    def _crop_has_pixels(cls, value: str | tuple[int, int]) -> str | tuple[int, int]:
        if not isinstance(value, str) and min(value) < 1:
            raise ValueError(f"a crop has at least one row and one column, found {value[0]} × {value[1]}")
        return value

    @field_validator("fractions")
    @classmethod
    def _fractions_add_up(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or value[0] == 0 or abs(sum(value) - 1) > 1e-6:
            raise ValueError(f"the fractions of train, val and test add up to 1, and train is not 0, found {value}")
        return value

    @model_validator(mode="after")
    def _calibration_mask_is_one(self) -> PrepareOptions:
        mask = self.calibration_mask
        if len(mask.accelerations) != 1 or len(mask.centre_fractions) != 1:
            raise ValueError("calibration_mask is one mask: give one acceleration and one centre fraction")
        return self

    def recipe(self) -> dict[str, JsonValue]:
        """The options that decide what a volume file holds, as JSON values."""
        fields = {"maps", "prewhiten", "coils", "crop"}
        if self.coils is not None:
            fields |= {"compression", "calibration_width"}
        if self.maps == "espirit":
            fields |= {"espirit", "calibration", "calibration_width", "eigenvalue_crop"}
            if self.calibration == "mask":
                fields.add("calibration_mask")
        recipe: dict[str, JsonValue] = json.loads(self.model_dump_json(include=fields))
        return recipe


class VolumeRecord(Config):
    """What a volume file says of itself: the facts that the index repeats for each slice, and its origin."""

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
    """Where the noise's covariance came from."""
    source: str
    """The raw file's name, without its folder."""
    source_sha256: str
    source_format: str
    acquisition: str
    recipe: dict[str, JsonValue]
    versions: dict[str, str]
    warnings: tuple[tuple[int | None, str], ...] = ()
    """What was found odd: slice (None: the whole volume), and a sentence."""
    simulated_noise: str = ""
    """Identity of what the raw file said about how its noise was drawn; nothing where it said nothing."""
    truth: bool = False
    """Whether the file holds the noise-free truth."""


class Row(NamedTuple):
    """A line of the index: one slice."""

    slice_id: int
    task: str
    volume: str
    patient: str
    slice: int
    split: Split
    coils: int
    rows: int
    columns: int
    pad_left: int
    """Columns at the left edge that were never acquired (zero)."""
    pad_right: int
    """The same at the right edge, as a count."""
    crop_rows: int
    crop_columns: int
    scale: float
    """Largest target magnitude of the volume inside the crop; k-space and target are divided by it at loading."""
    rank_volumes: int
    """Place in the nested order by volumes of the task's training slices; -1 outside training."""
    rank_slices: int
    """Place in the nested order by slices; -1 outside training."""
    file: str
    """The volume's file, relative to the data set's folder."""


class Slice(NamedTuple):
    """One slice as stored: NumPy, centred conventions, unscaled."""

    kspace: NDArray[np.complex64]
    """(coils, rows, columns); padding columns are zero."""
    maps: NDArray[np.complex64]
    """(coils, rows, columns); Σ|s|² is one inside the object and zero outside."""
    target: NDArray[np.complex64]
    """(rows, columns); the fully sampled coil images, SENSE-combined."""
    row: Row
    truth: NDArray[np.complex64] | None = None
    """(rows, columns); the target without its noise, by the same maps. None where the data do not know it, and wherever
    nobody asked for it: see ``PreparedData.read``."""


def _index_dtypes() -> dict[str, Any]:
    kinds = {int: np.dtype(np.int64), float: np.dtype(np.float64)}
    # Everything else (str, Split) is text: "007" stays a patient's name, "NA" a task's.
    return {name: kinds.get(kind, "str") for name, kind in get_type_hints(Row).items()}


INDEX_DTYPES: dict[str, Any] = _index_dtypes()


def empty_index() -> pd.DataFrame:
    """An index without slices, with the columns and types that every index has."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in INDEX_DTYPES.items()})


def read_index(path: Path) -> pd.DataFrame:
    """Read ``index.csv`` with exact types: text stays text, and the scale keeps every bit."""
    # pandas' own parser of floats may miss the last bit; Python's, which astype calls, does not.
    as_text = {name: "str" if kind == np.float64 else kind for name, kind in INDEX_DTYPES.items()}
    return pd.read_csv(path, dtype=as_text, na_filter=False).astype(INDEX_DTYPES)


def write_index(path: Path, index: pd.DataFrame) -> None:
    """Write ``index.csv`` whole or not at all."""
    with replace_file(path) as fresh:
        index.to_csv(fresh, index=False)


def volume_file(volume: str) -> str:
    """Where a volume lies, relative to the data set's folder."""
    return f"{VOLUMES_FOLDER}/{volume}.h5"


class Piece(NamedTuple):
    """One prepared slice on its way into a volume file."""

    kspace: NDArray[np.complex64]
    maps: NDArray[np.complex64]
    target: NDArray[np.complex64]
    truth: NDArray[np.complex64] | None = None
    """The target without its noise, where it is known."""


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
        InputError: where the target is zero everywhere inside the crop.
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
        InputError: where the file is not a volume of a prepared data set.
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


def content_hash(keys: Mapping[str, str], index: pd.DataFrame) -> str:
    """Identity of a prepared data set: what is in it, not where, when or with which library versions it was made.

    Made of each volume's key (raw samples and recipe) and the index without ``scale``, a computed number that may
    differ in its last bits between machines. So the same raw data and options give the same hash everywhere.
    """
    columns = [name for name in index.columns if name != "scale"]
    content = {
        "format": FORMAT_VERSION,
        "keys": dict(sorted(keys.items())),
        "columns": columns,
        "slices": index[columns].to_numpy().tolist(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Description(Config):
    """``dataset.json``."""

    format: int
    hash: str
    tasks: tuple[str, ...]
    options: PrepareOptions
    keys: dict[str, str]
    """Volume → key of its content; a volume file with another key was replaced since."""
    failed: dict[str, str]
    """Raw file → why it is not here."""
    versions: dict[str, str]


@dataclass(frozen=True)
class _Files:
    root: Path
    index: pd.DataFrame
    description: Description


def _open(root: Path) -> _Files:
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; give the folder that `splitpoint prepare` wrote")
    if not (root / DATASET_FILE).is_file():
        if (root / VOLUMES_FOLDER).is_dir():
            raise InputError(f"{root} is half prepared (no {DATASET_FILE}); run the same `splitpoint prepare` again")
        raise InputError(f"{root} holds no {DATASET_FILE}; give the folder that `splitpoint prepare` wrote")
    try:
        content = json.loads((root / DATASET_FILE).read_text())
    except ValueError as error:
        raise InputError(f"{root / DATASET_FILE} is not JSON ({error}); prepare the data again") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT_VERSION:
        raise InputError(f"{root / DATASET_FILE}: format is {found}, this version reads {FORMAT_VERSION}")
    try:
        description = Description.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{root / DATASET_FILE}: {field}: {first['msg']}; prepare the data again") from error
    try:
        index = read_index(root / INDEX_FILE)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{root / INDEX_FILE} cannot be read ({error}); prepare the data again") from error
    if list(index.columns) != list(INDEX_DTYPES) or content_hash(description.keys, index) != description.hash:
        raise InputError(f"{root / INDEX_FILE} is not the index that {DATASET_FILE} describes; prepare the data again")
    missing = sorted(name for name in index["file"].unique() if not (root / name).is_file())
    if missing:
        raise InputError(
            f"{root / missing[0]} is missing ({len(missing)} such in all); run the same `splitpoint prepare` again"
        )
    return _Files(root, index, description)


class PreparedData:
    """A prepared data set, open for reading.

    Holds no open file, so it may be pickled to other processes and read from several DataLoader workers at once.

    Args:
        path: the folder that ``prepare`` wrote.
        open_test: allow the test split to be read. Only the final test does.

    Raises:
        InputError: not a prepared folder, half prepared, of another format version, or changed by hand.
    """

    def __init__(self, path: str | Path, open_test: bool = False) -> None:
        files = _open(Path(path))
        self.path = files.root
        self.open_test = open_test
        self.index = files.index
        self.description = files.description
        names = list(self.index.columns)
        columns = [self.index[name].tolist() for name in names]
        self._rows = {values[0]: Row(*values) for values in zip(*columns, strict=True)}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, sorted."""
        return self.description.tasks

    @property
    def hash(self) -> str:
        """Content hash: equal wherever and whenever the same raw data are prepared with the same options."""
        return self.description.hash

    @property
    def options(self) -> PrepareOptions:
        """The options that the data were prepared with."""
        return self.description.options

    def row(self, slice_id: int) -> Row:
        """The slice's line of the index."""
        try:
            return self._rows[int(slice_id)]
        except KeyError:
            raise InputError(f"{self.path} has no slice {slice_id}; it has {len(self._rows)}, from 0 on") from None

    def record(self, volume: str) -> VolumeRecord:
        """Where a volume came from and how it was prepared."""
        if volume not in self.description.keys:
            raise InputError(f"{self.path} has no volume {volume!r}")
        return read_record(self.path / volume_file(volume))

    def knows_truth(self, task: str, split: Split) -> bool:
        """Whether every slice of a task in a split has a noise-free truth, as simulated ones do.

        Raises:
            InputError: as ``subset``.
        """
        volumes = {self.row(one).volume for one in self.subset(task, split=split)}
        return bool(volumes) and all(self.record(volume).truth for volume in volumes)

    def read(self, slice_id: int, *, truth: bool = False) -> Slice:
        """Read one slice.

        Args:
            slice_id: which.
            truth: also read the noise-free truth, where the data know it. Training never asks.

        Raises:
            InputError: no such slice; a slice of the test split where that was not opened; a volume that was prepared
                anew since this data set was opened.
        """
        row = self.row(slice_id)
        self._guard(row.split)
        path = self.path / row.file
        # Opened for each read: nothing to share between threads or across a fork.
        with h5py.File(path, "r") as file:
            key = json.loads(file.attrs["record"])["key"]
            if key != self.description.keys[row.volume]:
                raise InputError(f"{path} was prepared anew since the index was written; prepare the data again")
            found = file["truth"][row.slice] if truth and "truth" in file else None
            return Slice(file["kspace"][row.slice], file["maps"][row.slice], file["target"][row.slice], row, found)

    def subset(self, task: str, n: int | None = None, cut: Cut = "volumes", split: Split = "train") -> list[int]:
        """Slices of a task in a split, in ascending order of ``slice_id``.

        Args:
            task: one of ``tasks``.
            n: cut the training slices to this many; the cuts are nested, a smaller one lies in each larger one.
            cut: ``volumes`` takes whole volumes in a seeded order and cuts the last; ``slices`` takes slices at random.
            split: ``train``, ``val`` or ``test``.

        Raises:
            InputError: no such task or split, more slices asked than there are, or the test split where not opened.
        """
        if task not in self.tasks:
            raise InputError(f"there is no task {task!r} in {self.path}; it holds {', '.join(self.tasks)}")
        if split not in SPLITS:
            raise InputError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")
        if cut not in ("volumes", "slices"):
            raise InputError(f"cut is {cut!r}; it is 'volumes' or 'slices'")
        self._guard(split)
        chosen = self.index[(self.index["task"] == task) & (self.index["split"] == split)]
        if n is not None:
            if split != "train":
                raise InputError(f"slices of {task}: {n} asked of the {split} split, but only training slices are cut")
            if not 1 <= n <= len(chosen):
                raise InputError(f"slices of {task}: {n} asked, but {self.path} has 1 to {len(chosen)} for training")
            chosen = chosen[chosen[f"rank_{cut}"] < n]
        return [int(one) for one in sorted(chosen["slice_id"])]

    def _guard(self, split: str) -> None:
        if split == "test" and not self.open_test:
            raise InputError("the test split is opened by `splitpoint test` alone")

    def __repr__(self) -> str:
        return f"PreparedData({str(self.path)!r}, tasks={self.tasks}, slices={len(self._rows)}, hash={self.hash[:12]})"
