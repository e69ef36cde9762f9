"""Where studies are stored: any Optuna storage, by default an SQLite file in the study's folder.

``search.study.record`` defines a study's records.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.engine
import sqlalchemy.event
import sqlalchemy.exc
from optuna.storages import BaseStorage, RDBStorage

from recon.errors import InputError
from search.study.claim import claim as claim
from search.study.journal import open_journal
from search.study.writing import Fact as Fact
from search.study.writing import FileWatch as FileWatch
from search.study.writing import cause as cause
from search.study.writing import is_away as is_away
from search.study.writing import write as write

JOURNAL = "journal://"
NETWORK_FILESYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "beegfs", "gpfs", "ceph", "9p"}
BUSY_SECONDS = 60.0
"""How long a reader or writer waits for another one's lock on an SQLite file."""


def study_folder(name: str, runs_dir: Path) -> Path:
    """``runs/NAME``, if the name can be a folder's name.

    Raises InputError for any other name.
    """
    if not name or name != name.strip() or name.startswith(".") or any(c in name for c in "/\\:\0\n"):
        raise InputError(f"--study {name!r} cannot name a folder: use letters, digits, '-', '_' and '.'")
    return Path(runs_dir) / name


def storage_url(name: str, storage: str | None, runs_dir: Path) -> str:
    """The URL of a study's storage; without one, the SQLite file ``runs/NAME/study.db``."""
    return storage or f"sqlite:///{(study_folder(name, runs_dir) / 'study.db').resolve()}"


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
        return open_journal(path, create)
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
        # Each commit would wait for the disk, seventy times per trial. With write-ahead logging this mode loses nothing
        # when a process dies; when the power fails, at most the last commits, and the file stays whole.
        sqlalchemy.event.listen(storage.engine, "connect", _wait_for_the_disk_at_checkpoints_only)
        storage.engine.dispose()  # connections that were opened before
    return storage


def _wait_for_the_disk_at_checkpoints_only(connection: Any, record: object) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


def filesystem(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """The type of the file system that holds a path, such as ``ext4``; None if the system does not tell."""
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
        raise InputError(f"there is no study file {path}; --runs-dir or --storage says where studies are")


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


def file_of(url: str) -> Path | None:
    """The file of a storage's URL; None for a server's."""
    if url.startswith(JOURNAL):
        return Path(url.removeprefix(JOURNAL))
    parsed = sqlalchemy.engine.make_url(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None
