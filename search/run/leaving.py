"""Signals that end a run: Ctrl-C at once, SIGTERM when running trials have written their next checkpoint or time is up;
before Ray starts both at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Self

from search.errors import Terminated
from search.run.ledger import Live

GRACE_SECONDS = 8.0
"""How long a run may wait for checkpoints after SIGTERM: less than the 10 s that a container is given."""


class Signals:
    """SIGINT and SIGTERM while it is entered; ``look`` raises what was received. The second one does not wait.

    Args:
        grace: seconds from SIGTERM until the run ends at the latest.
    """

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self._grace = grace
        self._received: signal.Signals | None = None
        self._deadline = 0.0
        self.patient = False
        """Whether a signal waits for the next look. Before Ray starts there is nothing to wait for, and it ends the run
        at once."""
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        self.take()
        return self

    def take(self) -> None:
        """Take the signals; again where somebody may have taken them since."""
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            for one in (signal.SIGINT, signal.SIGTERM):
                before = signal.signal(one, self._take)
                self._before.setdefault(one, before)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one, before in self._before.items():
            signal.signal(one, before)  # type: ignore[arg-type]

    @property
    def leaving(self) -> bool:
        """Whether SIGTERM came, so that trials stop at their next report."""
        return self._received is not None

    def look(self, live: Iterable[Live]) -> None:
        """Raise KeyboardInterrupt after Ctrl-C, and Terminated after SIGTERM once no running trial is expected to
        report within the time that is left."""
        if self._received is signal.SIGINT:
            raise KeyboardInterrupt
        now = time.monotonic()
        if self._received is not None and not any(self._in_time(one, now) for one in live):
            raise Terminated

    def _in_time(self, live: Live, now: float) -> bool:
        return now < self._deadline and (live.gap is None or live.heard + live.gap < self._deadline)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None or not self.patient:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self._received = signal.Signals(number)
        self._deadline = time.monotonic() + self._grace
