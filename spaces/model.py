"""The fields of a space, and what follows from them alone; ``spaces.space`` says what is done with them."""

from __future__ import annotations

import itertools

from pydantic import Field, field_validator

from recon.config import (
    Config,
    WeightingKind,
)
from recon.errors import InputError
from recon.network.layout import Layout
from spaces.beside import Baselines, Confirm, Grid, Known
from spaces.fields import CONDITIONAL, training_fields
from spaces.layouts import Dimension, FreeLayouts, Layouts
from spaces.parts import Fidelity, Hyperparameter, Objective, Sampler, Scarce, Start, Training, Unroll
from spaces.point import Combination


class SpaceModel(Config):
    """What a space says."""

    tasks: tuple[str, ...] = Field(min_length=2)
    """Names of the tasks, each a contrast, an anatomy or an orientation."""
    scarce: Scarce | None = None
    """The task whose training slices are cut, and the numbers to cut them to."""
    unroll: Unroll = Unroll()
    """The part of the unrolled network that is not searched."""
    layouts: Layouts = FreeLayouts()
    """The layouts that may be chosen: free, prefix or list."""
    weightings: tuple[WeightingKind, ...] = Field(default=("naive",), min_length=1)
    """Weightings of the tasks' losses to choose among."""
    hyperparameters: dict[str, Hyperparameter] = Field(default={})
    """Searched fields of the training, by dotted name.

    Examples are ``learning_rate`` and ``weighting.temperature``.
    """
    training: Training = Training()
    """The part of the training that is not searched."""
    start: Start = Start()
    """The weights that searched trials start from."""
    fidelity: Fidelity
    """Length of a trial, and the epochs at which poor trials stop."""
    objective: Objective = Objective()
    """The measure that the search maximises."""
    try_first: tuple[Known, ...] = ()
    """Configurations that run before the sampler chooses."""
    baselines: Baselines = Baselines()
    """The networks that trials are compared with."""
    trials: int = Field(default=0, ge=0)
    """Number of searched trials that finish or are stopped early.

    Failed trials do not count. A space with a grid may have no trials.
    """
    grid: Grid | None = None
    """Fixed configurations that all run, at every N and over seeds."""
    sampler: Sampler = Sampler()
    """The sampler that chooses configurations after the known ones."""
    seed: int = Field(default=0, ge=0)
    """Seed of every searched trial, and first seed of baselines and grid.

    Searched trials share one seed, so they differ by their configuration alone.
    """
    confirm: Confirm = Confirm()
    """The retraining of leaders over several seeds."""

    @field_validator("tasks", "weightings")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"names each once, found {', '.join(value)}")
        return value

    @property
    def needs_references(self) -> bool:
        """Whether judging a trial needs the matched STL networks."""
        return self.objective.metric == "gain" or self.objective.epsilon is not None

    @property
    def source(self) -> str:
        """The abundant task that transfer starts from."""
        return self.baselines.source or next(task for task in self.tasks if not self.scarce or task != self.scarce.task)

    @property
    def scarce_counts(self) -> tuple[int | None, ...]:
        """The N to choose among; (None,) without a scarce task.

        Raises InputError while ``all`` or fractions stand in for numbers: call ``on`` first.
        """
        if self.scarce is None:
            return (None,)
        counts = tuple(count for count in self.scarce.slices if count != "all")
        if not counts or len(counts) != len(self.scarce.slices):
            raise InputError("scarce.slices depends on the data, which are not known yet")
        return counts

    @property
    def joint_epochs(self) -> int:
        """Epochs of the joint network."""
        return self.start.epochs or self.fidelity.epochs

    @property
    def total_epochs(self) -> int:
        """Epochs that a finished searched trial has behind it, the joint network's included."""
        return self.fidelity.epochs + (self.joint_epochs if self.start.init == "joint" else 0)

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """The hyperparameters of baselines, each combination of their values; ((),) where none are given."""
        given = sorted(self.baselines.hyperparameters.items())
        return tuple(
            tuple(zip((name for name, _ in given), values, strict=True))
            for values in itertools.product(*(values for _, values in given))
        )

    @property
    def shared(self) -> str:
        """The layout that shares every block."""
        return str(Layout("I" * self.unroll.blocks))

    def active(self, weighting: WeightingKind | None = None) -> dict[str, Dimension]:
        """The searched hyperparameters that mean something with a weighting; without it, with every one."""
        known = training_fields()
        return {
            name: hyperparameter.dimension(known[name] is int)
            for name, hyperparameter in self.hyperparameters.items()
            if CONDITIONAL.get(name) in (None, weighting)
        }
