"""The pick: the confirmed configuration with the best mean over seeds.

Leaders of a search are trained anew with seeds that the search has not seen (``search.run.confirm``), and only
those count here.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from recon.errors import InputError
from search.run.confirm import leaders
from search.study.gains import References
from search.study.open import OpenStudy
from search.study.record import Record, State, point_of
from spaces.point import Point
from spaces.space import Space


@dataclass(frozen=True)
class Confirmed:
    """One configuration over its seeds."""

    point: Point
    records: tuple[Record, ...]
    """Complete confirmations, one per seed, ascending."""
    values: tuple[float, ...]
    """The objective of each; gains are above the mean over seeds of the STL."""
    searched: Record | None
    """The searched trial that made it a leader."""

    @property
    def mean(self) -> float:
        """The mean over seeds."""
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
    """The chosen configuration, and the choice that the search alone would have made."""

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
            groups.setdefault(point_of(record), {})[record.seed] = record
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
