"""The parts of a space that sampled trials have, each a model of its own.

Baselines, confirmations and grids are in ``spaces.beside``; ``spaces.model`` puts the parts together, ``spaces.checks``
says what has to fit between them, and ``spaces.trainings`` makes trainings of them. After a change,
``docs/make_reference.py`` writes the reference of fields and the JSON Schema anew."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from recon.config import (
    Config,
    Consistency,
    MasksConfig,
    NetworkConfig,
    Optimiser,
    Padding,
    Precision,
    TrainConfig,
    WeightingSettings,
)
from spaces.layouts import Choice, Dimension, Integer, Real
from spaces.point import Init


class Unroll(Config):
    """The part of the network that is not searched: every field of ``recon.config.NetworkConfig`` but the layout."""

    blocks: int = Field(default=12, ge=1)
    """Number of unrolled blocks."""
    channels: int = Field(default=NetworkConfig.model_fields["channels"].default, ge=1)
    """Number of channels of each U-Net's first layer."""
    pools: int = Field(default=NetworkConfig.model_fields["pools"].default, ge=1)
    """Number of poolings in each U-Net."""
    consistency: Consistency = NetworkConfig.model_fields["consistency"].default
    """Kind of data consistency in each block: k-space, image or accelerated.

    ``recon.config.NetworkConfig`` says what they are.
    """
    sense_steps: int = Field(default=NetworkConfig.model_fields["sense_steps"].default, ge=0)
    """Number of accelerated data-consistency steps before the first block.

    They learn nothing. 0 is the paper's network.
    """
    padding: Padding = NetworkConfig.model_fields["padding"].default
    """Size to which each U-Net pads its images: fastmri or least.

    ``fastmri``: a multiple of 16. ``least``: a multiple of 2^pools.
    """
    zero_init: bool = NetworkConfig.model_fields["zero_init"].default
    """Start the last convolution of each U-Net at zero, and add no mean to its output.

    False is fastMRI's U-Net, which the paper's public code uses.
    """


class Scarce(Config):
    """The task whose training slices are cut, and to how many."""

    task: str
    """Name of the scarce task."""
    slices: tuple[int | Literal["all"], ...] = ()
    """Numbers of training slices (N) of the scarce task, such as [32, 107].

    ``all`` is every slice that the data hold. A space gives either slices or fractions.
    """
    fractions: tuple[float, ...] = ()
    """Fractions of the scarce task's training slices, in place of their numbers."""

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
    """Lowest value of the range."""
    high: float | None = None
    """Highest value of the range."""
    log: bool = False
    """Search the range on a logarithmic scale."""
    choices: tuple[int | float | str, ...] | None = Field(default=None, min_length=1)
    """Values to choose among, in place of a range."""

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
    """Number of slices in a batch."""
    learning_rate: float = Field(default=TrainConfig.model_fields["learning_rate"].default, gt=0)
    """Adam's learning rate.

    With ``muon`` it is the rate of all weights but the convolutions inside the U-Nets.
    """
    optimiser: Optimiser = TrainConfig.model_fields["optimiser"].default
    """Optimiser of the weights: adam, adamw or muon.

    ``muon`` steps the convolutions inside the U-Nets by Muon and all other weights by Adam.
    """
    muon_learning_rate: float = Field(default=TrainConfig.model_fields["muon_learning_rate"].default, gt=0)
    """Muon's learning rate; only ``muon`` uses it."""
    weight_decay: float = Field(default=TrainConfig.model_fields["weight_decay"].default, ge=0)
    """Decoupled weight decay of ``adamw`` and ``muon``; ``adam`` has none."""
    schedule: Literal["constant", "one-cycle", "cosine"] = "constant"
    """Course of the learning rates over a training: constant, one-cycle or cosine.

    ``constant``: the same rate in every step. ``one-cycle``: up to the given rate and down again. ``cosine``: from the
    given rate down to zero along a half cosine.
    """
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; a larger gradient is scaled down to it.

    None: no clipping.
    """
    precision: Precision = TrainConfig.model_fields["precision"].default
    """Precision of training steps: single or bfloat16.

    ``bfloat16``: the U-Nets run under autocast. Validation is always single.
    """
    compile: bool = TrainConfig.model_fields["compile"].default
    """Compile the U-Nets with ``torch.compile``.

    This needs a C++ compiler, and pays in long trainings only.
    """
    memory_saver: bool = TrainConfig.model_fields["memory_saver"].default
    """Recompute the activations of each block in the backward pass.

    The result is the same. A training needs less memory and more time.
    """
    cut: Literal["volumes", "slices"] = "volumes"
    """Way to cut the scarce task to its number of slices.

    ``volumes``: whole volumes first, as the paper did. ``slices``: slices at random.
    """
    masks: MasksConfig = MasksConfig()
    """Undersampling masks of training, validation and test."""
    weighting: WeightingSettings = WeightingSettings()
    """Settings of the weightings, whichever a trial has."""


class Start(Config):
    """What searched trials start from, and how trainings that start from trained weights go on.

    The joint network is one all-shared network on the pooled slices of all tasks, each slice counting alike; there is
    one for each seed and N.
    """

    init: Init = "joint"
    """Start of searched trials: joint, random or transfer.

    ``joint``: the weights of the joint network of the same seed and N. ``random``: drawn weights. ``transfer``: the
    weights of the source task's STL. Each row of a grid has an ``init`` of its own.
    """
    epochs: int | None = Field(default=None, ge=1)
    """Number of epochs of the joint network.

    None: ``fidelity.epochs``.
    """
    learning_rate: float | None = Field(default=None, gt=0)
    """Adam's learning rate of every training that starts from trained weights.

    This holds for baselines too. None: the rate of ``training``.
    """
    muon_learning_rate: float | None = Field(default=None, gt=0)
    """Muon's learning rate of every training that starts from trained weights.

    This holds for baselines too. None: the rate of ``training``.
    """


class Fidelity(Config):
    """How long trials train after their start, and where poor ones are stopped (successive halving)."""

    epochs: int = Field(ge=1)
    """Number of epochs that a trial trains after its start."""
    rungs: tuple[int, ...] | None = None
    """Epochs after which a poor trial may be stopped.

    An empty list stops no trial. A space gives either rungs or grace.
    """
    grace: int | None = Field(default=None, ge=1)
    """Epoch of the first rung, in place of the rungs; the others follow by the reduction factor."""
    reduction: float = Field(default=2.0, gt=1)
    """Reduction factor: of the trials that reach a rung, about one in this many goes on."""
    validate_after: Literal["every", "rungs"] = "every"
    """Epochs after which a trial is validated, reported and saved: every or rungs.

    ``every``: after every epoch. ``rungs``: after the rungs and the last epoch only. That leaves more time for
    training, or for more validation subjects.
    """

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
    """Metric that the search maximises: ssim or gain.

    ``ssim``: the mean over tasks of the validation SSIM, for one N. ``gain``: the mean over tasks of the SSIM minus the
    STL's mean SSIM over seeds at that N. A gain compares trials of different N. A trial that starts at random is
    compared with the STL at the same epoch. A trial that starts from trained weights is compared with the STL at its
    end.
    """
    epsilon: float | None = Field(default=None, ge=0)
    """Largest loss of SSIM against the STL that a feasible trial may have in any task.

    None: every trial is feasible.
    """


class Sampler(Config):
    """What chooses points after the known ones."""

    kind: Literal["tpe", "random"] = "tpe"
    """Sampler that chooses configurations: tpe or random."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampler."""
    startup: int = Field(default=10, ge=0)
    """Number of finished trials before TPE stops choosing at random.

    Known configurations count.
    """
