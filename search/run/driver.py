"""The one driver of a study: a lock in its folder, and a heartbeat in the study for drivers elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from recon.errors import InputError
from search.errors import SearchError
from search.run.guard import Guard
from search.run.outbox import Outbox
from search.study.claim import DRIVER, claim
from search.study.open import OpenStudy
from search.study.storage import is_away, shown

BEAT_SECONDS = 20.0
BEAT_LOST_SECONDS = 90.0
"""A driver on another host counts as dead if its last heartbeat is older than this."""


class Driver:
    """A claim on a study; a study has one driver at a time.

    Args:
        study: open for writing.
        stored: the claim as it was written.
        guard: looks after the storage's file.
    """

    def __init__(self, study: OpenStudy, stored: Mapping[str, Any], guard: Guard) -> None:
        self.study = study
        self._stored = dict(stored)
        self._guard = guard
        self._next = time.monotonic()  # the first beat says what the claim could not know

    def beat(self, outbox: Outbox, about: Callable[[], Mapping[str, Any]] = dict) -> None:
        """Let the outbox write a heartbeat from time to time.

        Args:
            outbox: writes it.
            about: what else the heartbeat says of the run.
        """
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + BEAT_SECONDS
            said = dict(about())
            outbox.beat(lambda: self._write({**said, "beat": time.time()}))

    def look(self) -> str | None:
        """What is wrong with the storage's file, in a sentence."""
        return self._guard.look()

    def leave(self) -> None:
        """Give the claim up, if the storage is there to hear it."""
        try:
            claim(self.study.storage, self.study.search, self._stored, None)
        except Exception as error:
            if not is_away(error) and not isinstance(error, KeyError):
                raise

    def _write(self, said: Mapping[str, Any]) -> None:
        stored = {**self._stored, **said}
        while not claim(self.study.storage, self.study.search, self._stored, stored):
            other = self.study.attributes.get(DRIVER) or {}
            if any(other.get(name) != self._stored[name] for name in ("host", "pid", "lock", "began")):
                raise SearchError(
                    f"study {self.study.name!r} was taken over by process {other.get('pid')} on {other.get('host')} "
                    "while this one was not heard of; it goes on there"
                )
            self._stored = other  # our own, whose answer was lost
        self._stored = stored


@contextlib.contextmanager
def driving(study: OpenStudy) -> Iterator[Driver]:
    """Claim a study for this process.

    On one host, or in one shared folder, a file lock shows the claim; the system frees it whenever its holder dies.
    Drivers with other folders show it by a heartbeat in the study, which only one of them can replace.

    Raises:
        InputError: another driver has the study.
    """
    lock = study.folder.resolve() / "driver.lock"
    file = lock.open("a+")
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"study {study.name!r} is being run by another process ({file.read().strip() or 'unknown'}); "
                "wait for it, or stop it, or choose another --study"
            ) from None
        stored = _claimed(study, f"{platform.node()}:{lock}")
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        with Guard(study.url) as guard:
            driver = Driver(study, stored, guard)
            try:
                yield driver
            finally:
                driver.leave()
    finally:
        file.close()


def _claimed(study: OpenStudy, lock: str) -> dict[str, Any]:
    """Claim a study in its storage; -> the claim."""
    mine = {"host": platform.node(), "pid": os.getpid(), "lock": lock, "began": time.time(), "beat": time.time()}
    other = study.attributes.get(DRIVER)
    # Our own lock proves that whoever claimed under it is dead.
    if other and other["lock"] != lock and (silent := time.time() - other["beat"]) < BEAT_LOST_SECONDS:
        raise InputError(
            f"study {study.name!r} is being run by process {other['pid']} on {other['host']}, "
            f"heard of {silent:.0f} s ago; "
            f"if it is dead, try again in {BEAT_LOST_SECONDS - silent:.0f} s"
        )
    if not claim(study.storage, study.search, other, mine):
        raise InputError(
            f"another launch of study {study.name!r} in {shown(study.url)} began at the same moment; it goes on there"
        )
    return mine
