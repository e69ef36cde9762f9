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

import difflib
import hashlib
import itertools
import json
import math
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from recon.config import (
    Config,
    Consistency,
    MasksConfig,
    NetworkConfig,
    Optimiser,
    Padding,
    Precision,
    TrainConfig,
    WeightingConfig,
    WeightingKind,
    WeightingSettings,
)
from recon.errors import InputError
from recon.layout import Layout
from spaces.layouts import Choice, Costs, Dimension, FreeLayouts, Integer, Layouts, Real, Value, costs

BaselineKind = Literal["stl", "stl-steps", "joint-stl", "joint-tuned", "transfer"]
Init = Literal["joint", "random", "transfer"]
"""What a multi-task network starts from: in every task's path the weights of the joint network of its seed and N, drawn
weights, or in every task's path the weights of the source task's STL."""
Combination = tuple[tuple[str, Value | None], ...]
"""Fields of TrainConfig that a baseline trains with, by dotted name, sorted."""


@dataclass(frozen=True)
class Point:
    """One multi-task configuration of a space: what a searched trial is, apart from its seed."""

    layout: str
    weighting: WeightingKind
    scarce_slices: int | None
    hyperparameters: tuple[tuple[str, Value], ...] = ()
    """Searched fields of TrainConfig by dotted name, sorted."""
    init: Init = "random"

    @property
    def key(self) -> str:
        """A text that names the point: equal points, equal keys. ``Point.parse`` reads it."""
        parts = [self.layout, self.weighting]
        if self.scarce_slices is not None:
            parts.append(f"n={self.scarce_slices}")
        if self.init != "random":
            parts.append(f"init={self.init}")
        parts += [f"{name}={json.dumps(value)}" for name, value in self.hyperparameters]
        return "/".join(parts)

    @classmethod
    def parse(cls, key: str) -> Point:
        """Read ``key``."""
        layout, weighting, *rest = key.split("/")
        named = dict(part.split("=", 1) for part in rest)
        slices = named.pop("n", None)
        init = named.pop("init", "random")
        extras = tuple((name, json.loads(value)) for name, value in named.items())
        return cls(layout, weighting, int(slices) if slices else None, extras, init)  # type: ignore[arg-type]


class Unroll(Config):
    """The part of the network that is not searched: every field of ``recon.config.NetworkConfig`` but the layout."""

    blocks: int = Field(default=12, ge=1)
    channels: int = Field(default=NetworkConfig.model_fields["channels"].default, ge=1)
    pools: int = Field(default=NetworkConfig.model_fields["pools"].default, ge=1)
    consistency: Consistency = NetworkConfig.model_fields["consistency"].default
    sense_steps: int = Field(default=NetworkConfig.model_fields["sense_steps"].default, ge=0)
    padding: Padding = NetworkConfig.model_fields["padding"].default
    zero_init: bool = NetworkConfig.model_fields["zero_init"].default


class Scarce(Config):
    """The task whose training slices are cut, and to how many."""

    task: str
    slices: tuple[int | Literal["all"], ...] = ()
    """N: one number, or several to choose among; ``all`` is what the data hold."""
    fractions: tuple[float, ...] = ()
    """Instead of slices: parts of what the data hold."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Scarce:
        if bool(self.slices) == bool(self.fractions):
            raise ValueError("give either slices or fractions")
        if any(count != "all" and count < 1 for count in self.slices):
            raise ValueError(f"slices are at least 1, found {list(self.slices)}")
        if any(not 0 < part <= 1 for part in self.fractions):
            raise ValueError(f"fractions lie in (0, 1], found {list(self.fractions)}")
        given = self.slices or self.fractions
        if len(set(given)) != len(given):
            raise ValueError(f"each N is named once, found {list(given)}")
        return self


class Hyperparameter(Config):
    """One searched field of the training: a range, or a few values."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[int | float | str, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _range_or_choices(self) -> Hyperparameter:
        if (self.choices is None) == (self.low is None or self.high is None) or (
            self.choices is not None and (self.low is not None or self.high is not None or self.log)
        ):
            raise ValueError("give low and high (and log), or choices")
        if self.low is not None and self.high is not None:
            if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
                raise ValueError(f"low is below high, found {self.low:g} and {self.high:g}")
            if self.log and self.low <= 0:
                raise ValueError(f"a logarithmic range starts above 0, found {self.low:g}")
        return self

    def dimension(self, whole: bool) -> Dimension:
        """As the sampler sees it; ``whole`` numbers stay whole."""
        if self.choices is not None:
            return Choice(self.choices)
        assert self.low is not None and self.high is not None  # noqa: PT018
        if whole:
            return Integer(math.ceil(self.low), math.floor(self.high), self.log)
        return Real(self.low, self.high, self.log)


