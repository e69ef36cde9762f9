"""Gains: a network's metric minus the STL's for each task at the same N (a mean over seeds), with its error.

A network that starts from drawn weights is compared with the STL after as many epochs; one that goes on from trained
weights with the STL at its end, for which it has had as many epochs. ``search.run.jobs`` decides which baselines a
study trains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean, stdev
from typing import Any, NamedTuple, Protocol

from recon.evaluation.definitions import Quantity
from search.study.record import Kind, Record, State
from spaces.point import Init


class Estimate(NamedTuple):
    """A mean over seeds."""

    mean: float
    error: float
    """Its standard error; NaN for one seed."""

    @classmethod
    def of(cls, values: list[float]) -> Estimate:
        """The estimate from one value per seed."""
        error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(fmean(values), error)


class Compared(Protocol):
    """A trial that has gains: a ``Record``, or a ``Summary`` of one."""

    @property
    def kind(self) -> Kind:
        """As in ``Record``, like all below."""
        ...

    @property
    def init(self) -> Init | None: ...  # noqa: D102
    @property
    def tasks(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def slices(self) -> dict[str, int]: ...  # noqa: D102
    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def metrics(self) -> dict[str, float]: ...  # noqa: D102


def counting(complete: Iterable[Record]) -> list[Record]:
    """Leave out the baselines at hyperparameters that do not count.

    For each kind, task and N one combination counts: the one with the best mean validation SSIM over its seeds, among
    those with the most seeds. The SSIM is that at the end of the training; a record that lacks it is no seed. Of a
    training that was repeated, because its curve had a hole or its checkpoint was lost, the last whole one counts.
    """
    once: dict[str, Record] = {}
    for one in complete:
        if one.key not in once or not one.holes or once[one.key].holes:
            once[one.key] = one
    complete = list(once.values())
    found: dict[Any, dict[str, list[float]]] = {}
    for one in complete:
        if one.kind != "mtl" and Quantity.SSIM in one.end:
            group = found.setdefault((one.kind, one.tasks, one.scarce_slices), {})
            group.setdefault(one.configuration, []).append(one.end[Quantity.SSIM])
    best = {max(group, key=lambda name: (len(group[name]), fmean(group[name]))) for group in found.values()}
    return [one for one in complete if one.kind == "mtl" or one.configuration in best]


class References:
    """The STL of each task and N over its seeds, at the hyperparameters that count.

    Args:
        records: any records; the complete STL among them are used.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._stl: dict[tuple[str, int], list[Record]] = {}
        self._found: dict[tuple[str, int, int | None, Quantity], Estimate | None] = {}
        for record in counting(one for one in records if one.kind == "stl" and one.state is State.COMPLETE):
            (task,) = record.tasks
            self._stl.setdefault((task, record.slices[task]), []).append(record)

    def at(self, task: str, slices: int, epoch: int | None = None, metric: Quantity = Quantity.SSIM) -> Estimate | None:
        """The STL's metric after an epoch, without one at its end; None where there is no such STL, or one of its seeds
        has no value at that very epoch."""
        asked = task, slices, epoch, metric
        if asked not in self._found:
            self._found[asked] = self._estimate(*asked)
        return self._found[asked]

    def _estimate(self, task: str, slices: int, epoch: int | None, metric: Quantity) -> Estimate | None:
        stl = self._stl.get((task, slices), [])
        found = [one.end if epoch is None else one.history.get(epoch, {}) for one in stl]
        values = [metrics[metric.of(task)] for metrics in found if metric.of(task) in metrics]
        return Estimate.of(values) if values and len(values) == len(stl) else None

    def gains(self, record: Compared, metric: Quantity = Quantity.SSIM) -> dict[str, Estimate]:
        """A trial's metric at its last epoch minus the STL's, for each task that has an STL; the error is that of the
        STL's mean.

        A task whose STL has no value at that epoch has no gain: no other epoch stands in. An STL's own gain has no
        error: it is part of what it is compared with.
        """
        found: dict[str, Estimate] = {}
        if not self._stl:
            return found
        epoch = None if goes_on(record) else record.epochs
        for task in record.tasks:
            name = metric.of(task)
            reference = self.at(task, record.slices[task], epoch, metric)
            if reference is not None and name in record.metrics:
                error = math.nan if record.kind == "stl" else reference.error
                found[task] = Estimate(record.metrics[name] - reference.mean, error)
        return found

    def gain(self, record: Compared, metric: Quantity = Quantity.SSIM) -> Estimate | None:
        """The mean of the gains over the trial's tasks; None if one of them has no STL."""
        gains = self.gains(record, metric)
        return over_tasks(gains) if gains and set(gains) == set(record.tasks) else None


def goes_on(record: Compared) -> bool:
    """Whether a trial is compared with the end of trainings: it starts from trained weights, or is such a start."""
    if record.init is not None:
        return record.init != "random"
    return record.kind in ("joint", "joint-tuned", "transfer")


def over_tasks(gains: Mapping[str, Estimate]) -> Estimate:
    """The mean over tasks, whose STL are trainings of their own."""
    mean = fmean(gain.mean for gain in gains.values())
    return Estimate(mean, math.hypot(*(gain.error for gain in gains.values())) / len(gains))
