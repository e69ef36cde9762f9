"""Where studies are stored: any Optuna storage, by default an SQLite file in the study's folder.

``search.study.record`` defines a study's records, ``search.study.address`` what a storage's URL may be.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.event
import sqlalchemy.exc
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.engine import URL

from recon.errors import InputError
from search.study.address import JOURNAL, parsed_url, secrets, shown_file
from search.study.address import shown as shown
from search.study.address import study_folder as study_folder
from search.study.claim import claim as claim
from search.study.journal import open_journal
from search.study.writing import Fact as Fact
from search.study.writing import FileWatch as FileWatch
from search.study.writing import cause as cause
from search.study.writing import is_away as is_away
from search.study.writing import write as write

NETWORK_FILESYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "beegfs", "gpfs", "ceph", "9p"}
BUSY_SECONDS = 60.0
"""How long a reader or writer waits for another one's lock on an SQLite file."""
CONNECT_SECONDS = 10
"""How long a connection to a server may take."""
MAKING_TRIES = 20
MAKING_SECONDS = 0.25
"""Two processes that make the tables of one database at once get in each other's way; so often one tries again."""
SILENT_SECONDS = 20
"""A server that acknowledges nothing for so long is gone, as behind a cable that was pulled."""


def open_storage(url: str, create: bool = False) -> BaseStorage:
    """Open a storage by URL.

    Args:
        url: any Optuna URL, or ``journal://PATH``, where PATH is a path and no part of a URL.
        create: make a file that does not exist, and cut off a journal's torn last line; without it, a missing file is
            an error, and no file is changed.

    Raises:
        InputError: it cannot be opened.
    """
    if url.startswith(JOURNAL):
        path = Path(url.removeprefix(JOURNAL))
        _check_file(url, path, create)
        return open_journal(path, create)
    parsed = parsed_url(url)
    if parsed.get_backend_name() != "sqlite":
        return _database(parsed)
    if parsed.database in (None, "", ":memory:"):
        raise InputError(
            f"--storage {shown(url)} names no file, so nothing would be kept; give one like sqlite:///study.db"
        )
    path = Path(str(parsed.database))
    _check_file(url, path, create)
    if not create and not _made(path):
        raise InputError(f"{shown_file(url, path)} holds no study yet; a launch may be making one")
    storage = _database(parsed)
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


def connect_options(url: URL) -> dict[str, Any]:
    """Options of the driver with which a server that is gone is noticed, and a lock on a file is waited for; those that
    the URL gives are left to it."""
    driver, backend = url.get_driver_name(), url.get_backend_name()
    options: dict[str, Any] = {}
    if backend == "sqlite":
        options = {"timeout": BUSY_SECONDS}
    elif driver in ("psycopg", "psycopg2"):
        options = {
            "connect_timeout": CONNECT_SECONDS,
            "keepalives": 1,
            "keepalives_idle": SILENT_SECONDS // 2,
            "keepalives_interval": SILENT_SECONDS // 4,
            "keepalives_count": 2,
            "tcp_user_timeout": 1000 * SILENT_SECONDS,
        }
    elif backend in ("mysql", "mariadb") and driver in ("pymysql", "mysqldb", "mysqlconnector"):
        options = {"connection_timeout" if driver == "mysqlconnector" else "connect_timeout": CONNECT_SECONDS}
    return {name: value for name, value in options.items() if name not in url.query}


def _wait_for_the_disk_at_checkpoints_only(connection: Any, record: object) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


def filesystem(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """The type of the file system that holds a path, such as ``ext4``; None if the system does not tell."""
    if not mounts.is_file():
        return None
    target = Path(path).resolve()
    found: dict[Path, str] = {}
    for line in mounts.read_text(errors="surrogateescape").splitlines():
        _, where, kind, *_ = line.split()
        # A space is written as an octal escape.
        found[Path(re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), where))] = kind
    for parent in (target, *target.parents):
        if parent in found:
            return found[parent]
    return None


def _check_file(url: str, path: Path, create: bool) -> None:
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise InputError(
            f"there is no study file {shown_file(url, path)}; --runs-dir or --storage says where studies are"
        )


def _made(path: Path) -> bool:
    """Whether Optuna's tables are whole in an SQLite file. Optuna would make them for a reader, who then gets in the
    way of the launch that makes them."""
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        try:
            return bool(connection.execute("SELECT version_num FROM alembic_version").fetchall())
        except sqlite3.DatabaseError as error:
            # Another kind of file is passed on to Optuna, which says what is wrong with it.
            return "no such table" not in str(error)


def _database(url: URL) -> RDBStorage:
    """Open a database, with another try where a process makes its tables at the same moment."""
    for _ in range(MAKING_TRIES - 1):
        try:
            return _opened(url)
        except _BeingMade:
            time.sleep(MAKING_SECONDS)
    try:
        return _opened(url)
    except _BeingMade as error:
        raise InputError(
            f"--storage {shown(url.render_as_string(hide_password=False))} cannot be opened: {error}"
        ) from None


class _BeingMade(Exception):
    """Another process was faster in making a table."""


def _opened(url: URL) -> RDBStorage:
    text = url.render_as_string(hide_password=False)
    try:
        engine = {"connect_args": connect_options(url), "pool_pre_ping": url.get_backend_name() != "sqlite"}
        # Optuna fills in what stands in braces, as in a template.
        return RDBStorage(text.replace("{", "{{").replace("}", "}}"), engine_kwargs=engine)
    # The exception that is raised instead has no cause: a traceback would print the driver's words, which may repeat
    # the password.
    except ImportError as error:
        raise InputError(
            f"--storage {shown(text)} needs a database driver that is not installed: {error.__cause__ or error}"
        ) from None
    except sqlalchemy.exc.IntegrityError as error:
        raise _BeingMade(cause(error, secrets(url))) from None
    except (
        *(sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, sqlite3.Error),
        *(RuntimeError, OSError, ValueError, TypeError, LookupError),
    ) as error:
        said = cause(error, secrets(url))
        if "already exists" in said:
            raise _BeingMade(said) from None
        raise InputError(f"--storage {shown(text)} cannot be opened: {said}") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's messages about each trial out of the way; a search has its own display."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