class Training(Config):
    """How every trial is trained, where it is not searched."""

    batch_size: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=TrainConfig.model_fields["learning_rate"].default, gt=0)
    optimiser: Optimiser = TrainConfig.model_fields["optimiser"].default
    muon_learning_rate: float = Field(default=TrainConfig.model_fields["muon_learning_rate"].default, gt=0)
    weight_decay: float = Field(default=TrainConfig.model_fields["weight_decay"].default, ge=0)
    schedule: Literal["constant", "one-cycle", "cosine"] = "constant"
    clip_norm: float | None = Field(default=None, gt=0)
    precision: Precision = TrainConfig.model_fields["precision"].default
    compile: bool = TrainConfig.model_fields["compile"].default
    memory_saver: bool = TrainConfig.model_fields["memory_saver"].default
    cut: Literal["volumes", "slices"] = "volumes"
    masks: MasksConfig = MasksConfig()
    weighting: WeightingSettings = WeightingSettings()
    """How the weightings weight, whichever a trial has."""


class Start(Config):
    """What searched trials start from, and how trainings that start from trained weights go on.

    The joint network is one all-shared network on the pooled slices of all tasks, each slice counting alike; there is
    one for each seed and N.
    """

    init: Init = "joint"
    """Of searched trials; a grid's rows have their own."""
    epochs: int | None = Field(default=None, ge=1)
    """Of the joint network; without it, ``fidelity.epochs``."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Of every training that starts from trained weights, baselines among them; without it, that of ``training``."""
    muon_learning_rate: float | None = Field(default=None, gt=0)
    """The same."""


class Fidelity(Config):
    """How long trials train after their start, and where poor ones are stopped (successive halving)."""

    epochs: int = Field(ge=1)
    rungs: tuple[int, ...] | None = None
    """Epochs after which a trial may be stopped; an empty list stops none."""
    grace: int | None = Field(default=None, ge=1)
    """Instead of rungs: the first one; the others follow by the reduction factor."""
    reduction: float = Field(default=2.0, gt=1)
    """Of the trials that reach a rung, about one in this many goes on."""
    validate_after: Literal["every", "rungs"] = "every"
    """``every``: the network is validated, reported and saved after every epoch. ``rungs``: after the rungs and the
    last epoch only, which leaves more time for training or for more validation subjects."""

    @model_validator(mode="after")
    def _rungs_fit(self) -> Fidelity:
        if self.rungs is not None and self.grace is not None:
            raise ValueError("give either rungs or grace")
        if self.grace is not None and self.grace >= self.epochs:
            raise ValueError(f"grace is {self.grace}, where the last epoch is {self.epochs}; it must come before")
        for rung in self.rungs or ():
            if not 1 <= rung < self.epochs:
                raise ValueError(f"rung {rung} is not before the last epoch, {self.epochs}")
        if list(self.rungs or ()) != sorted(set(self.rungs or ())):
            raise ValueError(f"rungs ascend, found {list(self.rungs or ())}")
        return self

    @property
    def milestones(self) -> tuple[int, ...]:
        """The rungs, ascending."""
        if self.rungs is not None:
            return self.rungs
        found: list[int] = []
        rung = float(self.grace or self.epochs)
        while round(rung) < self.epochs:
            if round(rung) not in found:
                found.append(round(rung))
            rung *= self.reduction
        return tuple(found)

    def validate_at(self, epochs: int) -> tuple[int, ...] | None:
        """``TrainConfig.validate_at`` of a training of so many epochs; None for every one."""
        rungs = (rung for rung in self.milestones if rung < epochs)
        return None if self.validate_after == "every" else (*rungs, epochs)


class Objective(Config):
    """What is maximised."""

    metric: Literal["ssim", "gain"] = "ssim"
    """``ssim``: mean over tasks of the validation SSIM, for one N. ``gain``: mean over tasks of SSIM above the mean
    over seeds of the STL at that N, which compares trials of different N: the STL's SSIM at the same epoch where the
    trial starts at random, at its end where the trial starts from trained weights."""
    epsilon: float | None = Field(default=None, ge=0)
    """A trial is feasible where no task's SSIM lies more than this below that of the STL."""


