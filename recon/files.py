"""Writing files and folders so that they appear whole or not at all, also after a power cut.

A rename may reach the disk before what it names. So a file or a folder is synced before it takes its name, and the
folder that holds the name afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

_UNSYNCED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}
"""What a file system answers that cannot sync what it was asked to."""


def sync(path: Path) -> None:
    """Return when the disk holds the content of a file, or the names in a folder.

    A file system that cannot do it is no error.

    Raises OSError if what was written cannot be stored, for example because the disk is full.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written to and not be read, or a system that opens no folders
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            error.filename = str(path)
            raise
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def _beside(path: Path) -> Path:
    """A hidden name beside ``path`` that no other process uses."""
    return path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part"


def remove_parts(path: Path) -> None:
    """Remove what killed processes left half written of a file or folder; a process of this machine that lives keeps
    its own. Only one process writes ``path``: to this one, that of another machine is dead."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        writer = part.name.removeprefix(f".{path.name}.").partition("-")[0]
        if writer.isdecimal() and int(writer) != os.getpid() and process_lives(int(writer)):
            continue
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def process_lives(process: int) -> bool:
    """Whether this machine has a process of this number, whoever's it is."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` to write to; on success it becomes ``path``, on failure it is gone."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = _beside(path)
    try:
        with _named(fresh, path):
            yield fresh
            sync(fresh)
            fresh.replace(path)
            sync(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


@contextlib.contextmanager
def _named(fresh: Path, path: Path) -> Iterator[None]:
    """Let errors of the system name the file that was wanted, not the temporary one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and str(error.filename) == str(fresh):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replace_directory(path: Path) -> Iterator[Path]:
    """Yield a fresh directory beside ``path``; on success it takes that place, on failure nothing is left of it."""
    path = Path(path).resolve()  # where a link stands for the directory, it is its target that is replaced
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "this is a file, where a directory is to be written", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = _beside(path)
    with _named(fresh, path):
        fresh.mkdir()
    try:
        yield fresh
        _sync_tree(fresh)
        if path.exists():
            # A full directory cannot be replaced in one step: the old one steps aside first, and goes last.
            aside = _beside(path)
            path.rename(aside)
            try:
                fresh.rename(path)
            except OSError:
                aside.rename(path)
                raise
            sync(path.parent)
            shutil.rmtree(aside)
        else:
            fresh.rename(path)
            sync(path.parent)
    finally:
        if fresh.exists():
            shutil.rmtree(fresh)
