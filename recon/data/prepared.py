"""The prepared data set: one folder with an index of slices, a description, and one HDF5 file per volume.

::

    OUT/dataset.json          format version, content hash, options, tasks, volumes, what failed, library versions
    OUT/index.csv             one line per slice, read with exact types
    OUT/problems.csv          findings in the raw files, by file and slice
    OUT/volumes/<name>.h5     kspace, maps, target of one volume, and where they came from; where it was simulated, the
                              noise-free truth too

This module knows the format: it reads it, and holds the pieces that write it. ``recon.data.prepare`` turns raw k-space
into these arrays; ``recon.data.loading`` turns slices into batches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from recon.config import Config
from recon.data.index import INDEX_DTYPES, SPLITS, Cut, IndexRow, Split, read_index
from recon.data.options import PrepareOptions
from recon.data.volume_file import VOLUMES_FOLDER, VolumeRecord, open_volume, read_record, record_key, volume_file
from recon.errors import DataError, InputError, sentence

FORMAT_VERSION = 2
DATASET_FILE = "dataset.json"
INDEX_FILE = "index.csv"
PROBLEMS_FILE = "problems.csv"


class Slice(NamedTuple):
    """One slice as stored: NumPy, centred conventions, unscaled."""

    kspace: NDArray[np.complex64]
    """(coils, rows, columns); padding columns are zero."""
    maps: NDArray[np.complex64]
    """(coils, rows, columns); Σ|s|² is one inside the object and zero outside."""
    target: NDArray[np.complex64]
    """(rows, columns); the fully sampled coil images, SENSE-combined."""
    row: IndexRow
    truth: NDArray[np.complex64] | None = None
    """(rows, columns); the target without its noise, combined with the same maps. None if the data do not know it, or
    if ``PreparedData.read`` was not asked for it."""


def content_hash(keys: Mapping[str, str], index: pd.DataFrame) -> str:
    """Identity of a prepared data set: it depends on the content, not on place, time or library versions.

    The hash covers each volume's key (raw samples and recipe) and the index. It leaves out ``scale``, a computed number
    whose last bits may differ between machines. So the same raw data and options give the same hash everywhere.
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
    """Volume → key of its content. A volume file with another key has been replaced since."""
    failed: dict[str, str]
    """Raw file → why it was left out."""
    versions: dict[str, str]


@dataclass(frozen=True)
class _Files:
    root: Path
    index: pd.DataFrame
    description: Description


def _open(root: Path) -> _Files:
    try:
        return _opened(root)
    except OSError as error:
        where = root if error.filename is None else error.filename
        raise DataError(f"{where} cannot be read: {(error.strerror or str(error)).lower()}") from error


def _opened(root: Path) -> _Files:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the folder that `splitpoint prepare` wrote")
    if not (root / DATASET_FILE).is_file():
        if (root / VOLUMES_FOLDER).is_dir():
            raise DataError(f"{root} is half prepared (no {DATASET_FILE}); run the same `splitpoint prepare` again")
        raise DataError(f"{root} holds no {DATASET_FILE}; give the folder that `splitpoint prepare` wrote")
    try:
        content = json.loads((root / DATASET_FILE).read_text())
    except ValueError as error:
        raise DataError(f"{root / DATASET_FILE} is not JSON ({error}); prepare the data again") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT_VERSION:
        raise DataError(f"{root / DATASET_FILE}: format is {found}, this version reads {FORMAT_VERSION}")
    try:
        description = Description.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{root / DATASET_FILE}: {sentence(error)}; prepare the data again") from error
    try:
        index = read_index(root / INDEX_FILE)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{root / INDEX_FILE} cannot be read ({error}); prepare the data again") from error
    if list(index.columns) != list(INDEX_DTYPES) or content_hash(description.keys, index) != description.hash:
        raise DataError(f"{root / INDEX_FILE} is not the index that {DATASET_FILE} describes; prepare the data again")
    missing = sorted(name for name in index["file"].unique() if not (root / name).is_file())
    if missing:
        raise DataError(
            f"{root / missing[0]} is missing ({len(missing)} such in all); run the same `splitpoint prepare` again"
        )
    return _Files(root, index, description)


class PreparedData:
    """A prepared data set, open for reading.

    It holds no open file, so it can be pickled to other processes and read by several workers at once.

    Args:
        path: the folder that ``prepare`` wrote.
        open_test: allow reading the test split. Only the final test sets it.

    Raises:
        DataError: the folder is not prepared data, is half prepared, has another format version, or was changed by
            hand; or something in it cannot be read.
    """

    def __init__(self, path: str | Path, open_test: bool = False) -> None:
        files = _open(Path(path))
        self.path = files.root
        self.open_test = open_test
        self.index = files.index
        self.description = files.description
        names = list(self.index.columns)
        columns = [self.index[name].tolist() for name in names]
        self._rows = {values[0]: IndexRow(*values) for values in zip(*columns, strict=True)}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, sorted."""
        return self.description.tasks

    @property
    def hash(self) -> str:
        """Content hash: equal for the same raw data and options, on every machine and at any time."""
        return self.description.hash

    @property
    def options(self) -> PrepareOptions:
        """The options that the data were prepared with."""
        return self.description.options

    def row(self, slice_id: int) -> IndexRow:
        """The slice's line of the index."""
        try:
            return self._rows[int(slice_id)]
        except KeyError:
            raise InputError(f"{self.path} has no slice {slice_id}; it has {len(self._rows)}, from 0 on") from None

    def record(self, volume: str) -> VolumeRecord:
        """The record of a volume: where it came from and how it was prepared."""
        if volume not in self.description.keys:
            raise InputError(f"{self.path} has no volume {volume!r}")
        return read_record(self.path / volume_file(volume))

    def knows_truth(self, task: str, split: Split) -> bool:
        """Whether every slice of a task in a split has a noise-free truth, as simulated slices do.

        Raises:
            InputError: as for ``subset``.
        """
        volumes = {self.row(one).volume for one in self.subset(task, split=split)}
        return bool(volumes) and all(self.record(volume).truth for volume in volumes)

    def read(self, slice_id: int, *, truth: bool = False) -> Slice:
        """Read one slice.

        Args:
            slice_id: the slice's number in the index.
            truth: also read the noise-free truth, if the data know it. Training never asks for it.

        Raises:
            InputError: there is no such slice, or it belongs to a test split that was not opened.
            DataError: its volume cannot be read, or was prepared anew since this data set was opened. The sentence
                names the file.
        """
        row = self.row(slice_id)
        self._guard(row.split)
        path = self.path / row.file
        # Opened for each read, so that threads and forked processes share no open file.
        with open_volume(path) as file:
            key = record_key(file, path)
            if key != self.description.keys[row.volume]:
                raise DataError(f"{path} was prepared anew since the index was written; prepare the data again")
            found = file["truth"][row.slice] if truth and "truth" in file else None
            return Slice(file["kspace"][row.slice], file["maps"][row.slice], file["target"][row.slice], row, found)

    def subset(self, task: str, n: int | None = None, cut: Cut = "volumes", split: Split = "train") -> list[int]:
        """Slices of a task in a split, in ascending order of ``slice_id``.

        Args:
            task: one of ``tasks``.
            n: cut the training slices to this number. The cuts are nested: a smaller cut is part of every larger one.
            cut: ``volumes`` takes whole volumes in a seeded order and cuts the last one; ``slices`` takes random
                slices.
            split: ``train``, ``val`` or ``test``.

        Raises:
            InputError: there is no such task or split, ``n`` exceeds the slices there are, or the test split is not
                open.
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
