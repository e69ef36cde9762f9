"""Messages and progress bars of the command line, on stderr."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from search.cli.app import complain

talk = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


@contextlib.contextmanager
def bar(verb: str, things: str, every: float = 0.0) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr with rate and time left; plain lines where stderr is no terminal.

    Args:
        verb: the activity, such as ``preparing``.
        things: what is counted.
        every: seconds between plain lines at least; the last one always comes where this is 0.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{60 * task.speed:.1f} a minute")

    if not talk.is_terminal:
        began = said = time.monotonic()

        def line(done: int, total: int) -> None:
            nonlocal said
            # A tenth at a time: a log wants to know that it goes on, not each step.
            tenth = done == total or done * 10 // total > (done - 1) * 10 // total
            if tenth and time.monotonic() - said >= every:
                said = time.monotonic()
                seconds = said - began
                talk.print(f"{verb}: {done} of {total} {things}, {seconds:.0f} s, {60 * done / seconds:.1f} a minute")

        yield line
        return
    parts = (
        TextColumn(verb),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(things),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*parts, console=talk) as progress:
        task = progress.add_task(verb, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def stages(verb: str, every: float = 5.0) -> Iterator[Callable[[str], None]]:
    """What is being done, on one line in a terminal; elsewhere a line at first and then every so many seconds."""
    if talk.is_terminal:
        with talk.status(verb) as status:
            yield lambda stage: status.update(Text(f"{verb}: {stage}"))
        return
    said = -math.inf

    def line(stage: str) -> None:
        nonlocal said
        if time.monotonic() - said >= every:
            said = time.monotonic()
            talk.print(f"{verb}: {stage}")

    yield line


def watched(draw: Callable[[], Any], seconds: float, console: Console) -> None:
    """Draw again every so many seconds until Ctrl-C."""
    from rich.live import Live

    with (
        Live(draw(), console=console, screen=False, auto_refresh=False) as live,
        contextlib.suppress(KeyboardInterrupt),
    ):
        while True:
            time.sleep(seconds)
            live.update(draw(), refresh=True)


def finish(outcome: Any) -> None:
    """Say how a run ended; exit code 1 where it did not do all that was asked."""
    if outcome.complaint is not None:
        raise typer.Exit(complain(outcome.complaint, 1))
