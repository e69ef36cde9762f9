"""Whether the Ray that a driver is connected to still lives.

Ray tells a driver of a dead raylet late or never, and ends the driver's process itself, from C++, a minute after its
GCS is gone. So a thread asks both every second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from search.run.knock import Answer, encrypted, host_and_port, knock

ASK_SECONDS = 2.0
PAUSE_SECONDS = 1.0


class Pulse:
    """Watches the raylet and the GCS of a node of ``ray.init``'s, in a thread, while it is entered."""

    def __init__(self, node: Any) -> None:
        self._started = [started for kind in node.all_processes.values() for started in kind]
        self._own = [
            (name, started.process) for name in ("raylet", "gcs_server") for started in node.all_processes.get(name, [])
        ]
        self._places = {
            "GCS": host_and_port(node.gcs_address),
            "raylet": (node.node_ip_address, int(node.node_manager_port)),
        }
        self._silence = dict.fromkeys(self._places, 0.0)
        self._children: set[Process] = set()
        """Agents and trials that the raylet started, as of the last look: a dead raylet's are nobody's children."""
        self._over = threading.Event()

    def __enter__(self) -> Pulse:
        threading.Thread(target=self._ask, name="ray-pulse", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()

    def verdict(self, timeout: float) -> str | None:
        """Why it is dead, in a sentence; None while it lives. Returns at once."""
        for name, process in self._own:
            code = process.poll()
            if code is not None:
                how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                return f"Ray's {name} on this machine (process {process.pid}) is dead ({how})"
        for name, (host, port) in self._places.items():
            if self._silence[name] >= timeout:
                return f"Ray's {name} at {host}:{port} has not answered for {self._silence[name]:.0f} s"
        return None

    def kill(self) -> None:
        """Kill what is left of a Ray that this process started, its agents and trials too: without a GCS or a raylet
        they take long to notice.
        """
        self._note_children()
        for started in self._started:
            started.process.kill()
            started.process.wait()
        for child in self._children & set(_table()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)

    def _note_children(self) -> None:
        found = descendants({started.process.pid for started in self._started})
        if found:
            self._children = self._children & set(_table()) | found

    def _ask(self) -> None:
        alive = {Answer.DONE, Answer.REFUSED, Answer.UNKNOWN}
        if encrypted():
            alive.add(Answer.FOREIGN)
        while not self._over.wait(PAUSE_SECONDS):
            self._note_children()
            for name, (host, port) in self._places.items():
                began = time.monotonic()
                if knock(host, port, seconds=ASK_SECONDS) in alive:
                    self._silence[name] = 0.0
                else:
                    # Cut off at what a question takes: a process that was stopped for an hour has not heard an hour's
                    # silence.
                    took = time.monotonic() - began
                    self._silence[name] += min(took, ASK_SECONDS) + PAUSE_SECONDS


class Process(NamedTuple):
    """A process, told from a later one with the same number by its start."""

    pid: int
    start: int


def _table() -> dict[Process, int]:
    """The system's processes and their parents' numbers; none where there is no /proc."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The second field is a name in brackets, which may hold blanks and brackets itself.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            found[Process(int(folder.name), int(fields[19]))] = int(fields[1])
    return found


def descendants(pids: Collection[int]) -> set[Process]:
    """The processes that some processes started, and theirs."""
    table = _table()
    found: set[Process] = set()
    above = set(pids)
    while more := {child for child, parent in table.items() if parent in above} - found:
        found |= more
        above |= {child.pid for child in more}
    return found
