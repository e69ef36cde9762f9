"""Studies: where they are stored, and what their records say.

A study NAME in a storage is two Optuna studies: ``NAME`` (the searched trials) and ``NAME/references`` (baselines and
confirmations: fixed configurations that no sampler should learn from). This module opens them and reads their trials as
typed ``Record`` values; readers work while a search writes. Who writes, and when, is ``search.searcher``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import optuna
import pandas as pd
import sqlalchemy.engine
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from recon.config import TrainConfig
from recon.errors import InputError
from search.slices import unpacked
from spaces.schema import Point, Space, stored_space

Kind = Literal["mtl", "joint", "stl", "stl-steps", "joint-stl", "joint-tuned", "transfer"]
Stage = Literal["search", "baseline", "confirm"]

REFERENCES = "/references"
EPOCH = "epoch/"
SLICES = "slices/"
JOURNAL = "journal://"
NETWORK_FILESYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "beegfs", "gpfs", "ceph", "9p"}
BUSY_SECONDS = 60.0
"""How long a reader or writer waits for another one's lock on an SQLite file."""


class State(StrEnum):
    """How a trial stands. Names and meanings are Optuna's."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    """Stopped early at a rung; its values up to there are real."""
    FAIL = "fail"
    """Raised, was not finite, or was interrupted (then ``closed`` says so)."""


_STATES = {
    TrialState.RUNNING: State.RUNNING,
    TrialState.WAITING: State.RUNNING,
    TrialState.COMPLETE: State.COMPLETE,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAIL: State.FAIL,
}


@dataclass(frozen=True)
class Record:
    """One trial, whole, as the storage has it."""

    number: int
    """The number in its Optuna study; see ``name`` for one that is unique in both."""
    state: State
    kind: Kind
    stage: Stage
    layout: str
    weighting: str | None
    """None for networks of one task, which have nothing to weight."""
    scarce_slices: int | None
    """N: training slices of the scarce task that the trial, or what it starts from, sees; else None."""
    slices: dict[str, int]
    """Training slices of each task that the trial sees."""
    seed: int
    config: TrainConfig
    history: dict[int, dict[str, float]]
    """The metrics by epoch, ascending, as ``recon.training`` reports them (and ``gain`` where it is the objective).
    Epochs that were not validated are not there: look one up, never count."""
    value: float | None
    """The objective at the last epoch; for a stopped trial, where it was stopped; None while running and for a failed
    one."""
    values: dict[int, float]
    """The objective by epoch."""
    constraints: dict[str, float]
    """Feasible where none is above zero; by task: how far the task lies below its STL beyond epsilon."""
    gpu_seconds: float
    parameters: int | None
    peak_memory_bytes: int | None
    node: str | None
    checkpoint: str | None
    """The newest checkpoint's folder."""
    checkpoint_epoch: int
    """The epoch that it was written after; 0 without one."""
    data_hash: str
    code_version: str
    error: str | None
    continues: int | None
    """The number of the interrupted trial whose checkpoint this one went on from."""
    closed: str | None
    """Why the trial was closed without finishing, such as ``interrupted``."""
    key: str
    """Names the configuration within the study: equal keys are the same work (for references, with the same seed)."""
    packed_slices: dict[int, str] = field(repr=False)
    """By epoch, what ``slice_metrics`` reads."""

    @property
    def name(self) -> str:
        """The number as users see it: ``12`` for a searched trial, ``r12`` for a reference."""
        return f"{self.number}" if self.stage == "search" else f"r{self.number}"

    @property
    def configuration(self) -> str:
        """The key without its seed: what a mean over seeds is of."""
        return self.key.rsplit("/seed=", 1)[0]

    @property
    def epochs(self) -> int:
        """The last epoch that was finished and validated; 0 before the first."""
        return max(self.history, default=0)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last epoch; empty where none was finished."""
        return self.history.get(self.epochs, {})

    def slice_metrics(self, epoch: int | None = None) -> pd.DataFrame:
        """The metrics of each validation slice after an epoch: columns task, slice_id, ssim, psnr (dB), nrmse.

        Six significant digits, definition ``paper``; kept at rungs and at the last epoch. Without an epoch, the latest
        that is kept.

        Raises InputError where there are none.
        """
        kept = ", ".join(map(str, self.packed_slices)) or "none"
        epoch = max(self.packed_slices, default=0) if epoch is None else epoch
        if epoch not in self.packed_slices:
            raise InputError(f"trial {self.name} has no metrics by slice at epoch {epoch}; it has those at: {kept}")
        return unpacked(self.packed_slices[epoch])

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the trial trains."""
        return self.config.tasks

    @property
    def feasible(self) -> bool:
        """No task lies further below its STL than epsilon allows."""
        return all(value <= 0 for value in self.constraints.values())

    @property
    def point(self) -> Point | None:
        """The point of the space that a multi-task trial stands for; None for baselines."""
        return Point.parse(self.configuration.removeprefix("mtl/")) if self.kind == "mtl" else None


