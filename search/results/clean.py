"""Cleaning: free the checkpoints that a study does not need any more, and what killed processes and Ray Tune left.

A study needs the checkpoints of its best searched trials (export takes them), of its baselines and confirmations (the
test takes them, and later trials start from them), and of every trial that may go on. Records, bundle, test and report
stay as they are. A freed trial can be trained again: ``splitpoint train --like STUDY:TRIAL``.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recon.errors import InputError
from recon.files import replace_file
from search.run.beginning import LOST, TRIALS_FOLDER
from search.run.confirm import leaders
from search.run.driver import driving
from search.study.names import trial_folder
from search.study.open import OpenStudy
from search.study.record import Record, State

FREED = "freed.json"
"""The file, beside the trials' folders, that says which checkpoints were freed: by trial, when."""
_TRIAL = re.compile(r"(search|reference)-(\d{4,})")
_CHECKPOINT = re.compile(r"epoch-\d{5,}|checkpoint_\d{6}")
"""Ours, and those of versions that wrote them through Ray Tune."""
_TUNE = (
    *("experiment_state-*.json", "basic-variant-state-*.json", ".validate_storage_marker", "*.pkl"),
    *("result.json", "params.json", "progress.csv", "error.txt", "events.out.tfevents.*"),
)
"""Files that Ray Tune wrote in earlier versions."""
CHECKPOINT = "checkpoints of trials that are not among the best"
OLDER = "older checkpoints"
UNKNOWN = "checkpoints that no record names"
PART = "unfinished checkpoints"
TUNE = "files of Ray Tune"


@dataclass(frozen=True)
class Spare:
    """A file or folder that the study does not need."""

    path: Path
    why: str
    """One of the kinds above, in the plural."""
    bytes: int


@dataclass(frozen=True)
class Cleaned:
    """What was freed, or would be."""

    spares: tuple[Spare, ...]
    kept: int
    """Number of checkpoints that stay."""
    kept_bytes: int

    @property
    def bytes(self) -> int:
        """Size of what was freed."""
        return sum(one.bytes for one in self.spares)

    def __str__(self) -> str:
        kinds = list(dict.fromkeys(one.why for one in self.spares))
        parts = []
        for kind in kinds:
            sizes = [one.bytes for one in self.spares if one.why == kind]
            parts.append(f"{len(sizes)} {kind} ({size(sum(sizes))})")
        what = ", ".join(parts) or "nothing was to spare"
        return f"{size(self.bytes)}: {what}; {self.kept} checkpoints stay ({size(self.kept_bytes)})"


def clean(study: OpenStudy, keep: int | None = None, dry_run: bool = False) -> Cleaned:
    """Free what a study does not need, in its folder of trials and nowhere else.

    Args:
        study: the study.
        keep: number of best searched trials whose checkpoints stay; without it, as many as the space confirms.
        dry_run: only say what would be freed.

    Returns:
        What was freed.

    Raises:
        InputError: a driver runs the study, or none of its trials' folders belongs to a record of it.
    """
    if not study.folder.is_dir():
        raise InputError(
            f"there is no folder {study.folder}, so nothing can be freed; --runs-dir says where studies live"
        )
    with driving(study):
        records = study.records()
        trials = study.folder / TRIALS_FOLDER
        folders = [one for one in _entries(trials) if one.is_dir() and _TRIAL.fullmatch(one.name)]
        known = {_folder(record) for record in records}
        if folders and not any(one.name in known for one in folders):
            raise InputError(
                f"none of the {len(folders)} folders in {trials} belongs to a trial of study {study.name!r}, so "
                "nothing was freed; is this its --storage?"
            )
        going_on = _going_on(records)
        best = leaders(study, study.space.confirm.top if keep is None else keep) if _any_complete(records) else []
        needed = {_place(record) for record in (*going_on, *best, *_references(records))}
        open_folders = {_folder(record) for record in going_on}
        spares, kept = list(_spares_in(trials)), []
        for folder in folders:
            spares += _spares_in(folder)
            found = [one for one in _entries(folder) if one.is_dir() and _CHECKPOINT.fullmatch(one.name)]
            # The newest checkpoint of a trial that may go on may be of an epoch that its record does not know yet.
            stay = [one for one in found if folder.name in open_folders or (folder.name, one.name) in needed]
            why = UNKNOWN if folder.name not in known else OLDER if stay else CHECKPOINT
            spares += [Spare(one, why, _size(one)) for one in found if one not in stay]
            kept += stay
        if not dry_run:
            _note(trials, records, spares)
            _free(spares, folders)
        return Cleaned(tuple(spares), len(kept), sum(map(_size, kept)))


