"""Spaces: what a study may choose, as a typed schema over YAML.

``Space.train_config``, ``Space.joint_config`` and ``Space.reference_config`` are the one way from a chosen point, the
network that points start from, or a baseline, to a training. A new dimension is a field here and a line in
``Space.dimensions``; hyperparameters need neither, they name fields of ``recon.config.TrainConfig``. This module knows
recon's vocabulary and neither Ray nor Optuna.

A space asks one of two questions, and ``start.init`` says which. ``joint``: where is a *trained* joint network best
split? Every layout goes on from the same weights, so a few epochs tell layouts apart. ``random``: where is a network
best split *from scratch*? That is the paper's question (Liu et al. 2021). The answers differ: in a trial run of six
layouts and three seeds the two rankings agreed by Kendall's tau .47.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import model_validator

from recon.config import (
    WeightingKind,
)
from recon.errors import InputError
from recon.network.layout import Layout
from spaces.beside import Known
from spaces.checks import check
from spaces.layouts import Choice, Dimension, Value
from spaces.parts import Scarce
from spaces.point import Point
from spaces.trainings import Trainings


class Space(Trainings):
    """One search, whole: with the prepared data and the code it determines what can be tried and how it is judged."""

    @model_validator(mode="after")
    def _hangs_together(self) -> Space:
        check(self)
        return self

    def on(self, available: Mapping[str, int], where: str = "the data") -> Space:
        """The space on real data: ``all`` and fractions become numbers, and every N is there.

        Args:
            available: training slices of each task in the data.
            where: names the data in errors.

        Raises:
            InputError: a task is missing, or N is above what there is.
        """
        for task in self.tasks:
            if not available.get(task):
                raise InputError(
                    f"tasks names {task!r}, of which {where} has no training slices; it has {_listed(available)}"
                )
        if self.scarce is None:
            return self
        most = available[self.scarce.task]
        counts = [most if count == "all" else count for count in self.scarce.slices]
        counts += [max(1, round(part * most)) for part in self.scarce.fractions]
        for count in counts:
            if count > most:
                raise InputError(
                    f"scarce.slices asks for {count} slices of {self.scarce.task}, where {where} has {most} in training"
                )
        if len(set(counts)) != len(counts):
            raise InputError(f"scarce: some N are the same on {where}, found {counts}")
        return self.model_copy(update={"scarce": Scarce(task=self.scarce.task, slices=tuple(counts))})

    def dimensions(self, weighting: WeightingKind | None = None) -> dict[str, Dimension]:
        """What the sampler chooses, by name.

        Args:
            weighting: once it is chosen, the hyperparameters that only it has come in too.
        """
        found = self.layouts.dimensions(self.unroll.blocks)
        found["weighting"] = Choice(self.weightings)
        if self.scarce is not None:
            found["scarce_slices"] = Choice(tuple(count for count in self.scarce_counts if count is not None))
        return found | (self.active(weighting) if weighting else self.active())

    def decode(self, params: Mapping[str, Any], rng: random.Random) -> Point | None:
        """The feasible point nearest to what a sampler chose; None where there is none."""
        weighting: WeightingKind = params["weighting"]
        extras = tuple(sorted((name, params[name]) for name in self.active(weighting)))
        proposed = self.layouts.decode(params, self.unroll.blocks)
        layout = self.layouts.repair(proposed, partial(self.costs, dict(extras)), rng)
        if layout is None:
            return None
        return Point(str(layout), weighting, params.get("scarce_slices"), extras, self.start.init)

    def encode(self, point: Point) -> dict[str, Value]:
        """The sampler's dimensions of a point of this space."""
        layout = self.layouts.encode(Layout.parse(point.layout, self.unroll.blocks))
        if layout is None:
            raise InputError(f"layout {point.layout} is not in the space")
        found: dict[str, Value] = {**layout, "weighting": point.weighting}
        if point.scarce_slices is not None:
            found["scarce_slices"] = point.scarce_slices
        return found | dict(point.hyperparameters)

    def known(self) -> list[Point]:
        """The configurations to try first, at every N where none is given; each once."""
        return self._points(self.try_first)

    def beside(self, counts: Iterable[int | None]) -> list[Point]:
        """The configurations to confirm beside leaders of these N; each once."""
        wanted = set(counts)
        return [point for point in self._points(self.confirm.beside) if point.scarce_slices in wanted]

    def _points(self, named: Iterable[Known]) -> list[Point]:
        found = {}
        for known in named:
            extras = tuple(sorted(known.hyperparameters.items()))
            for count in (known.scarce_slices,) if known.scarce_slices is not None else self.scarce_counts:
                point = Point(known.layout, known.weighting, count, extras, self.start.init)
                found[point.key] = point
        return list(found.values())

    def grid_points(self) -> list[Point]:
        """The grid's configurations, all rows at the first N, then at the next."""
        rows = self.grid.rows if self.grid else ()
        return [
            Point(row.layout, row.weighting, count, row.changed, row.init)
            for count in self.scarce_counts
            for row in rows
        ]

    def label(self, hyperparameters: Sequence[tuple[str, Any]]) -> str | None:
        """What a row of the grid calls these; None where none does."""
        rows = self.grid.rows if self.grid else ()
        return next((row.label for row in rows if row.changed == tuple(hyperparameters)), None)

    def baseline_seeds(self) -> range:
        """The seeds of the baselines beside a search, from the space's."""
        return range(self.seed, self.seed + self.baselines.seeds)

    def grid_seeds(self) -> range:
        """The grid's seeds, from the space's."""
        return range(self.seed, self.seed + (self.grid.seeds if self.grid else 0))

    def identity(self) -> dict[str, Any]:
        """What makes two spaces the same search: everything but how long it goes on and what runs beside it.

        Over how many seeds the baselines run belongs to it where trials are judged by them.
        """
        baselines = {"kinds"} if self.needs_references else {"kinds", "seeds"}
        beside: Any = {"trials": True, "confirm": True, "grid": True, "baselines": baselines}
        return self.model_dump(mode="json", exclude=beside)

    @property
    def hash(self) -> str:
        """Of ``identity``."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def difference(self, other: Space) -> str | None:
        """The first field in which another space is another search, in words; None where it is the same."""
        return _difference(self.identity(), other.identity(), "")


def _difference(ours: Any, theirs: Any, field: str) -> str | None:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(ours.keys() | theirs.keys()):
            found = _difference(ours.get(name), theirs.get(name), f"{field}.{name}" if field else name)
            if found:
                return found
        return None
    return None if ours == theirs else f"{field} is {json.dumps(theirs)}, not {json.dumps(ours)}"


def _listed(available: Mapping[str, int]) -> str:
    return ", ".join(f"{task} ({count})" for task, count in available.items()) or "none"
