"""The one driver of a study: a lock in its folder, and a heartbeat in the study for drivers elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

from recon.errors import InputError
from search.study.open import OpenStudy

BEAT_SECONDS = 20.0
BEAT_LOST_SECONDS = 90.0
"""A driver on another host counts as dead if its last heartbeat is older than this."""


class Driver:
    """A claim on a study; a study has one driver at a time."""

    def __init__(self, study: OpenStudy, claim: dict[str, Any]) -> None:
        self.study = study
        self._claim = claim
        self._next = 0.0

    def beat(self) -> None:
        """Write a heartbeat from time to time."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + BEAT_SECONDS
            self.study.search.set_user_attr("driver", {**self._claim, "beat": time.time()})

    def leave(self) -> None:
        """Give the claim up."""
        self.study.search.set_user_attr("driver", None)


@contextlib.contextmanager
def driving(study: OpenStudy) -> Iterator[Driver]:
    """Claim a study for this process.

    On one host, or in one shared folder, a file lock shows the claim; the system frees it whenever its holder dies.
    Drivers with other folders show it by a heartbeat in the study.

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
        claim = {"host": platform.node(), "pid": os.getpid(), "lock": f"{platform.node()}:{lock}"}
        other = study.attributes.get("driver")
        # Our own lock proves that whoever claimed under it is dead.
        if other and other["lock"] != claim["lock"] and (silent := time.time() - other["beat"]) < BEAT_LOST_SECONDS:
            raise InputError(
                f"study {study.name!r} is being run by process {other['pid']} on {other['host']}, "
                f"heard of {silent:.0f} s ago; "
                f"if it is dead, try again in {BEAT_LOST_SECONDS - silent:.0f} s"
            )
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        driver = Driver(study, claim)
        driver.beat()
        try:
            yield driver
        finally:
            driver.leave()
    finally:
        file.close()
