"""Journals: a storage in one file of text lines, for file systems that SQLite cannot use.

Optuna reads and writes the lines. This module mends what a power loss or a full disk does to the last one: half a line
would join the next one that is written, and nobody could read the file again (optuna/optuna#5138).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalOperation

from recon.errors import InputError

LOCK_SECONDS = 30
"""A lock that is older belongs to a dead process, and is taken from it."""
_BEGIN = b'{"op_code":'
"""What every line begins with."""
_BLOCK = 65536

_log = logging.getLogger(__name__)


def open_journal(path: Path, create: bool) -> JournalStorage:
    """Open the journal at a path.

    Args:
        path: of the file.
        create: for writing: a missing file is made, and half a last line is cut off. Without it the file stays as it
            is, and half a last line is not read.

    Raises:
        InputError: a line is broken that is not the last, or the file is no journal.
    """
    backend = JournalFile(path)
    if create:
        backend.mend()
    try:
        return JournalStorage(backend)
    except InputError:
        raise
    # A line that is JSON and does not say what Optuna needs.
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError, IndexError) as error:
        raise backend.broken(backend.line) from error


class JournalFile(JournalFileBackend):
    """Optuna's journal file, of which each line is written whole or not at all.

    Args:
        path: of the file, which is made where there is none.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), JournalFileOpenLock(str(path), LOCK_SECONDS))
        self.path = path
        self.line = 0
        """Number of the line that was read last, from 1."""

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The lines from a number (from 0) as Optuna reads them.

        Raises InputError for a broken line.
        """
        self.line = log_number_from
        try:
            for log in super().read_logs(log_number_from):
                self.line += 1
                if not _is_log(log):
                    raise self.broken(self.line)
                yield log
        except InputError:
            raise
        except ValueError as error:
            raise self.broken(self.line + 1) from error

    def broken(self, line: int) -> InputError:
        """The error to raise if nobody can read a line."""
        return InputError(
            f"line {line} of the journal {self.path} is broken, so the study cannot be read; restore the file from a "
            "copy, or remove that line"
        )

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines under the lock."""
        with self.locked():
            self.append(logs)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the journal's lock: a file beside it. A dead process's lock is taken after ``LOCK_SECONDS``."""
        self._lock.acquire()
        try:
            yield
        finally:
            # Whoever found the lock too old has taken it.
            with contextlib.suppress(RuntimeError):
                self._lock.release()

    def append(self, logs: list[dict[str, Any]]) -> int:
        """Append lines for whoever holds the lock; wait for the disk.

        Returns:
            The offset in bytes at which they begin.

        Raises:
            OSError: the file is gone, or the disk is full; then no half of a line stays.
        """
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self._opened() as file:
            self._complete(file)
            begin = os.fstat(file).st_size
            done = 0
            try:
                while done < len(text):
                    done += os.write(file, text[done:])
            finally:
                if 0 < done < len(text):
                    os.ftruncate(file, begin)
            os.fsync(file)
        return begin

    def since(self, offset: int) -> list[dict[str, Any]]:
        """The whole lines from an offset in bytes."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return [json.loads(line) for line in file if line.endswith(b"\n")]

    def mend(self) -> None:
        """Cut off a torn last line, and say so in the log.

        Raises InputError where the file is no journal.
        """
        with self.path.open("rb") as file:
            first = file.readline()
        if first and not (_is_log(_parsed(first)) if first.endswith(b"\n") else _may_begin(first)):
            raise InputError(f"{self.path} is no journal: its first line is not of Optuna's; choose another --storage")
        with self.locked(), self._opened() as file:
            self._complete(file)
            size = os.fstat(file).st_size
            begin = _line_begin(file, size - 1)
            if size and not _is_log(_parsed(os.pread(file, size - begin, begin))):
                self._cut(file, begin, size)
                size, begin = begin, _line_begin(file, begin - 1)
                if size and not _is_log(_parsed(os.pread(file, size - begin, begin))):
                    raise self.broken(_lines(file))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        # A file that was deleted is not made anew: it would lack all that was written before.
        file = os.open(self.path, os.O_RDWR | os.O_APPEND)
        try:
            yield file
        finally:
            os.close(file)

    def _complete(self, file: int) -> None:
        """Make the file end with a whole line: another process may have died within its last one."""
        size = os.fstat(file).st_size
        begin = _line_begin(file, size)
        if begin == size:
            return
        if _is_log(_parsed(os.pread(file, size - begin, begin))):
            os.write(file, b"\n")  # nothing but the end of the line is missing
        else:
            self._cut(file, begin, size)

    def _cut(self, file: int, begin: int, size: int) -> None:
        os.ftruncate(file, begin)
        os.fsync(file)
        _log.warning(
            "the last line of the journal %s was torn, as by a power loss or a full disk: its %d bytes are cut off",
            self.path,
            size - begin,
        )


def claim_in_journal(storage: JournalStorage, study_id: int, key: str, expected: Any, new: Any) -> bool:
    """``search.study.claim.claim`` for a journal.

    Reading and writing happen under the journal's lock. Should that be taken from a process which slept for longer than
    ``LOCK_SECONDS``, the order of the lines decides: whoever finds another's line before its own gives way to it.
    """
    journal = storage._backend
    assert isinstance(journal, JournalFile)
    replay = storage._replay_result
    with storage._thread_lock, journal.locked():
        size = journal.path.stat().st_size
        storage._sync_with_backend()
        if replay.get_study(study_id).user_attrs.get(key) != expected:
            return False
        about = {"op_code": JournalOperation.SET_STUDY_USER_ATTR, "worker_id": replay.worker_id, "study_id": study_id}
        journal.append([about | {"user_attr": {key: new}}])
        earlier: list[Any] = []
        for log in journal.since(_line_begin_at(journal.path, size)):
            if log["op_code"] == about["op_code"] and log["study_id"] == study_id and key in log["user_attr"]:
                if log["worker_id"] == replay.worker_id and log["user_attr"][key] == new:
                    break
                earlier.append(log["user_attr"][key])
        if earlier:
            journal.append([about | {"user_attr": {key: earlier[-1]}}])
        storage._sync_with_backend()
    return not earlier


def _is_log(found: Any) -> bool:
    return isinstance(found, dict) and "op_code" in found


def _parsed(line: bytes) -> Any:
    """A line's JSON; None where it is none."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _may_begin(torn: bytes) -> bool:
    """Whether the only line of a file may be half of a journal's first line."""
    return torn.startswith(_BEGIN) or _BEGIN.startswith(torn) or not torn.strip(b"\0")


def _line_begin(file: int, end: int) -> int:
    """The offset after the last line feed before an offset; 0 where there is none."""
    while end > 0:
        begin = max(0, end - _BLOCK)
        found = os.pread(file, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _line_begin_at(path: Path, end: int) -> int:
    file = os.open(path, os.O_RDONLY)
    try:
        return _line_begin(file, end)
    finally:
        os.close(file)


def _lines(file: int) -> int:
    with os.fdopen(os.dup(file), "rb") as lines:
        lines.seek(0)
        return sum(1 for _ in lines)
