"""Confirming: retrain the leaders of a search and all baselines over several seeds, and pick among those.

The best of many noisy trials is better than it would be again, by more than what separates the first few. So the
leaders are trained anew, with seeds that the search has not seen, and the pick is the best mean of those alone.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from recon.errors import InputError
from search.jobs import confirmations
from search.launch import DataFacts, Outcome, Resources, agree, driving, run
from search.references import References
from search.study import OpenStudy, Record, State, open_study, quiet
from search.trial import Trainer, train_on_prepared
from spaces.schema import Point, Space


@dataclass(frozen=True)
class Confirmed:
    """One configuration over its seeds."""

    point: Point
    records: tuple[Record, ...]
    """Complete confirmations, a seed each, ascending."""
    values: tuple[float, ...]
    """The objective of each; gains are above the mean over seeds of the STL."""
    searched: Record | None
    """The searched trial that made it a leader."""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds (of a sample); None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def best(self) -> Record:
        """The seed with the highest value: which weights to take, once the configuration is chosen."""
        return self.records[max(range(len(self.values)), key=lambda index: self.values[index])]


@dataclass(frozen=True)
class Pick:
    """The chosen configuration, and what would have been chosen without confirmation."""

    chosen: Confirmed
    ranking: tuple[Confirmed, ...]
    """All confirmed configurations, best mean first."""
    unconfirmed: Record | None
    """The best searched trial; None where a grid ran and no search."""

    @property
    def record(self) -> Record:
        """The trial whose checkpoint goes on."""
        return self.chosen.best

    @property
    def changed(self) -> bool:
        """Whether confirmation chose another configuration than the search's best."""
        return self.unconfirmed is not None and self.unconfirmed.point != self.chosen.point


def leaders(study: OpenStudy, top: int) -> list[Record]:
    """The best complete searched trials, best first; infeasible ones only where there are too few others.

    Raises InputError where no trial is complete.
    """
    complete = [record for record in study.searched() if record.state is State.COMPLETE and record.value is not None]
    if not complete:
        raise InputError(f"study {study.name!r} has no complete trial yet; launch it first")
    return sorted(complete, key=_rank)[:top]


def _rank(record: Record) -> tuple[bool, float]:
    assert record.value is not None
    return not record.feasible, -record.value


def confirm(
    study: str,
    top: int | None = None,
    seeds: int | None = None,
    *,
    data: Path | DataFacts | None = None,
    storage: str | None = None,
    runs_dir: Path = Path("runs"),
    address: str | None = None,
    resources: Resources = Resources(),  # noqa: B008
    trainer: Trainer = train_on_prepared,
    verbose: bool = False,
) -> Outcome:
    """Retrain the leaders, what the space confirms beside them, and the baselines at their N over seeds; what is done
    already is not done again.

    Args:
        study: its name.
        top: how many leaders; without it, what the space says.
        seeds: how many seeds, from the one after the search's; without it, what the space says.
        data: where the prepared data are, if no longer where the study was launched on them.
        storage: as for ``launch``, like the rest.
        runs_dir: where studies live.
        address: of a Ray cluster.
        resources: of a trial.
        trainer: what trains.
        verbose: let Ray speak.

    Raises:
        InputError: no such study, no complete trial, other data, or another driver runs it.
        KeyboardInterrupt: after Ctrl-C, when the study has been left so that the same call continues it.
    """
    with quiet(), driving(open_study(study, storage, runs_dir)) as driver:
        opened = driver.study
        space = opened.space
        facts = data if isinstance(data, DataFacts) else DataFacts.of(data or opened.data)
        agree(opened, space, facts)
        points = [_point(record) for record in leaders(opened, top or space.confirm.top)]
        points = list(dict.fromkeys([*points, *space.beside(point.scarce_slices for point in points)]))
        jobs = confirmations(space, points, _seeds(space, seeds or space.confirm.seeds), facts.slices)
        return run(driver, space, facts, jobs, 0, f"{study}, confirming", address, resources, trainer, verbose)


def picked(study: OpenStudy) -> Pick:
    """The best confirmed configuration by its mean over seeds.

    Configurations with fewer seeds than the most are left out: a mean over fewer seeds is no match.

    Raises InputError where nothing is confirmed yet.
    """
    unconfirmed = leaders(study, 1)[0] if study.space.trials else None
    references = study.referenced()
    searched = {record.key: record for record in study.searched() if record.state is State.COMPLETE}
    groups: dict[Point, dict[int, Record]] = {}
    for record in references:
        if record.kind == "mtl" and record.state is State.COMPLETE:
            groups.setdefault(_point(record), {})[record.seed] = record
    space, stl = study.space, References(references)
    confirmed = []
    for point, by_seed in groups.items():
        records = tuple(by_seed[seed] for seed in sorted(by_seed))
        values = tuple(_value(record, space, stl) for record in records)
        if None not in values:
            key = f"mtl/{point.key}/seed={space.seed}"
            known = tuple(value for value in values if value is not None)
            confirmed.append(Confirmed(point, records, known, searched.get(key)))
    if not confirmed:
        raise InputError(f"study {study.name!r} has no confirmed trial yet; run splitpoint confirm {study.name}")
    most = max(len(one.values) for one in confirmed)
    ranking = tuple(sorted((one for one in confirmed if len(one.values) == most), key=lambda one: -one.mean))
    return Pick(ranking[0], ranking, unconfirmed)


def _value(record: Record, space: Space, stl: References) -> float | None:
    """The objective of a confirmation; None where its STL networks are not complete."""
    if space.objective.metric == "ssim":
        return record.value
    gain = stl.gain(record)
    return None if gain is None else gain.mean


def _seeds(space: Space, count: int) -> range:
    # The search's own seed is left out: its values are what made these configurations leaders.
    return range(space.seed + 1, space.seed + 1 + count)


def _point(record: Record) -> Point:
    assert record.point is not None
    return record.point
