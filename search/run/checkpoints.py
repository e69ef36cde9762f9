"""A trial's checkpoints on disk: written whole, found again, checked before they are trusted.

A trial's folder holds one folder per checkpoint, named by its epoch: ``trials/search-0012/epoch-00003``. In it are what
the trainer saved, and ``reports.json``: the reports of all epochs up to this one, and the size and checksum of each
file. So a driver that died before it wrote an epoch can have it from the checkpoint, and half a file is never resumed
from.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recon.errors import DamagedError
from recon.files import sync
from search.study.names import CHECKPOINT_NAME

REPORTS = "reports.json"
KEPT_RUNNING = 2
"""Checkpoints kept while a trial trains: the newest may be of an epoch that the driver has not heard of."""
_CHUNK = 2**22

Report = dict[str, Any]
"""What a trial reports after an epoch: ``search.run.trial`` says which keys."""


class DamagedCheckpoint(DamagedError):
    """A checkpoint is missing, or not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    path: Path
    epoch: int
    reports: Mapping[int, Report]
    """By epoch, the reports up to this checkpoint; empty for one that an earlier version wrote."""
    token: str | None = None
    """The token of the trial that wrote it."""


def path_of(folder: Path, epoch: int) -> Path:
    """The place of a trial's checkpoint after an epoch."""
    return Path(folder) / f"epoch-{epoch:05d}"


def epoch_of(path: Path) -> int | None:
    """The epoch in a checkpoint's name; None for another name."""
    found = CHECKPOINT_NAME.fullmatch(Path(path).name)
    return int(found[1]) if found else None


def write(
    folder: Path, epoch: int, save: Callable[[Path], None], reports: Mapping[int, Report], token: str | None = None
) -> Path:
    """Write a checkpoint, synced to the disk, so that it is there whole or not at all; older ones go, but for the last.

    Args:
        folder: the trial's folder.
        epoch: finished epochs.
        save: writes the trainer's files into a folder that does not exist yet.
        reports: by epoch, the reports up to this one.
        token: the trial's, so that another study's trial of this number is not taken for it.

    Returns:
        Its path. One of this epoch that is whole stays: an attempt that was taken for dead may have written it.
    """
    path = path_of(folder, epoch)
    if not _whole(path, token):
        fresh = Path(folder) / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part"
        if not Path(folder).is_dir():
            Path(folder).mkdir(parents=True, exist_ok=True)
            sync(Path(folder).parent)
        try:
            save(fresh)
            files = {one.relative_to(fresh).as_posix(): _stamp(one) for one in _files(fresh)}
            told = {str(one): reports[one] for one in sorted(reports)}
            about = {"epoch": epoch, "token": token, "files": files, "reports": told}
            text = json.dumps(about)
            (fresh / REPORTS).write_text(f"{text}\n{zlib.crc32(text.encode()):08x}\n")
            for one in (*_files(fresh), fresh):
                sync(one)
            _place(fresh, path, token)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        sync(Path(folder))
    for old in checkpoints(folder)[KEPT_RUNNING:]:
        if old.name < path.name:
            shutil.rmtree(old, ignore_errors=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a trial's folder, the newest first; they may be damaged."""
    found = [path for path in Path(folder).glob("epoch-*") if epoch_of(path) is not None]
    return sorted(found, key=lambda path: epoch_of(path) or 0, reverse=True)


def read(path: Path) -> Checkpoint:
    """A checkpoint, if every file is as it was written.

    Raises DamagedCheckpoint with the reason.
    """
    path = Path(path)
    if not path.is_dir():
        raise DamagedCheckpoint(f"the checkpoint {path} is missing")
    epoch = epoch_of(path)
    if epoch is None:  # one of an earlier version, which stands for itself
        return Checkpoint(path, 0, {})
    try:
        text, _, check = (path / REPORTS).read_bytes().partition(b"\n")
        if check != f"{zlib.crc32(text):08x}\n".encode():
            raise DamagedCheckpoint(f"the checkpoint {path} is damaged: {REPORTS} is not what was written")
        about = json.loads(text)
        reports = {int(one): report for one, report in about["reports"].items()}
        for name, stamp in about["files"].items():
            if _stamp(path / name) != stamp:
                raise DamagedCheckpoint(f"the checkpoint {path} is damaged: {name} is not what was written")
    except DamagedCheckpoint:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"the checkpoint {path} is damaged: {REPORTS} cannot be read") from error
    return Checkpoint(path, epoch, reports, about.get("token"))


def newest(paths: Iterable[Path], token: str | None = None) -> tuple[Checkpoint | None, str | None]:
    """The first whole checkpoint, and why the ones before it are not.

    Args:
        paths: checkpoints, the newest first.
        token: pass over those that a trial with another token wrote.
    """
    damage: str | None = None
    for path in paths:
        try:
            found = read(path)
        except DamagedCheckpoint as error:
            damage = damage or str(error)
            continue
        if token is None or found.token == token:
            return found, damage
    return None, damage


def keep_last(folder: Path) -> None:
    """Keep the newest checkpoint of a trial that has ended, and nothing half written; a folder without one goes."""
    for old in checkpoints(folder)[1:]:
        shutil.rmtree(old, ignore_errors=True)
    sweep(folder)


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written, and the folder if nothing else is in it."""
    for part in Path(folder).glob(".epoch-*.part"):
        shutil.rmtree(part, ignore_errors=True)
    if Path(folder).is_dir() and not any(Path(folder).iterdir()):
        Path(folder).rmdir()


def sweep_all(trials: Path) -> None:
    """Remove what killed processes left in the trials' folders of a study that nobody runs, and Tune's files of earlier
    versions."""
    for folder in Path(trials).glob("*/"):
        sweep(folder)
    for state in (*Path(trials).glob("experiment_state-*.json"), *Path(trials).glob("*.pkl")):
        state.unlink(missing_ok=True)


def _place(fresh: Path, path: Path, token: str | None) -> None:
    """Give a checkpoint its name. One that is there steps aside if it is damaged, and stays if it is whole: an attempt
    on a host that was taken for dead may have written it meanwhile."""
    try:
        fresh.rename(path)
    except OSError:
        if _whole(path, token):
            return
        aside = fresh.with_name(f"{fresh.stem}-old.part")
        path.rename(aside)
        fresh.rename(path)
        shutil.rmtree(aside, ignore_errors=True)


def _whole(path: Path, token: str | None) -> bool:
    try:
        return read(path).token == token
    except DamagedCheckpoint:
        return False


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _stamp(path: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    size = check = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            check = zlib.crc32(chunk, check)
    return [size, check]
