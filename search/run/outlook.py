"""What a run's display and ``splitpoint status`` say alike: how much is left, and a trial in a few words. It needs
neither Ray nor torch."""

from __future__ import annotations

from collections.abc import Iterable

from recon.config import TrainConfig
from search.study.record import Kind, Record


def epochs_left(
    budget: int, finished: int, epochs_finished: int, most: int, searching: int, running: Iterable[int], fixed: int
) -> float:
    """About how many epochs are left of a run.

    Args:
        budget: number of searched trials wanted.
        finished: number of searched trials that finished or were stopped early.
        epochs_finished: epochs of those.
        most: epochs of a searched trial that is not stopped.
        searching: number of searched trials that run.
        running: for each trial that runs, the epochs up to its last one.
        fixed: epochs of the fixed jobs that have not begun.
    """
    mean = min(most, epochs_finished / finished) if finished else most
    return sum(running) + max(0, budget - finished - searching) * mean + fixed


def what(kind: Kind, config: TrainConfig) -> str:
    """A training in a few words."""
    if kind == "mtl":
        return f"{config.network.layout} {config.weighting.kind}"
    return f"{kind} {'+'.join(config.tasks)}"


def describe(record: Record) -> str:
    """A trial in a few words: number, what it is, its N."""
    start = f" from {record.point.init}" if record.point and record.point.init != "random" else ""
    count = "" if record.scarce_slices is None else f" N={record.scarce_slices}"
    seed = f" seed {record.seed}" if record.stage == "confirm" else ""
    return f"trial {record.name} {what(record.kind, record.config)}{start}{count}{seed}"


def clock(seconds: float) -> str:
    """A duration, such as ``1:05:09`` or ``05:09``."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60:02d}:{rest % 60:02d}"
