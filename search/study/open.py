"""Opening a study: its two halves and its records.

A study NAME in a storage is two Optuna studies: ``NAME`` (the searched trials) and ``NAME/references`` (baselines and
confirmations: fixed configurations that no sampler should learn from).
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from pydantic import ValidationError

from recon.errors import InputError, sentence
from recon.version import code_version
from search.study.address import check_name, file_of, shown, sqlite_url, storage_url, study_folder
from search.study.gains import counting
from search.study.record import Objective, Record, State, record_of
from search.study.storage import open_storage
from spaces.reading import stored_space
from spaces.space import Space

if TYPE_CHECKING:
    import pandas as pd

REFERENCES = "/references"
_TRIAL = re.compile(r"(search|reference)-\d+")
"""Name of a trial's folder."""
FORMAT = 1
"""Version of a study's stored format; raised when older code could not read it."""


@dataclass(frozen=True)
class OpenStudy:
    """A study that is open for reading, with its two Optuna studies."""

    name: str
    storage: BaseStorage
    url: str
    folder: Path
    """The folder of the study's files: checkpoints, bundle, test, report."""

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
        """What the study says of itself: ``format``, ``space``, ``space_hash``, ``data``, ``data_hash``, ``prepared``;
        empty if its first launch died before it wrote them."""
        return dict(self.search.user_attrs)

    @property
    def space(self) -> Space:
        """The searched space, as of the last launch."""
        stored = self._attribute("space")
        with self.readable():
            return stored_space(stored)

    @property
    def objective(self) -> Objective | None:
        """What searched trials are judged by; None before the study is described. Reads no more of the space."""
        space = self.attributes.get("space")
        found: Objective | None = None if space is None else space.get("objective", {}).get("metric", "ssim")
        return found

    @property
    def data(self) -> Path:
        """The prepared data of the last launch."""
        return Path(self._attribute("data"))

    def _attribute(self, name: str) -> Any:
        found = self.attributes.get(name)
        if found is None:
            raise self.half_made()
        return found

    def half_made(self) -> InputError:
        """The error to raise if the study's first launch died before it described the study."""
        return InputError(
            f"nothing was launched yet in study {self.name!r} in {shown(self.url)}: its first launch ended before it "
            "began; launch it again"
        )

    def records(self) -> list[Record]:
        """All trials: the searched ones in order, then the references."""
        return self.searched() + self.referenced()

    def searched(self) -> list[Record]:
        """The searched trials in order."""
        return self._records(self.search)

    def referenced(self) -> list[Record]:
        """Baselines and confirmations in order."""
        return self._records(self.references)

    def record(self, name: str) -> Record:
        """The trial with this name in the leaderboard: ``12``, or ``r3`` for a reference.

        Raises InputError where there is none.
        """
        found = next((one for one in self.records() if one.name == name), None)
        if found is None:
            raise InputError(f"study {self.name!r} has no trial {name!r}; the leaderboard's column «trial» names them")
        return found

    def over_seeds(self) -> list[Record]:
        """What means over seeds are made of: complete confirmations and grid trainings, and the baselines that count at
        all their seeds."""
        complete = [one for one in self.referenced() if one.state is State.COMPLETE]
        if not any(one.stage == "confirm" for one in complete):
            return []
        return counting(complete)

    def _records(self, half: optuna.Study) -> list[Record]:
        # A trial whose driver died between creating and describing it has no configuration, and is left out.
        trials, objective = half.get_trials(deepcopy=False), self.objective
        with self.readable():
            return [record_of(trial, objective) for trial in trials if "config" in trial.user_attrs]

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """Turn errors from what another version wrote into one sentence."""
        try:
            yield
        except ValidationError as error:
            versions = {trial.user_attrs.get("code_version") for trial in self.search.get_trials(deepcopy=False)}
            by = ", ".join(sorted(one for one in versions if one)) or "unknown"
            raise InputError(
                f"study {self.name!r} in {shown(self.url)} was written by another version of Splitpoint ({by}), and "
                f"this one ({code_version()}) cannot read it: {sentence(error)}"
            ) from error


def open_study(name: str, storage: str | None = None, runs_dir: str | Path = "runs") -> OpenStudy:
    """Open a study that exists, for reading.

    Args:
        name: the study.
        storage: an Optuna URL, or ``journal://PATH`` for a journal file; without it, the SQLite file in the study's
            folder.
        runs_dir: the folder of all studies; each study has one folder in it.

    Raises:
        InputError: there is no such storage or no such study in it, or it has the format of another version.
    """
    check_name(name)
    runs_dir = Path(runs_dir)
    url = storage_url(name, storage, runs_dir)
    folder = study_folder(name, runs_dir)
    file = file_of(url)
    if file is not None and not file.is_file() and (lost := _lost(folder)):
        raise InputError(f"there is no study {name!r} in {shown(url)}, {lost}")
    opened = open_storage(url)
    names = optuna.get_all_study_names(opened)
    if name not in names:
        others = ", ".join(_names(names)) or "none"
        lost = f", {lost}" if (lost := _lost(folder)) else ""
        raise InputError(f"there is no study {name!r} in {shown(url)}{lost}; studies there: {others}")
    study = OpenStudy(name, opened, url, folder)
    if name + REFERENCES not in names:
        raise study.half_made()
    check_format(study)
    return study