def freed(study: OpenStudy, record: Record) -> str | None:
    """When a trial's checkpoint was freed (ISO 8601, local); None if it was not."""
    found = _told(study.folder / TRIALS_FOLDER).get(_folder(record))
    return None if found is None else str(found)


def missing(study: OpenStudy, record: Record) -> InputError:
    """The error to raise if a trial's checkpoint is not where its record says."""
    when = freed(study, record)
    if when is None:
        return InputError(
            f"the checkpoint of trial {record.name} is not at {record.checkpoint}; was it moved or deleted?"
        )
    return InputError(
        f"the checkpoint of trial {record.name} was freed by `splitpoint clean` ({when}); "
        f"`splitpoint train --like {study.name}:{record.name} --out DIR` trains it again"
    )


def size(count: int) -> str:
    """A number of bytes for people."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def _folder(record: Record) -> str:
    """The name of a trial's folder."""
    return trial_folder(record.stage == "search", record.number)


def _place(record: Record) -> tuple[str, str]:
    """The names of the folder that a trial's checkpoint lies in and of the checkpoint. Its path may be that of another
    host, or of a folder that was moved since."""
    path = Path(record.checkpoint or "")
    return path.parent.name, path.name


def _going_on(records: Sequence[Record]) -> list[Record]:
    """The trials that a later launch may resume: they run, or were stopped by what was not their fault, and nobody has
    continued them."""
    continued = {(one.stage == "search", one.continues) for one in records}
    return [
        one
        for one in records
        if one.state is State.RUNNING
        or (
            one.state is State.FAIL
            and (one.closed is not None or one.fault is not None)
            and (one.stage == "search", one.number) not in continued
        )
    ]


def _any_complete(records: Iterable[Record]) -> bool:
    return any(one.stage == "search" and one.state is State.COMPLETE for one in records)


def _references(records: Iterable[Record]) -> list[Record]:
    """The complete baselines and confirmations."""
    return [one for one in records if one.stage != "search" and one.state is State.COMPLETE]


def _entries(folder: Path) -> Iterator[Path]:
    """What a folder holds, by name; links are left alone, because they lead out of it."""
    if folder.is_dir():
        yield from (one for one in sorted(folder.iterdir()) if not one.is_symlink())


def _spares_in(folder: Path) -> Iterator[Spare]:
    """What killed processes and Ray Tune left in the trials' folder, or in a trial's."""
    for one in _entries(folder):
        if one.name.startswith(".") and one.name.endswith(".part"):
            yield Spare(one, PART, _size(one))
        elif LOST in one.name and one.is_dir():
            yield Spare(one, UNKNOWN, _size(one))
        elif one.is_file() and one.name != FREED and any(one.match(pattern) for pattern in _TUNE):
            yield Spare(one, TUNE, _size(one))


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file() and not one.is_symlink()]
    return sum(one.lstat().st_size for one in files)


def _note(trials: Path, records: Iterable[Record], spares: Iterable[Spare]) -> None:
    """Write down whose checkpoints go, before they do."""
    going = {(one.path.parent.name, one.path.name) for one in spares}
    now = time.strftime("%Y-%m-%dT%H:%M:%S")
    told = _told(trials) | {_folder(one): now for one in records if one.checkpoint and _place(one) in going}
    if told:
        with replace_file(trials / FREED) as fresh:
            fresh.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _free(spares: Iterable[Spare], folders: Iterable[Path]) -> None:
    for one in spares:
        if one.path.is_dir():
            shutil.rmtree(one.path)
        else:
            one.path.unlink()
    for folder in folders:
        if not any(folder.iterdir()):
            folder.rmdir()


def _told(trials: Path) -> dict[str, str]:
    path = trials / FREED
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
