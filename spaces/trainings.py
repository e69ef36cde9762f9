"""From points and baselines to trainings: the one way to a ``TrainConfig``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from recon.config import (
    TrainConfig,
    WeightingKind,
)
from spaces.layouts import Costs, Value, costs
from spaces.model import SpaceModel
from spaces.point import BaselineKind, Combination, Point


class Trainings(SpaceModel):
    """The trainings that a space means."""

    def costs(self, hyperparameters: Mapping[str, Value | None] | None = None) -> Costs:
        """Parameters by block kind, of the networks that have these hyperparameters.

        Raises pydantic's ValidationError for values that no network has.
        """
        chosen = {name: value for name, value in (hyperparameters or {}).items() if name.startswith("network.")}
        return costs(self.compose(self.tasks, "I", "naive", {}, 0, chosen).network, self.tasks)

    def train_config(self, point: Point, seed: int | None = None) -> TrainConfig:
        """The training of a point; without a seed, with the space's.

        From trained weights a point trains for ``fidelity.epochs`` at the rates of ``start``, else for
        ``total_epochs`` at those of ``training``; a searched rate is its own.
        """
        return self.compose(
            self.tasks,
            point.layout,
            point.weighting,
            self._cut(self.tasks, point.scarce_slices),
            self.seed if seed is None else seed,
            dict(point.hyperparameters),
            goes_on=point.init != "random",
        )

    def joint_config(self, scarce_slices: int | None = None, seed: int | None = None) -> TrainConfig:
        """The training of the joint network that others start from.

        Args:
            scarce_slices: N.
            seed: without it, the space's.
        """
        cut = self._cut(self.tasks, scarce_slices)
        seed = self.seed if seed is None else seed
        return self.compose(self.tasks, self.shared, "equal", cut, seed, {}, epochs=self.joint_epochs)

    def reference_config(
        self,
        kind: BaselineKind,
        task: str | None = None,
        scarce_slices: int | None = None,
        seed: int | None = None,
        passes: int = 1,
        hyperparameters: Combination = (),
    ) -> TrainConfig:
        """The training of a baseline.

        Args:
            kind: ``stl`` and ``stl-steps`` train ``task`` alone; ``joint-stl`` one all-shared network on the pooled
                slices of all tasks, each slice counting alike; ``joint-tuned`` ``task`` alone, from the weights of the
                joint network; ``transfer`` the scarce task, from the weights of the source task's STL.
            task: of ``stl``, ``stl-steps`` and ``joint-tuned``.
            scarce_slices: N, where the baseline sees the scarce task.
            seed: without it, the space's.
            passes: over the slices in an epoch; ``steps_passes`` says how many ``stl-steps`` makes.
            hyperparameters: one of ``combinations``.
        """
        seed = self.seed if seed is None else seed
        chosen = dict(hyperparameters)
        if kind == "joint-stl":
            return self.compose(self.tasks, self.shared, "equal", self._cut(self.tasks, scarce_slices), seed, chosen)
        if kind == "transfer":
            if self.scarce is None:
                raise ValueError("transfer needs a scarce task")
            task = self.scarce.task
            if self.baselines.transfer_learning_rate is not None:
                chosen["learning_rate"] = self.baselines.transfer_learning_rate
        if task not in self.tasks:
            raise ValueError(f"{kind} trains one of {self.tasks}, not {task!r}")
        return self.compose(
            (task,),
            self.shared,
            "naive",
            self._cut((task,), scarce_slices),
            seed,
            {**chosen, "passes": passes},
            goes_on=kind in ("joint-tuned", "transfer"),
        )

    def steps_passes(self, scarce_slices: int, available: Mapping[str, int], hyperparameters: Combination = ()) -> int:
        """Passes an epoch by which the scarce task alone takes as many steps as all tasks together, to the nearest one.

        An epoch of the joint network has the steps of any other of all tasks, so ``total_epochs`` with these passes
        have the steps that a trial has behind it. Exact for slices of one shape, or batches of one; slices of other
        shapes do not share a batch, which makes a few steps more.

        Args:
            scarce_slices: N.
            available: training slices of each task in the data.
            hyperparameters: one of ``combinations``; a batch size counts.
        """
        assert self.scarce is not None
        batch = int(dict(hyperparameters).get("batch_size") or self.training.batch_size)
        alone = math.ceil(scarce_slices / batch)
        others = sum(math.ceil(available[task] / batch) for task in self.tasks if task != self.scarce.task)
        return round((alone + others) / alone)

    def _cut(self, tasks: tuple[str, ...], scarce_slices: int | None) -> dict[str, int]:
        if self.scarce is None or self.scarce.task not in tasks or scarce_slices is None:
            return {}
        return {self.scarce.task: scarce_slices}

    def compose(
        self,
        tasks: tuple[str, ...],
        layout: str,
        weighting: WeightingKind,
        slices: dict[str, int],
        seed: int,
        hyperparameters: Mapping[str, Value | None],
        *,
        goes_on: bool = False,
        epochs: int | None = None,
    ) -> TrainConfig:
        """``goes_on``: from trained weights; ``epochs``: other than such a training has."""
        epochs = epochs or (self.fidelity.epochs if goes_on else self.total_epochs)
        fields: dict[str, Any] = {
            "tasks": tasks,
            "network": {"layout": layout, **self.unroll.model_dump(exclude={"blocks"})},
            "weighting": {"kind": weighting, **self.training.weighting.model_dump()},
            "slices": slices,
            "epochs": epochs,
            "validate_at": self.fidelity.validate_at(epochs),
            "seed": seed,
            **self.training.model_dump(exclude={"weighting"}),
        }
        if goes_on:
            fields |= self.start.model_dump(include={"learning_rate", "muon_learning_rate"}, exclude_none=True)
        for name, value in hyperparameters.items():
            *outer, last = name.split(".")
            inner = fields
            for part in outer:
                inner = inner[part]
            inner[last] = value
        return TrainConfig.model_validate(fields)
