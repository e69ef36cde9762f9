"""Noticing that the Ray of a run is dead. Ray's own calls may then wait for ever."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from search.run.cluster import abandon, ray_alive

ASK_SECONDS = 1.0
ANSWER_SECONDS = 6.0
"""How long Ray may be silent."""
STUCK_SECONDS = 5.0
"""How long the driver may take from Ray's death to its own end; then the thread ends the process."""


class Lifeline:
    """Asks Ray every few seconds in a thread whether it lives.

    Args:
        last_words: called by the thread, with the sentence, if the driver is stuck in a dead Ray: closes the study.
    """

    def __init__(self, last_words: Callable[[str], None]) -> None:
        self._last_words = last_words
        self.dead: str | None = None
        """What is dead, in a sentence."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lifeline", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def ask(self) -> str | None:
        """Ask now; -> what is dead, in a sentence."""
        self.dead = self.dead or _sentence(ray_alive(ANSWER_SECONDS))
        return self.dead

    def _run(self) -> None:
        while not self._over.wait(ASK_SECONDS):
            if self.ask() is not None and not self._over.wait(STUCK_SECONDS):
                try:
                    self._last_words(str(self.dead))
                finally:
                    abandon()
                    os._exit(1)


def _sentence(dead: str | None) -> str | None:
    return None if dead is None else f"{dead}; running trials stopped, and the same command goes on from here"
