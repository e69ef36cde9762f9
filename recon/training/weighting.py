"""How the tasks' losses are weighted in training: naive, uncertainty, DWA, equal (Liu et al. 2021, section 2.2).

A weighting is a small module. What it learns are parameters for the optimiser; what it remembers are buffers. So a
checkpoint of its state resumes exactly. A training step sees one task i, and minimises ``weights()[i] * loss`` for the
network and ``penalty(i, loss)`` for what the weighting learns; ``recon.training.loop`` forms that sum. The weights
carry no gradient, so their scale does not change what the weighting learns. A new weighting is a class here, a name in
``recon.config.WeightingKind`` and a line in ``make_weighting``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recon.config import WeightingConfig
from recon.errors import InputError

HORIZONS = (2.0, 4.0)
"""Epochs over which smoothed DWA averages the losses: the later and the earlier mean of a ratio."""


class Weighting(nn.Module):
    """Constant weights; the base class of the other weightings.

    Args:
        tasks: names of the tasks, in the order of every vector here.
        fixed: the weights, (tasks,); without them each weight is 1, which is the weighting ``equal``.
    """

    def __init__(self, tasks: Sequence[str], fixed: Tensor | None = None) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        # Not persistent: it follows from the configuration, and a checkpoint leaves out what does.
        self.register_buffer("_fixed", torch.ones(len(self.tasks)) if fixed is None else fixed, persistent=False)
        self._fixed: Tensor

    def weights(self) -> Tensor:
        """The factor of each task's loss in the next step, (tasks,), without a gradient."""
        return self._fixed

    def penalty(self, task: int, loss: Tensor) -> Tensor | float:
        """The term of a step's objective from which the weighting learns: a scalar, 0 if nothing is learnt.

        Args:
            task: the task's number.
            loss: the step's loss, without its gradient.
        """
        return 0.0

    def note(self, task: int, loss: Tensor, slices: int) -> None:
        """Take note of a step's loss: a mean over this many slices, before weighting, a scalar without its gradient."""

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Take note of the epoch's mean training loss of each task (before weighting)."""


def constant_sum(weights: Tensor) -> Tensor:
    """Scale weights (tasks,) so that they add up to the number of tasks."""
    return weights * (len(weights) / weights.sum())


def naive_weights(counts: Sequence[int]) -> Tensor:
    """The weights w_i = T (N - n_i) / N of T tasks with n_i slices, N in all: a scarce task weighs more.

    This is the formula of the paper's public code. Eq. 2 of the paper, (1/T) Σ (N - n_i) loss_i, differs only by the
    factor N / T², which is common to all tasks (and does not change Adam's steps). The weights add up to T (T - 1): for
    two tasks this is 2, as with equal weights; for more tasks, use ``constant_sum``. A single task has weight 1, as the
    formula would give 0.
    """
    if len(counts) == 1:
        return torch.ones(1)
    slices = torch.tensor(counts, dtype=torch.float32)
    return len(counts) * (slices.sum() - slices) / slices.sum()


class Uncertainty(Weighting):
    """Weights exp(-s_i) / 2 with one log variance s_i per task, which minimises L_i / (2 exp(s_i)) + s_i / 2.

    Kendall, Gal, Cipolla 2018. At a constant loss the optimum is s_i = log L_i: weights in inverse proportion to the
    losses. Scaling the weights to a constant sum leaves that objective of s as it is.

    Args:
        tasks: their names.
        start: the start of every s. With ``loss``, each s starts at the log of its task's first loss; until then, a
            task counts with the mean s of the others.
        scaled: scale the weights to add up to T.
    """

    def __init__(self, tasks: Sequence[str], start: float | str, scaled: bool) -> None:
        super().__init__(tasks)
        known = not isinstance(start, str)
        self.scaled = scaled
        self.log_variances = nn.Parameter(torch.full((len(self.tasks),), float(start) if known else 0.0))
        self.register_buffer("started", torch.full((len(self.tasks),), known))
        self.started: Tensor

    def weights(self) -> Tensor:
        """The learnt weights: exp(-s) / 2, or proportional to it."""
        s = self.log_variances.detach()
        s = torch.where(self.started, s, (s * self.started).sum() / self.started.sum().clamp(min=1))
        return constant_sum(torch.exp(s.min() - s)) if self.scaled else torch.exp(-s) / 2

    def penalty(self, task: int, loss: Tensor) -> Tensor:
        """L / (2 exp(s)) + s / 2 for the step's task."""
        s = self.log_variances[task]
        return (loss * torch.exp(-s) + s) / 2

    def note(self, task: int, loss: Tensor, slices: int) -> None:
        """Set the start of the task's s, if it is not yet set."""
        s = self.log_variances.data
        s[task] = torch.where(self.started[task], s[task], loss.clamp(min=torch.finfo(s.dtype).tiny).log())
        self.started[task] = True


