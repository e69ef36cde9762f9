"""Temporary folders of a driver: they go with it, and those of drivers that were killed go with the next one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

LONGEST_BASE = 15
"""Characters of a path that may stand before a scratch folder's name: a socket's path holds 107, of which Ray takes
most."""


@contextlib.contextmanager
def scratch(prefix: str, orphaned: Callable[[Path], None] = lambda folder: None) -> Iterator[Path]:
    """A folder of its own with a short path; folders of the same prefix whose makers are dead are swept out.

    Args:
        prefix: of the folders' names.
        orphaned: called with each folder whose maker is dead, before it is removed.
    """
    base = Path(tempfile.gettempdir())
    if len(str(base)) > LONGEST_BASE and os.access("/tmp", os.W_OK):
        base = Path("/tmp")
    for old in base.glob(f"{prefix}*"):
        with contextlib.suppress(OSError), (old / "lock").open("r") as lock:  # its maker may be about to make it
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            orphaned(old)
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    with (folder / "making").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "making").rename(folder / "lock")
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