def orphaned_trials(folder: Path) -> int:
    """The number of trials' folders in a study's folder; where there is no study, nobody knows what they are of."""
    return sum(_TRIAL.fullmatch(path.name) is not None for path in (folder / "trials").glob("*") if path.is_dir())


def _lost(folder: Path) -> str:
    """What to say of a folder without a study; empty where nothing was lost."""
    count = orphaned_trials(folder)
    what = "the folder of a trial, whose" if count == 1 else f"the folders of {count} trials, whose"
    return f"but {folder / 'trials'} holds {what} study was deleted or is in another --storage" if count else ""


def lost_studies(found: Iterable[str], runs_dir: Path) -> list[str]:
    """A sentence for each folder of ``runs_dir`` that holds trials and belongs to no study.

    Args:
        found: names of the studies that there are.
        runs_dir: the folder of all studies.
    """
    known = set(found)
    folders = (path.parent for path in sorted(runs_dir.glob("*/trials")) if path.parent.name not in known)
    return [f"there is no study {folder.name!r}, {lost}" for folder in folders if (lost := _lost(folder))]


def check_format(study: OpenStudy) -> None:
    """Raise InputError if a study has the format of another version."""
    # The oldest studies store no format number, and are read like format 1.
    found = study.attributes.get("format", FORMAT)
    if found != FORMAT:
        raise InputError(
            f"study {study.name!r} in {shown(study.url)} has format {found}, and this version reads format {FORMAT}"
        )


def _names(stored: Iterable[str]) -> list[str]:
    """The studies among the names of Optuna's studies, sorted."""
    return sorted(name for name in stored if not name.endswith(REFERENCES))


def studies(storage: str | None = None, runs_dir: str | Path = "runs") -> pd.DataFrame:
    """What studies there are, in a storage or, without one, in the folders of ``runs_dir``.

    Returns:
        One row per study: ``study, trials`` (complete), ``stopped, failed, running`` (searched trials),
        ``references`` (complete baselines and confirmations), ``objective``, ``best`` (of complete searched trials),
        ``data``. A study that is half made has no objective.

    Raises:
        InputError: there is no such storage or folder.
    """
    import pandas as pd  # a third of a second, which a launch need not wait for

    folder = Path(runs_dir)
    if storage is not None:
        urls = [storage]
    elif folder.is_dir():
        urls = [sqlite_url(path) for path in sorted(folder.glob("*/study.db"))]
    else:
        raise InputError(f"there is no folder {folder}; --runs-dir says where studies live")
    rows = []
    for url in urls:
        opened = open_storage(url)
        stored = optuna.get_all_study_names(opened)
        rows += [
            _row(OpenStudy(name, opened, url, folder / name), name + REFERENCES in stored) for name in _names(stored)
        ]
    columns = ["study", "trials", "stopped", "failed", "running", "references", "objective", "best", "data"]
    return pd.DataFrame(rows, columns=columns)


def _row(study: OpenStudy, whole: bool) -> dict[str, Any]:
    """The line of a study; ``whole``: it has both of its halves."""
    searched = study.search.get_trials(deepcopy=False)
    # A closed trial did not fail: it was interrupted and another continues it, or it never had a configuration.
    count = Counter(trial.state for trial in searched if "closed" not in trial.user_attrs)
    references = study.references.get_trials(deepcopy=False) if whole else []
    values = [trial.value for trial in searched if trial.state is TrialState.COMPLETE and trial.value is not None]
    attributes = study.attributes
    space = attributes.get("space", {})
    return {
        "study": study.name,
        "trials": count[TrialState.COMPLETE],
        "stopped": count[TrialState.PRUNED],
        "failed": count[TrialState.FAIL],
        "running": count[TrialState.RUNNING],
        "references": sum(trial.state is TrialState.COMPLETE for trial in references),
        "objective": space.get("objective", {}).get("metric"),
        "best": max(values, default=None),
        "data": attributes.get("data"),
    }


def create_study(name: str, storage: str | None = None, runs_dir: Path = Path("runs")) -> OpenStudy:
    """Open a study for writing, making it where it does not exist.

    Raises:
        InputError: the storage cannot be opened, or a study of that name minimises, so it is none of ours.
    """
    check_name(name)
    url = storage_url(name, storage, runs_dir)
    folder = study_folder(name, runs_dir)
    folder.mkdir(parents=True, exist_ok=True)
    opened = open_storage(url, create=True)
    names = optuna.get_all_study_names(opened)
    for full in (name, name + REFERENCES):
        if full in names:
            study = optuna.load_study(study_name=full, storage=opened)
        else:
            study = optuna.create_study(study_name=full, storage=opened, direction="maximize", load_if_exists=True)
        # Optuna loads a study of the other direction without a word.
        if study.directions != [StudyDirection.MAXIMIZE]:
            raise InputError(
                f"study {full!r} in {shown(url)} exists and minimises, so Splitpoint did not make it; "
                "choose another --study"
            )
    made = OpenStudy(name, opened, url, folder)
    check_format(made)
    return made
