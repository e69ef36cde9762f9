"""The display of a running search on stderr: a live status in a terminal, elsewhere one line per ended trial."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live as RichLive
from rich.text import Text

from recon.config import TrainConfig
from search.run.ledger import Live
from search.run.outlook import clock, describe, epochs_left, what
from search.run.searcher import StudySearch
from search.study.record import Record, State

REFRESH_SECONDS = 0.5


@dataclass
class Display:
    """Shows a run.

    Args:
        console: the console to write to; stderr by default.
        title: the study, or what runs on it.
        metric: name of the objective.
    """

    title: str
    metric: str
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    _began: float = field(default_factory=time.monotonic)
    _shown: float = 0.0
    _first: float | None = None
    """When the first report came: what starting up took says nothing of what is left."""
    _epochs: int = 0
    """Epochs of the reports since."""
    _fixed_done: int = 0
    _best: Record | None = None
    _live: RichLive | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = RichLive(console=self.console, auto_refresh=False, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Print a separate line."""
        self.console.print(text, markup=False, soft_wrap=True)

    def reported(self, config: TrainConfig, epoch: int) -> None:
        """Count the epochs that a training's report stands for; the time left is estimated from them."""
        if self._first is None:
            self._first = time.monotonic()
        else:
            self._epochs += epoch - max((one for one in config.validated_epochs if one < epoch), default=0)

    def remember(self, record: Record) -> None:
        """Keep the best searched trial."""
        if (
            record.stage != "search"
            or record.state is not State.COMPLETE
            or not record.feasible
            or record.value is None
        ):
            return
        if self._best is None or self._best.value is None or record.value > self._best.value:
            self._best = record

    def ended(self, record: Record, search: StudySearch) -> None:
        """Say how a trial ended."""
        self.remember(record)
        self._fixed_done += record.stage != "search"
        value = (
            ""
            if record.value is None
            else f", {self.metric if record.stage == 'search' else 'ssim'} {record.value:.4f}"
        )
        how = {
            State.COMPLETE: f"done{value}",
            State.PRUNED: f"stopped after epoch {record.epochs}{value}",
            State.FAIL: f"failed: {record.error}",
        }.get(record.state, str(record.state))
        self.say(f"{self._counts(search)}  {describe(record)}: {how}{self._left(search)}")

    def refresh(self, search: StudySearch) -> None:
        """Redraw the live status, at most twice a second."""
        now = time.monotonic()
        if self._live is None or now - self._shown < REFRESH_SECONDS:
            return
        self._shown = now
        lines = [f"{self.title}  {self._counts(search)}  {len(search.live)} running{self._left(search)}"]
        if self._best is not None and self._best.value is not None:
            lines.append(f"  best {self.metric} {self._best.value:.4f}: {describe(self._best)}")
        lines += [f"  {_running(live, self.metric)}" for live in search.live.values()]
        self._live.update(Text("\n".join(lines)), refresh=True)

    def _counts(self, search: StudySearch) -> str:
        parts = []
        if search.budget:
            parts.append(f"trials {search.finished}/{search.budget}")
        if search.fixed_total:
            parts.append(f"references {self._fixed_done}/{search.fixed_total}")
        return f"[{', '.join(parts)}]"

    def _left(self, search: StudySearch) -> str:
        """Time used, and about how much is left at the rate of this run so far."""
        used = time.monotonic() - self._began
        epochs = epochs_left(
            search.budget,
            search.finished,
            search.epochs_searched,
            search.space_searched.fidelity.epochs,
            sum(live.job.stage == "search" for live in search.live.values()),
            (live.job.config.epochs - max(live.epochs, default=0) for live in search.live.values()),
            search.fixed_epochs,
        )
        if self._first is None or self._epochs < 2:
            return f"  {clock(used)}"
        pace = (time.monotonic() - self._first) / self._epochs
        return f"  {clock(used)}, about {clock(epochs * pace)} left"


def _running(live: Live, metric: str) -> str:
    config = live.job.config
    value = "" if live.value is None else f"  {metric if live.job.stage == 'search' else 'ssim'} {live.value:.4f}"
    return f"{live.title}  {what(live.kind, config)}  epoch {max(live.epochs, default=0)}/{config.epochs}{value}"