class DynamicWeightAverage(Weighting):
    """w = T softmax(r / temperature), r_i = L_i(t - 1) / L_i(t - 2) of the last two epochs (Liu, Johns, Davison 2019).

    A task whose loss falls more slowly weighs more. The first two epochs weigh all tasks equally, and the losses are
    taken before weighting, as in the original method. The public code of Liu et al. 2021 instead begins with naive
    weights and takes the ratio of weighted losses.
    """

    def __init__(self, tasks: Sequence[str], temperature: float) -> None:
        super().__init__(tasks)
        self.temperature = temperature
        # The mean losses of the last two epochs, the older first; NaN before there is one.
        self.register_buffer("history", torch.full((2, len(self.tasks)), torch.nan, dtype=torch.float64))
        self.history: Tensor

    def weights(self) -> Tensor:
        """T softmax(r / temperature) from the third epoch on."""
        if self.history.isnan().any():
            return self._fixed
        return _softmax(self.history[1] / self.history[0], self.temperature).to(self._fixed)

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Remember the epoch's losses and forget those of three epochs ago."""
        latest = self.history.new_tensor([losses[task] for task in self.tasks])
        self.history.copy_(torch.stack([self.history[1], latest]))


class SmoothedWeightAverage(Weighting):
    """DWA updated at every step: r_i is the ratio of two running means of L_i, over the last two and the last four
    epochs.

    Both means are exponential and corrected for the bias of their start. So weights begin equal, and change from the
    second step of a task on. The means of two single epochs, as in ``DynamicWeightAverage``, differ by noise as much as
    by learning.

    Args:
        tasks: their names.
        temperature: temperature of the softmax.
        slice_counts: number of slices of each task per epoch, (tasks,).
    """

    def __init__(self, tasks: Sequence[str], temperature: float, slice_counts: Sequence[int]) -> None:
        super().__init__(tasks)
        self.temperature = temperature
        self._counts = tuple(slice_counts)
        # The sums of the losses and of their factors: (horizons, tasks).
        self.register_buffer("sums", torch.zeros(len(HORIZONS), len(self.tasks), dtype=torch.float64))
        self.register_buffer("masses", torch.zeros(len(HORIZONS), len(self.tasks), dtype=torch.float64))
        self.sums: Tensor
        self.masses: Tensor

    def weights(self) -> Tensor:
        """T softmax(r / temperature), with r = 1 for a task that has had no step yet."""
        later, earlier = torch.where(self.masses > 0, self.sums / self.masses, 1.0)
        return _softmax(later / earlier, self.temperature).to(self._fixed)

    def note(self, task: int, loss: Tensor, slices: int) -> None:
        """Add the step's loss to both running means."""
        for horizon, sums, masses in zip(HORIZONS, self.sums, self.masses, strict=True):
            kept = math.exp(-slices / (horizon * self._counts[task]))
            sums[task] = kept * sums[task] + (1 - kept) * loss
            masses[task] = kept * masses[task] + (1 - kept)


def _softmax(ratios: Tensor, temperature: float) -> Tensor:
    return len(ratios) * torch.softmax(ratios / temperature, dim=0)


def make_weighting(config: WeightingConfig, tasks: Sequence[str], slice_counts: Mapping[str, int]) -> Weighting:
    """The weighting of a configuration.

    Args:
        config: the weighting's kind and settings.
        tasks: names in the network's order.
        slice_counts: number of training slices of each task, at least 1.

    Raises:
        InputError: a task has no slices.
    """
    for task in tasks:
        if slice_counts.get(task, 0) < 1:
            raise InputError(f"the task {task} has no training slices to weight")
    counts = [slice_counts[task] for task in tasks]
    if config.kind == "naive":
        weights = naive_weights(counts)
        return Weighting(tasks, constant_sum(weights) if config.constant_sum else weights)
    if config.kind == "uncertainty":
        return Uncertainty(tasks, config.log_variance_start, config.constant_sum)
    if config.kind == "dwa" and config.ratios == "epochs":
        return DynamicWeightAverage(tasks, config.temperature)
    if config.kind == "dwa":
        return SmoothedWeightAverage(tasks, config.temperature, counts)
    return Weighting(tasks)
