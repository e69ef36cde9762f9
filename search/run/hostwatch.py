"""Hosts that are lost, come back or join while a search runs, in sentences for the display."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError

from recon.errors import InputError
from search.run.hosts import HostFacts, complaint

LATE_SECONDS = 120.0
"""How much later than a trial's loss of its worker Ray may call the host lost."""
POLL_SECONDS = 5.0
"""Time between two questions to Ray."""
_Place = tuple[str, str]
"""Address and name: what stays of a host when Ray starts there anew."""


class HostWatch:
    """Asks Ray for its hosts in a thread of its own, because the answer may take long while the head is away.

    A host that was not there at the first look is looked at too.

    Args:
        facts: the first look.
        again: looks at the hosts with these ids of Ray, as ``search.run.hosts.look`` does.
        nodes: Ray's list of hosts.
        seconds: time between two questions.
    """

    def __init__(
        self,
        facts: Sequence[HostFacts],
        again: Callable[[Collection[str]], Iterable[HostFacts]],
        nodes: Callable[[], list[dict[str, Any]]] = ray.nodes,
        seconds: float = POLL_SECONDS,
    ) -> None:
        self._again, self._nodes, self._seconds = again, nodes, seconds
        self._known: dict[str, _Place] = {one.node: (one.address, one.name) for one in facts}
        self._roomless = {one.node for one in facts if not one.room}
        self._lost: set[_Place] = set()
        self._left: deque[tuple[float, str]] = deque(maxlen=1000)
        """When a trial lost its worker, and on which address."""
        self._alive: dict[str, dict[str, Any]] | None = None
        self._answered = time.monotonic()
        self._found: queue.SimpleQueue[HostFacts] = queue.SimpleQueue()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._ask, name="hosts", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    @property
    def silent_seconds(self) -> float:
        """Time since Ray last told its hosts. Above some 15 s, its head (GCS) is gone or cannot be reached."""
        return time.monotonic() - self._answered

    @property
    def hosts(self) -> list[dict[str, Any]]:
        """The hosts that are there, for the driver's heartbeat: ``address``, ``name``, ``cpus``, ``gpus``."""
        return [
            {
                "address": node["NodeManagerAddress"],
                "name": node["NodeManagerHostname"],
                "cpus": node["Resources"].get("CPU", 0),
                "gpus": node["Resources"].get("GPU", 0),
            }
            for node in (self._alive or {}).values()
        ]

    def host_of(self, worker: Any) -> str | None:
        """The host of a trial's worker, ``name (address)``, as in a record; None where Ray does not say."""
        node = ray._private.state.actors(worker._actor_id.hex()).get("Address", {}).get("NodeID")
        place = self._known.get(node)
        return None if place is None else f"{place[1]} ({place[0]})"

    def left(self, host: str | None) -> None:
        """A trial lost its worker on a host: perhaps the host is lost, which Ray notices later."""
        if host is not None:
            self._left.append((time.monotonic(), _address(host)))

    def said(self, running: Mapping[str, int]) -> list[str]:
        """What happened to hosts since the last call, in sentences. Returns at once.

        Args:
            running: number of running trials by host, which is named as in a record (``name (address)``) or by its
                address.
        """
        sentences = []
        alive = self._alive
        if alive is not None:
            for node in [node for node in self._known if node not in alive]:
                place = self._known.pop(node)
                self._lost.add(place)
                count = sum(trials for host, trials in running.items() if _address(host) == place[0])
                count += self._left_there(place[0])
                sentences.append(f"host {place[0]} lost{self._go_on(count, alive)}")
            for node in [node for node in alive if node not in self._known]:
                place = (alive[node]["NodeManagerAddress"], alive[node]["NodeManagerHostname"])
                self._known[node] = place
                sentences.append(f"host {place[0]} {'back' if place in self._lost else 'joined'}")
                self._lost.discard(place)
                threading.Thread(target=self._look, args=(node,), name="look", daemon=True).start()
        while not self._found.empty():
            facts = self._found.get()
            if not facts.room:
                self._roomless.add(facts.node)
            lacking = complaint([facts])
            if lacking is not None:
                sentences.append(f"{lacking}; trials that begin there will fail")
        return sentences

    def _left_there(self, address: str) -> int:
        """How many trials lost their workers on a host lately; they are told of once."""
        there = [one for one in self._left if one[1] == address]
        for one in there:
            self._left.remove(one)
        return sum(time.monotonic() - when < LATE_SECONDS for when, _ in there)

    def _go_on(self, count: int, alive: Collection[str]) -> str:
        if count == 0:
            return ""
        one = count == 1
        trials = "1 trial" if one else f"{count} trials"
        if set(alive) <= self._roomless:
            return f", {trials} {'waits' if one else 'wait'} for a host with room"
        return f", {trials} {'goes' if one else 'go'} on elsewhere"

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                nodes = self._nodes()
            except RayError:  # no answer, which is what silent_seconds says
                nodes = None
            if nodes is not None and not self._over.is_set():
                self._alive = {node["NodeID"]: node for node in nodes if node["Alive"]}
                self._answered = time.monotonic()
            self._over.wait(self._seconds)

    def _look(self, node: str) -> None:
        try:
            found = list(self._again([node]))
        except (RayError, InputError):  # the host, or the head, is gone again, as the next answer of Ray tells
            return
        for facts in found:
            self._found.put(facts)


def _address(host: str) -> str:
    """The address in ``name (address)``; the text itself if it is an address."""
    return host.rpartition("(")[2].rstrip(")")
