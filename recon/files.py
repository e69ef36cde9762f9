"""Writing files and folders so that they appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


def _beside(path: Path) -> Path:
    """A hidden name beside ``path`` that no other process uses."""
    return path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part"


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` to write to; on success it becomes ``path``, on failure it is gone."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = _beside(path)
    try:
        with _named(fresh, path):
            yield fresh
            fresh.replace(path)
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
        if path.exists():
            # A full directory cannot be replaced in one step: the old one steps aside first, and goes last.
            aside = _beside(path)
            path.rename(aside)
            try:
                fresh.rename(path)
            except OSError:
                aside.rename(path)
                raise
            shutil.rmtree(aside)
        else:
            fresh.rename(path)
    finally:
        if fresh.exists():
            shutil.rmtree(fresh)