@dataclass(frozen=True)
class OpenStudy:
    """A study, open for reading; its two halves as Optuna knows them."""

    name: str
    storage: BaseStorage
    url: str
    folder: Path
    """Where the study's files live: checkpoints, bundle, test, report."""

    @cached_property
    def search(self) -> optuna.Study:
        """The searched trials."""
        return optuna.load_study(study_name=self.name, storage=self.storage)

    @cached_property
    def references(self) -> optuna.Study:
        """Baselines and confirmations."""
        return optuna.load_study(study_name=self.name + REFERENCES, storage=self.storage)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the study says of itself: ``space``, ``space_hash``, ``data``, ``data_hash``, ``prepared``."""
        return dict(self.search.user_attrs)

    @property
    def space(self) -> Space:
        """The space that is searched, as it was launched last."""
        return stored_space(self.attributes["space"])

    @property
    def data(self) -> Path:
        """The prepared data that the study was launched on last."""
        return Path(self.attributes["data"])

    def records(self) -> list[Record]:
        """All trials: the searched ones in order, then the references."""
        return self.searched() + self.referenced()

    def searched(self) -> list[Record]:
        """The searched trials in order."""
        return _records(self.search)

    def referenced(self) -> list[Record]:
        """Baselines and confirmations in order."""
        return _records(self.references)

    def over_seeds(self) -> list[Record]:
        """What means over seeds are made of: complete confirmations and grid trainings, and the baselines that count at
        all their seeds."""
        complete = [one for one in self.referenced() if one.state is State.COMPLETE]
        if not any(one.stage == "confirm" for one in complete):
            return []
        return counting(complete)


def counting(complete: Iterable[Record]) -> list[Record]:
    """Leave out the baselines at hyperparameters that do not count.

    Of the combinations that a kind was trained at, for a task and an N, the one that counts has the best mean
    validation SSIM over its seeds, among those with the most seeds.
    """
    complete = list(complete)
    found: dict[Any, dict[str, list[float]]] = {}
    for one in complete:
        if one.kind != "mtl":
            group = found.setdefault((one.kind, one.tasks, one.scarce_slices), {})
            group.setdefault(one.configuration, []).append(one.metrics["ssim"])
    best = {max(group, key=lambda name: (len(group[name]), fmean(group[name]))) for group in found.values()}
    return [one for one in complete if one.kind == "mtl" or one.configuration in best]


def _records(study: optuna.Study) -> list[Record]:
    # A trial whose driver died between creating and describing it has no configuration: there is nothing to say of it.
    trials = study.get_trials(deepcopy=False)
    return [record_of(trial) for trial in trials if "config" in trial.user_attrs]


def record_of(trial: FrozenTrial) -> Record:
    """The typed record of an Optuna trial that carries one."""
    attrs = trial.user_attrs
    history: dict[int, dict[str, float]] = _by_epoch(attrs, EPOCH)
    last = history[max(history)] if history else {}

    def count(name: str) -> int | None:
        return int(last[name]) if name in last else None

    return Record(
        number=trial.number,
        state=_STATES[trial.state],
        kind=attrs["kind"],
        stage=attrs["stage"],
        layout=attrs["layout"],
        weighting=attrs["weighting"],
        scarce_slices=attrs["scarce_slices"],
        slices=attrs["slices"],
        seed=attrs["seed"],
        config=TrainConfig.model_validate(attrs["config"]),
        history=history,
        value=trial.value if trial.state.is_finished() else None,
        values=dict(trial.intermediate_values),
        constraints=trial.constraints,
        gpu_seconds=last.get("gpu_seconds", 0.0),
        parameters=count("parameters"),
        peak_memory_bytes=count("peak_memory_bytes"),
        node=attrs.get("node"),
        checkpoint=attrs.get("checkpoint"),
        checkpoint_epoch=attrs.get("checkpoint_epoch", 0),
        data_hash=attrs["data_hash"],
        code_version=attrs["code_version"],
        error=attrs.get("error"),
        continues=attrs.get("continues"),
        closed=attrs.get("closed"),
        key=attrs["key"],
        packed_slices=_by_epoch(attrs, SLICES),
    )


def _by_epoch(attributes: Mapping[str, Any], prefix: str) -> dict[int, Any]:
    """The attributes with a prefix, by the epoch that follows it, ascending."""
    found = {int(name.removeprefix(prefix)): attributes[name] for name in attributes if name.startswith(prefix)}
    return dict(sorted(found.items()))


def study_folder(name: str, runs_dir: Path) -> Path:
    """``runs/NAME``, for a name that can be a folder's.

    Raises InputError for any other name.
    """
    if not name or name != name.strip() or name.startswith(".") or any(c in name for c in "/\\:\0\n"):
        raise InputError(f"--study {name!r} cannot name a folder: use letters, digits, '-', '_' and '.'")
    return Path(runs_dir) / name


def storage_url(name: str, storage: str | None, runs_dir: Path) -> str:
    """The URL of a study's storage; without one, the SQLite file ``runs/NAME/study.db``."""
    return storage or f"sqlite:///{(study_folder(name, runs_dir) / 'study.db').resolve()}"