class Known(Config):
    """A configuration that is chosen before anything ran; without ``scarce_slices``, at every N."""

    layout: str
    weighting: WeightingKind = "naive"
    scarce_slices: int | None = Field(default=None, ge=1)
    hyperparameters: dict[str, int | float | str] = Field(default={})

    @field_validator("layout")
    @classmethod
    def _parses(cls, value: str) -> str:
        return str(Layout.parse(value))


class Baselines(Config):
    """What trials are compared with; each trains at the same N and for as many epochs as they have behind them.

    ``stl``, ``stl-steps`` and ``joint-stl`` train from scratch for ``Space.total_epochs``. ``stl-steps`` is the scarce
    task's STL with as many steps as the multi-task networks have behind them at that N, the joint network's included:
    equal epochs give an STL on few slices few steps, and what sharing adds cannot be told from what training longer
    adds. ``joint-tuned`` is the joint network, fine-tuned for each task alone: what splitting it is compared with.
    ``transfer`` is the source task's STL, fine-tuned on the scarce task.
    """

    kinds: tuple[BaselineKind, ...] = ("stl", "joint-stl", "transfer")
    seeds: int = Field(default=1, ge=1)
    """From the space's. Gains are above means over these."""
    hyperparameters: dict[str, tuple[int | float | str | None, ...]] = Field(default={})
    """Values of fields of the training, by dotted name. Every baseline trains at every combination, and that with the
    best mean validation SSIM over seeds counts, for each kind, task and N. A fine-tuning starts from the weights of its
    own combination, a multi-task network that starts from an STL from those of the first. What the space searches,
    the weighting's fields apart, has to be here: a baseline is no match for trials that were tuned more than it."""
    source: str | None = None
    """The abundant task that transfer starts from; without it, the first task that is not scarce."""
    transfer_learning_rate: float | None = Field(default=None, gt=0)
    """For fine-tuning (the paper's public code: 5e-4); without it, that of ``start``."""

    @field_validator("hyperparameters")
    @classmethod
    def _values_differ(cls, value: dict[str, tuple[Value | None, ...]]) -> dict[str, tuple[Value | None, ...]]:
        for name, given in value.items():
            if not given or len(set(given)) != len(given):
                raise ValueError(f"{name} is a list of different values, found {list(given)}")
        return value


class Confirm(Config):
    """How many leaders are retrained over how many seeds before one is picked."""

    top: int = Field(default=3, ge=1)
    seeds: int = Field(default=3, ge=1)
    beside: tuple[Known, ...] = ()
    """Configurations that are retrained beside the leaders, whatever they scored, at the leaders' N. Leaders alone are
    alike; these say what the leaders are better than, and by how much."""


class Row(Config):
    """One multi-task configuration of a grid."""

    layout: str
    weighting: WeightingKind = "naive"
    init: Init = "random"
    hyperparameters: dict[str, bool | int | float | str | None] = Field(default={})
    """Fields of the training that this row has otherwise, by dotted name: another recipe beside the space's."""
    label: str | None = None
    """What tables call those; without it they list them."""

    @field_validator("layout")
    @classmethod
    def _parses(cls, value: str) -> str:
        return str(Layout.parse(value))

    @property
    def changed(self) -> tuple[tuple[str, Any], ...]:
        """The hyperparameters as a ``Point`` has them."""
        return tuple(sorted(self.hyperparameters.items()))


class Grid(Config):
    """Configurations that all run at every N and over seeds, with the baselines beside them.

    Nothing is chosen by looking at results and nothing is stopped, so every cell of a table has the same seeds.
    """

    rows: tuple[Row, ...] = Field(min_length=1)
    seeds: int = Field(default=3, ge=1)


class Sampler(Config):
    """What chooses points after the known ones."""

    kind: Literal["tpe", "random"] = "tpe"
    seed: int = Field(default=0, ge=0)
    startup: int = Field(default=10, ge=0)
    """Finished trials (known ones count) before TPE stops choosing at random."""


_CONDITIONAL: dict[str, WeightingKind] = {
    "weighting.temperature": "dwa",
    "weighting.ratios": "dwa",
    "weighting.log_variance_start": "uncertainty",
    "weighting.log_variance_learning_rate": "uncertainty",
}
"""Hyperparameters that mean something with one weighting only."""

