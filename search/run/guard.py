"""A storage's file while a search runs: noticed when it is deleted or replaced, and what it held is saved.

A deleted file lives on as long as somebody has it open. The guard has it open, so it can put it back.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from recon.files import replace_file
from search.study.address import JOURNAL, file_of
from search.study.writing import FileWatch


class Guard:
    """Watches the file of a storage; a storage without a file needs no guard.

    Args:
        url: the storage's.
    """

    def __init__(self, url: str) -> None:
        self._path = file_of(url)
        self._journal = url.startswith(JOURNAL)
        self._said: str | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            self._watch = FileWatch(self._path)
            if self._journal:
                self._open: sqlite3.Connection | int = os.open(self._path, os.O_RDONLY)
            else:
                self._open = sqlite3.connect(self._path, check_same_thread=False)
                self._open.execute("SELECT COUNT(*) FROM studies").fetchone()  # a connection opens the file only now
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is not None:
            self._watch.close()
            if isinstance(self._open, int):
                os.close(self._open)
            else:
                self._open.close()

    def look(self) -> str | None:
        """What happened to the file, in a sentence; None if it is in its place.

        A deleted file is put back. Where another stands in its place, what the first one held is written beside it.
        """
        if self._path is None or self._said is not None:
            return self._said
        trouble = self._watch.trouble()
        if trouble is None:
            return None
        if trouble == "gone" or _empty(self._path):
            self._save(self._path)
            self._said = (
                f"{self._path} was deleted while the search ran, and was put back with all that it held; the same "
                "command goes on from here"
            )
        else:
            beside = self._path.with_name(
                f"{self._path.stem}-rescued-{time.strftime('%Y%m%d-%H%M%S')}{self._path.suffix}"
            )
            self._save(beside)
            self._said = (
                f"{self._path} was replaced by another file while the search ran; what it held before is in {beside}: "
                "put the right one in place, and the same command goes on from there"
            )
        return self._said

    def _save(self, path: Path) -> None:
        with replace_file(path) as fresh:
            if isinstance(self._open, int):
                with os.fdopen(os.dup(self._open), "rb") as source, fresh.open("wb") as target:
                    source.seek(0)
                    shutil.copyfileobj(source, target)
            else:
                target_connection = sqlite3.connect(fresh)
                try:
                    self._open.backup(target_connection)
                finally:
                    target_connection.close()


def _empty(path: Path) -> bool:
    """Whether a file is the empty one that SQLite makes when it opens a path at which there is none."""
    return path.stat().st_size == 0
