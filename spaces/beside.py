"""What runs beside sampled trials, in a space: known configurations, baselines, confirmations, a grid."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from recon.config import (
    Config,
    WeightingKind,
)
from recon.network.layout import Layout
from spaces.layouts import Value
from spaces.point import BaselineKind, Init


class Known(Config):
    """A configuration that is chosen before anything ran; without ``scarce_slices``, at every N."""

    layout: str
    """Layout of the configuration, such as I2V10."""
    weighting: WeightingKind = "naive"
    """Weighting of the configuration."""
    scarce_slices: int | None = Field(default=None, ge=1)
    """Number of the scarce task's training slices (N).

    None: the configuration runs at every N of the space.
    """
    hyperparameters: dict[str, int | float | str] = Field(default={})
    """Value of each searched hyperparameter, by dotted name."""

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
    """Kinds of baselines that are trained."""
    seeds: int = Field(default=1, ge=1)
    """Number of seeds of each baseline, from the space's seed on.

    Gains are above the means over these seeds.
    """
    hyperparameters: dict[str, tuple[int | float | str | None, ...]] = Field(default={})
    """Values to train the baselines at, by the dotted name of a field of the training.

    Every baseline trains at every combination of these values. For each kind, task and N the combination with the best
    mean validation SSIM over seeds counts. A fine-tuning starts from the weights of its own combination. A multi-task
    network that starts from an STL takes the first combination. Every searched hyperparameter has to be named here,
    except those of the weighting: a baseline is no match for trials that were tuned more than it.
    """
    source: str | None = None
    """Name of the abundant task that transfer starts from.

    None: the first task that is not scarce.
    """
    transfer_learning_rate: float | None = Field(default=None, gt=0)
    """Adam's learning rate of transfer's fine-tuning.

    The paper's public code has 5e-4. None: the rate of ``start``.
    """

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
    """Number of leaders that are retrained."""
    seeds: int = Field(default=3, ge=1)
    """Number of seeds of each configuration; the search has seen none of them."""
    beside: tuple[Known, ...] = ()
    """Configurations that are retrained beside the leaders, at the leaders' N.

    They run whatever they scored. Leaders alone are alike. These configurations show what the leaders are better than,
    and by how much.
    """


class GridRow(Config):
    """One multi-task configuration of a grid."""

    layout: str
    """Layout of the row, such as I2V10."""
    weighting: WeightingKind = "naive"
    """Weighting of the row."""
    init: Init = "random"
    """Start of the row's trainings: random, joint or transfer."""
    hyperparameters: dict[str, bool | int | float | str | None] = Field(default={})
    """Fields of the training that this row changes, by dotted name.

    Such a row is another recipe beside that of the space.
    """
    label: str | None = None
    """Name of the changed recipe in tables.

    None: tables list the changed fields.
    """

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

    rows: tuple[GridRow, ...] = Field(min_length=1)
    """Configurations of the grid; each runs at every N and with every seed."""
    seeds: int = Field(default=3, ge=1)
    """Number of seeds of each row, from the space's seed on."""