_FIXED_FIELDS = {"tasks", "slices", "seed", "epochs", "passes", "validate_at", "network.layout", "weighting.kind"}
"""Fields of TrainConfig that have a place of their own in a space."""


class Space(Config):
    """One search, whole: with the prepared data and the code it determines what can be tried and how it is judged."""

    tasks: tuple[str, ...] = Field(min_length=2)
    scarce: Scarce | None = None
    unroll: Unroll = Unroll()
    layouts: Layouts = FreeLayouts()
    weightings: tuple[WeightingKind, ...] = Field(default=("naive",), min_length=1)
    hyperparameters: dict[str, Hyperparameter] = Field(default={})
    """Searched fields of the training by dotted name, such as ``learning_rate`` or ``weighting.temperature``."""
    training: Training = Training()
    start: Start = Start()
    fidelity: Fidelity
    objective: Objective = Objective()
    try_first: tuple[Known, ...] = ()
    baselines: Baselines = Baselines()
    trials: int = Field(default=0, ge=0)
    """Searched trials that finish or are stopped early; failed ones do not count. None is needed beside a grid."""
    grid: Grid | None = None
    sampler: Sampler = Sampler()
    seed: int = Field(default=0, ge=0)
    """Of every searched trial, so that they differ by their configuration alone; the first of baselines and grid."""
    confirm: Confirm = Confirm()

    @field_validator("tasks", "weightings")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"names each once, found {', '.join(value)}")
        return value

    @model_validator(mode="after")
    def _tasks_agree(self) -> Space:
        named = {"scarce.task": self.scarce.task if self.scarce else None, "baselines.source": self.baselines.source}
        for field, task in named.items():
            if task is not None and task not in self.tasks:
                raise ValueError(f"{field} is {task!r}, which is not among tasks ({', '.join(self.tasks)})")
        for kind in ("transfer", "stl-steps"):
            if self.scarce is None and kind in self.baselines.kinds:
                raise ValueError(
                    f"baselines.kinds has {kind}, which needs a scarce task; add scarce, or leave {kind} out"
                )
        if self.scarce is not None and self.baselines.source == self.scarce.task:
            raise ValueError(f"baselines.source is {self.baselines.source!r}, the scarce task itself")
        if "transfer" in self.baselines.kinds and "stl" not in self.baselines.kinds:
            raise ValueError("baselines.kinds has transfer without stl, which it starts from")
        if self.needs_references and "stl" not in self.baselines.kinds:
            raise ValueError("objective compares with stl (metric gain, or epsilon), which is not in baselines.kinds")
        if self.objective.metric == "ssim" and self.scarce and len(self.scarce.slices or self.scarce.fractions) > 1:
            raise ValueError("objective.metric is ssim, which cannot be compared between several N; use gain")
        return self

    @model_validator(mode="after")
    def _has_something_to_run(self) -> Space:
        if not self.trials and self.grid is None:
            raise ValueError("trials is missing or 0, and there is no grid: nothing would be trained")
        for index, row in enumerate(self.grid.rows if self.grid else ()):
            _check_length(row.layout, self.unroll.blocks, f"grid.rows[{index}].layout")
            if row in (self.grid.rows[:index] if self.grid else ()):
                raise ValueError(f"grid.rows[{index}] is there twice")
            self._check_recipe(row, f"grid.rows[{index}]")
            reason = self.layouts.too_large(Layout.parse(row.layout), partial(self.costs, row.hyperparameters))
            if reason is not None:
                raise ValueError(f"grid.rows[{index}].layout {row.layout} {reason}")
        if "stl" not in self.baselines.kinds:
            for field, init in self._inits().items():
                if init == "transfer":
                    raise ValueError(f"{field} is transfer, which starts from an STL; add stl to baselines.kinds")
        return self

    def _check_recipe(self, row: Row, field: str) -> None:
        known = _training_fields()
        for name, value in row.hyperparameters.items():
            _check_field(name, known, f"{field}.hyperparameters")
            if name.startswith("network.") and row.init != "random":
                raise ValueError(
                    f"{field}.hyperparameters.{name} changes the network, where the row starts from trained weights "
                    f"(init is {row.init}); leave it out, or let init be random"
                )
            try:
                self._config(self.tasks, "I", row.weighting, {}, 0, {name: value})
            except ValidationError as error:
                raise ValueError(f"{field}.hyperparameters.{name}: {_words(error.errors()[0])}") from None

    @model_validator(mode="after")
    def _hyperparameters_exist(self) -> Space:
        known = _training_fields()
        for name, hyperparameter in self.hyperparameters.items():
            _check_field(name, known, "hyperparameters")
            weighting = _CONDITIONAL.get(name)
            if weighting is not None and weighting not in self.weightings:
                raise ValueError(f"hyperparameters.{name} belongs to {weighting}, which is not among weightings")
            dimension = hyperparameter.dimension(known[name] is int)
            ends = dimension.values if isinstance(dimension, Choice) else (dimension.low, dimension.high)
            if isinstance(dimension, Integer) and dimension.low > dimension.high:
                raise ValueError(f"hyperparameters.{name} holds no whole number")
            for value in ends:
                try:
                    self._config(self.tasks, "I", weighting or self.weightings[0], {}, 0, {name: value})
                except ValidationError as error:
                    raise ValueError(f"hyperparameters.{name}: {_words(error.errors()[0])}") from None
        return self

    @model_validator(mode="after")
    def _baselines_have_what_is_searched(self) -> Space:
        given = self.baselines.hyperparameters
        known = [name for name in _training_fields() if not name.startswith("weighting.")]
        for name, values in given.items():
            _check_field(name, known, "baselines.hyperparameters", "a baseline's training")
            for value in values:
                try:
                    self._config(self.tasks, "I", "naive", {}, 0, {name: value})
                except ValidationError as error:
                    raise ValueError(f"baselines.hyperparameters.{name}: {_words(error.errors()[0])}") from None
        for name in self.hyperparameters:
            if self.baselines.kinds and name in known and name not in given:
                raise ValueError(
                    f"hyperparameters.{name} is searched for trials and not for the baselines; add "
                    f"baselines.hyperparameters.{name}, a list of values to train them at"
                )
        return self

    @model_validator(mode="after")
    def _weights_fit(self) -> Space:
        """Trained weights fit one network only, so nothing of the network is searched where they are started from."""
        searched = next((name for name in self.hyperparameters if name.startswith("network.")), None)
        if searched is not None and self.start.init != "random":
            raise ValueError(
                f"hyperparameters.{searched} changes the network, where trials start from trained weights "
                f"(start.init is {self.start.init}); leave it out, or let start.init be random"
            )
        tuned = next((name for name in self.baselines.hyperparameters if name.startswith("network.")), None)
        starts: dict[str, str] = {field: init for field, init in self._inits().items() if init != "random"}
        if "joint-tuned" in self.baselines.kinds:
            starts["baselines.kinds"] = "joint-tuned"
        if tuned is not None and starts:
            field, start = next(iter(starts.items()))
            has = "has" if field == "baselines.kinds" else "is"
            raise ValueError(
                f"baselines.hyperparameters.{tuned} changes the network, and {field} {has} {start}, which starts from "
                "trained weights; leave one of the two out"
            )
        return self

    def _inits(self) -> dict[str, Init]:
        """What multi-task networks start from, by the field that says so."""
        searched: dict[str, Init] = {"start.init": self.start.init} if self.trials else {}
        rows = self.grid.rows if self.grid else ()
        return searched | {f"grid.rows[{index}].init": row.init for index, row in enumerate(rows)}

    @model_validator(mode="after")
    def _layouts_fit(self) -> Space:
        dimensions = self.layouts.dimensions(self.unroll.blocks)
        for dimension in dimensions.values():
            if isinstance(dimension, Integer) and dimension.high > self.unroll.blocks:
                raise ValueError(
                    f"layouts.shared ends at {dimension.high}, where unroll.blocks is {self.unroll.blocks}"
                )
        if "layout" in dimensions:
            for text in dimensions["layout"].values:  # type: ignore[union-attr]
                _check_length(str(text), self.unroll.blocks, "layouts.choices")
        named = {f"try_first[{index}]": known for index, known in enumerate(self.try_first)}
        named |= {f"confirm.beside[{index}]": known for index, known in enumerate(self.confirm.beside)}
        for field, known in named.items():
            layout = _check_length(known.layout, self.unroll.blocks, f"{field}.layout")
            if known.weighting not in self.weightings:
                raise ValueError(f"{field}.weighting is {known.weighting}, which is not among weightings")
            if known.scarce_slices is not None and (not self.scarce or known.scarce_slices not in self.scarce.slices):
                raise ValueError(f"{field}.scarce_slices is {known.scarce_slices}, which is not among scarce.slices")
            wanted = self._active(known.weighting)
            if set(known.hyperparameters) != set(wanted):
                raise ValueError(
                    f"{field}.hyperparameters gives {sorted(known.hyperparameters) or 'none'}, "
                    f"where {sorted(wanted) or 'none'} are searched"
                )
            try:
                count = partial(self.costs, known.hyperparameters)
                reason = self.layouts.misfit(layout, count)
            except ValidationError as error:
                raise ValueError(f"{field}.hyperparameters: {_words(error.errors()[0])}") from None
            if reason is not None:
                raise ValueError(f"{field}.layout {known.layout} {reason}")
        return self

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

    def costs(self, hyperparameters: Mapping[str, Value | None] | None = None) -> Costs:
        """Parameters by block kind, of the networks that have these hyperparameters.

        Raises pydantic's ValidationError for values that no network has.
        """
        chosen = {name: value for name, value in (hyperparameters or {}).items() if name.startswith("network.")}
        return costs(self._config(self.tasks, "I", "naive", {}, 0, chosen).network, self.tasks)

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

    # What is searched

    def dimensions(self, weighting: WeightingKind | None = None) -> dict[str, Dimension]:
        """What the sampler chooses, by name.

        Args:
            weighting: once it is chosen, the hyperparameters that only it has come in too.
        """
        found = self.layouts.dimensions(self.unroll.blocks)
        found["weighting"] = Choice(self.weightings)
        if self.scarce is not None:
            found["scarce_slices"] = Choice(tuple(count for count in self.scarce_counts if count is not None))
        return found | (self._active(weighting) if weighting else self._active())

    def _active(self, weighting: WeightingKind | None = None) -> dict[str, Dimension]:
        known = _training_fields()
        return {
            name: hyperparameter.dimension(known[name] is int)
            for name, hyperparameter in self.hyperparameters.items()
            if _CONDITIONAL.get(name) in (None, weighting)
        }

    def decode(self, params: Mapping[str, Any], rng: random.Random) -> Point | None:
        """The feasible point nearest to what a sampler chose; None where there is none."""
        weighting: WeightingKind = params["weighting"]
        extras = tuple(sorted((name, params[name]) for name in self._active(weighting)))
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

    # From points and baselines to trainings

    def train_config(self, point: Point, seed: int | None = None) -> TrainConfig:
        """The training of a point; without a seed, with the space's.

        From trained weights a point trains for ``fidelity.epochs`` at the rates of ``start``, else for
        ``total_epochs`` at those of ``training``; a searched rate is its own.
        """
        return self._config(
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
        return self._config(self.tasks, self._shared, "equal", cut, seed, {}, epochs=self.joint_epochs)

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
            return self._config(self.tasks, self._shared, "equal", self._cut(self.tasks, scarce_slices), seed, chosen)
        if kind == "transfer":
            if self.scarce is None:
                raise ValueError("transfer needs a scarce task")
            task = self.scarce.task
            if self.baselines.transfer_learning_rate is not None:
                chosen["learning_rate"] = self.baselines.transfer_learning_rate
        if task not in self.tasks:
            raise ValueError(f"{kind} trains one of {self.tasks}, not {task!r}")
        return self._config(
            (task,),
            self._shared,
            "naive",
            self._cut((task,), scarce_slices),
            seed,
            {**chosen, "passes": passes},
            goes_on=kind in ("joint-tuned", "transfer"),
        )

    @property
    def _shared(self) -> str:
        return str(Layout("I" * self.unroll.blocks))

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

    def _config(
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

    # Identity

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


def _check_length(text: str, blocks: int, field: str) -> Layout:
    layout = Layout.parse(text)
    if len(layout) != blocks:
        raise ValueError(f"{field} {text} has {len(layout)} blocks, where unroll.blocks is {blocks}")
    return layout


def _check_field(name: str, known: Collection[str], where: str, of: str = "a training") -> None:
    """Raise ValueError for a name that is no field, with the nearest that is."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; the fields are {', '.join(sorted(known))}"
        raise ValueError(f"{where}.{name} is no field of {of}{hint}")


def _training_fields() -> dict[str, type]:
    """Searchable fields of a training by dotted name, with their types (masks and fields with their own place are
    left out)."""
    found: dict[str, type] = {}
    models: list[tuple[str, type[BaseModel]]] = [
        ("", TrainConfig),
        ("network.", NetworkConfig),
        ("weighting.", WeightingConfig),
    ]
    for prefix, model in models:
        for name, field in model.model_fields.items():
            kind = field.annotation
            if prefix + name not in _FIXED_FIELDS and kind not in (NetworkConfig, WeightingConfig, MasksConfig):
                found[prefix + name] = kind if isinstance(kind, type) else object
    return found


def _listed(available: Mapping[str, int]) -> str:
    return ", ".join(f"{task} ({count})" for task, count in available.items()) or "none"


# Reading


def shipped() -> list[str]:
    """Names of the spaces that come with Splitpoint."""
    return sorted(file.name for file in resources.files("spaces").iterdir() if file.name.endswith(".yaml"))


def load_space(path: str | Path) -> Space:
    """Read a space from a YAML file; ``quickstart.yaml`` and its like, where no such file exists, are the shipped ones.

    Raises:
        InputError: no such file, no YAML, or a field at fault; the sentence names file and field.
    """
    path = Path(path)
    name = path.name if path.suffix else f"{path.name}.yaml"
    if not path.is_file() and (path.parent == Path() or path.parent.name == "spaces") and name in shipped():
        text = (resources.files("spaces") / name).read_text()
    else:
        try:
            text = path.read_text()
        except FileNotFoundError:
            raise InputError(f"there is no space {path}; shipped are {', '.join(shipped())}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
    return parse_space(text, str(path))


def parse_space(text: str, name: str = "space") -> Space:
    """Read a space from YAML text; ``name`` is what errors call it."""
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"{name} is not YAML{place}: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{name} is no space: it holds {type(content).__name__}, where fields such as tasks and trials should be"
        )
    try:
        return Space.model_validate(content)
    except ValidationError as error:
        faults = error.errors()
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(f"{name}: {_sentence(faults[0])}{more}") from None


def stored_space(content: Mapping[str, Any]) -> Space:
    """Read a space that a study has stored, of an earlier version too.

    Before ``start`` there was, every trial started at random; before ``baselines.hyperparameters``, every baseline was
    trained with the values of ``training`` and ``unroll``.
    """
    if "start" in content:
        return Space.model_validate(content)
    fixed = {**content.get("training", {})}
    fixed |= {f"network.{name}": value for name, value in Unroll(**content.get("unroll", {})).model_dump().items()}
    searched = [name for name in content.get("hyperparameters", {}) if not name.startswith("weighting.")]
    baselines = content.get("baselines", {}) | {"hyperparameters": {name: [fixed[name]] for name in searched}}
    return Space.model_validate({**content, "start": {"init": "random"}, "baselines": baselines})


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, where PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _sentence(fault: Any) -> str:
    # The tag of a discriminated union stands in the location, but not in the user's file.
    location = [part for index, part in enumerate(fault["loc"]) if not (index == 1 and fault["loc"][0] == "layouts")]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if fault["type"] == "extra_forbidden":
        return _unknown(location, field)
    return f"{field}: {_words(fault)}" if field else _words(fault)


def _words(fault: Any) -> str:
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "missing":
        return "is missing"
    if fault["type"] in ("value_error", "union_tag_not_found"):
        return message
    found = fault.get("input")
    return f"{message[0].lower()}{message[1:]}, found {found!r}"


def _unknown(location: list[Any], field: str) -> str:
    model: Any = Space
    for part in location[:-1]:
        if isinstance(part, str) and model is not None:
            model = _model_of(model.model_fields[part].annotation) if part in model.model_fields else None
    known = sorted(model.model_fields) if model is not None else []
    near = difflib.get_close_matches(str(location[-1]), known, 1)
    hint = f"; did you mean {near[0]}?" if near else f"; known here are {', '.join(known)}" if known else ""
    return f"{field} is an unknown key{hint}"


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The one model inside an annotation such as ``X | None`` or ``tuple[X, ...]``; None where there is none or a
    choice."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [found for part in getattr(annotation, "__args__", ()) if (found := _model_of(part)) is not None]
    return inner[0] if len(inner) == 1 else None