def open_study(name: str, storage: str | None = None, runs_dir: Path = Path("runs")) -> OpenStudy:
    """Open a study that exists, for reading.

    Args:
        name: the study.
        storage: an Optuna URL, or ``journal://PATH`` for a journal file; without it, the SQLite file in the study's
            folder.
        runs_dir: where studies live, a folder each.

    Raises:
        InputError: there is no such storage or no such study in it.
    """
    url = storage_url(name, storage, runs_dir)
    opened = open_storage(url)
    names = optuna.get_all_study_names(opened)
    if name not in names or name + REFERENCES not in names:
        others = ", ".join(sorted(other for other in names if not other.endswith(REFERENCES))) or "none"
        raise InputError(f"there is no study {name!r} in {shown(url)}; studies there: {others}")
    return OpenStudy(name, opened, url, study_folder(name, runs_dir))


def create_study(name: str, storage: str | None = None, runs_dir: Path = Path("runs")) -> OpenStudy:
    """Open a study for writing, making it where it does not exist.

    Raises:
        InputError: the storage cannot be opened, or a study of that name minimises, so it is none of ours.
    """
    url = storage_url(name, storage, runs_dir)
    folder = study_folder(name, runs_dir)
    folder.mkdir(parents=True, exist_ok=True)
    opened = open_storage(url, create=True)
    for full in (name, name + REFERENCES):
        study = optuna.create_study(study_name=full, storage=opened, direction="maximize", load_if_exists=True)
        # Optuna loads a study of the other direction without a word.
        if study.directions != [StudyDirection.MAXIMIZE]:
            raise InputError(
                f"study {full!r} in {shown(url)} exists and minimises, so Splitpoint did not make it; "
                "choose another --study"
            )
    return OpenStudy(name, opened, url, folder)


def open_storage(url: str, create: bool = False) -> BaseStorage:
    """Open a storage by URL.

    Args:
        url: any Optuna URL, or ``journal://PATH``.
        create: make a file that does not exist; without it, a missing file is an error.

    Raises:
        InputError: it cannot be opened.
    """
    if url.startswith(JOURNAL):
        path = Path(url.removeprefix(JOURNAL))
        _check_file(path, create)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise InputError(
            f"--storage {url!r} is not a URL; give one like sqlite:///study.db, postgresql://user@host/db or journal://file"
        ) from None
    if parsed.get_backend_name() != "sqlite":
        return _database(url, {"pool_pre_ping": True})
    if parsed.database in (None, "", ":memory:"):
        raise InputError(f"--storage {url!r} names no file, so nothing would be kept; give one like sqlite:///study.db")
    path = Path(str(parsed.database))
    _check_file(path, create)
    storage = _database(url, {"connect_args": {"timeout": BUSY_SECONDS}})
    if create and filesystem(path) not in NETWORK_FILESYSTEMS:
        # Write-ahead logging lets readers read while the search writes; the mode stays with the file. It needs memory
        # that all who have the file open share; on a network's file system readers and the search take turns instead.
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    return storage


def filesystem(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """The type of the file system that holds a path, such as ``ext4``; None where the system does not tell."""
    if not mounts.is_file():
        return None
    target = Path(path).resolve()
    found: dict[Path, str] = {}
    for line in mounts.read_text().splitlines():
        _, where, kind, *_ = line.split()
        found[Path(where.encode().decode("unicode_escape"))] = kind  # a space is written as an octal escape
    for parent in (target, *target.parents):
        if parent in found:
            return found[parent]
    return None


def _check_file(path: Path, create: bool) -> None:
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise InputError(f"there is no study file {path}; --study and --runs-dir (or --storage) say where it is")


def _database(url: str, engine: dict[str, Any]) -> RDBStorage:
    try:
        return RDBStorage(url, engine_kwargs=engine)
    except ImportError as error:
        raise InputError(
            f"--storage {shown(url)} needs a database driver that is not installed: {error.__cause__}"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"--storage {shown(url)} cannot be opened: {first}") from error


def shown(url: str) -> str:
    """The URL as it may be printed: without its password."""
    if url.startswith(JOURNAL):
        return url
    return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's messages about each trial out of the way; a search has its own display."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def code_version() -> str:
    """The installed version, and the commit where the code runs from a checkout (``+`` marks changes on top of it)."""
    import importlib.metadata
    import subprocess

    version = importlib.metadata.version("splitpoint")
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return version
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        )
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version} ({done.stdout.strip()})"


def canonical(value: Any) -> str:
    """JSON with sorted keys: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
