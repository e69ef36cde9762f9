"""How the tasks' losses are weighted in training: naive, uncertainty, DWA, equal (Liu et al. 2021, section 2.2).

A weighting is a small module: what it learns are parameters for the optimiser, what it remembers are buffers, so a
checkpoint of its state resumes exactly. A training step sees one task i, and minimises ``weights()[i] * loss`` for the
network and ``penalty(i, loss)`` for what the weighting learns; that sum is left to ``recon.training.loop``. The weights
carry no gradient, so how they are scaled does not change what is learnt. A new one is a class here, a name in
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
"""Epochs over which DWA's smoothed losses are averaged, the later and the earlier mean of a ratio."""


class Weighting(nn.Module):
    """Weights that stay as they are; the other weightings derive from it.

    Args:
        tasks: their names, in the order of every vector here.
        fixed: the weights, (tasks,); without them each is 1, which is the weighting ``equal``.
    """

    def __init__(self, tasks: Sequence[str], fixed: Tensor | None = None) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        # Not persistent: it follows from the configuration, and a checkpoint holds only what does not.
        self.register_buffer("_fixed", torch.ones(len(self.tasks)) if fixed is None else fixed, persistent=False)
        self._fixed: Tensor

    def weights(self) -> Tensor:
        """The factor of each task's loss in the next step, (tasks,), without a gradient."""
        return self._fixed

    def penalty(self, task: int, loss: Tensor) -> Tensor | float:
        """What a step on a task adds for the weighting to learn from: a scalar, 0 where nothing is learnt.

        Args:
            task: its number.
            loss: the step's, without its gradient.
        """
        return 0.0

    def note(self, task: int, loss: Tensor, slices: int) -> None:
        """Take note of a step's loss (before weighting, a scalar without its gradient), a mean over so many slices."""

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Take note of the epoch's mean training loss of each task (before weighting)."""


def constant_sum(weights: Tensor) -> Tensor:
    """Weights (tasks,) scaled to add up to their number."""
    return weights * (len(weights) / weights.sum())


def naive_weights(counts: Sequence[int]) -> Tensor:
    """The weights w_i = T (N - n_i) / N of T tasks with n_i slices, N in all: a scarce task weighs more.

    This is the paper's public code. Eq. 2 of the paper, (1/T) Σ (N - n_i) loss_i, differs from it by the factor N / T²
    only, which is common to all tasks (and to which Adam is blind). They add up to T (T - 1), so those of two tasks to
    2, as equal weights do; those of more tasks do so by ``constant_sum``. A single task, for which the formula gives 0,
    has weight 1.
    """
    if len(counts) == 1:
        return torch.ones(1)
    slices = torch.tensor(counts, dtype=torch.float32)
    return len(counts) * (slices.sum() - slices) / slices.sum()


class Uncertainty(Weighting):
    """Weights exp(-s_i) / 2 with a log variance s_i a task, which learns by L_i / (2 exp(s_i)) + s_i / 2.

    Kendall, Gal, Cipolla 2018. At a constant loss the optimum is s_i = log L_i: weights in inverse proportion to the
    losses. Scaling the weights to a constant sum leaves that objective of s as it is.

    Args:
        tasks: their names.
        start: of every s; ``loss``: each s starts at the log of its task's first loss, and until all tasks have had
            theirs, one without takes part as the mean of the others.
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
        """Learnt: exp(-s) / 2, or in proportion to it."""
        s = self.log_variances.detach()
        s = torch.where(self.started, s, (s * self.started).sum() / self.started.sum().clamp(min=1))
        return constant_sum(torch.exp(s.min() - s)) if self.scaled else torch.exp(-s) / 2

    def penalty(self, task: int, loss: Tensor) -> Tensor:
        """L / (2 exp(s)) + s / 2 of the step's task."""
        s = self.log_variances[task]
        return (loss * torch.exp(-s) + s) / 2

    def note(self, task: int, loss: Tensor, slices: int) -> None:
        """Start the task's s where it has not yet."""
        s = self.log_variances.data
        s[task] = torch.where(self.started[task], s[task], loss.clamp(min=torch.finfo(s.dtype).tiny).log())
        self.started[task] = True


class DynamicWeightAverage(Weighting):
    """w = T softmax(r / temperature), r_i = L_i(t - 1) / L_i(t - 2) of the last two epochs (Liu, Johns, Davison 2019).

    A task whose loss falls more slowly weighs more. The first two epochs weigh all tasks equally, and losses enter
    before weighting, as their authors have it; the public code of Liu et al. 2021 begins with naive weights and takes
    the ratio of weighted losses.
    """

    def __init__(self, tasks: Sequence[str], temperature: float) -> None:
        super().__init__(tasks)
        self.temperature = temperature
        # The mean losses of the last two epochs, the older first; NaN where there was none yet.
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
    """DWA step by step: r_i is the ratio of two running means of L_i, over the last two and the last four epochs.

    Both means are exponential and free of their start's bias, so weights begin equal and move from the second step of a
    task on. Two epochs' means, as in ``DynamicWeightAverage``, differ by their noise as much as by what was learnt.

    Args:
        tasks: their names.
        temperature: of the softmax.
        slice_counts: slices of each task in an epoch, (tasks,).
    """

    def __init__(self, tasks: Sequence[str], temperature: float, slice_counts: Sequence[int]) -> None:
        super().__init__(tasks)
        self.temperature = temperature
        self._counts = tuple(slice_counts)
        # The sum of losses, and of the factors that they entered with: (horizons, tasks).
        self.register_buffer("sums", torch.zeros(len(HORIZONS), len(self.tasks), dtype=torch.float64))
        self.register_buffer("masses", torch.zeros(len(HORIZONS), len(self.tasks), dtype=torch.float64))
        self.sums: Tensor
        self.masses: Tensor

    def weights(self) -> Tensor:
        """T softmax(r / temperature); a task that has had no step yet has r = 1."""
        later, earlier = torch.where(self.masses > 0, self.sums / self.masses, 1.0)
        return _softmax(later / earlier, self.temperature).to(self._fixed)

    def note(self, task: int, loss: Tensor, slices: int) -> None:
        """Let the step's loss into both running means."""
        for horizon, sums, masses in zip(HORIZONS, self.sums, self.masses, strict=True):
            kept = math.exp(-slices / (horizon * self._counts[task]))
            sums[task] = kept * sums[task] + (1 - kept) * loss
            masses[task] = kept * masses[task] + (1 - kept)


def _softmax(ratios: Tensor, temperature: float) -> Tensor:
    return len(ratios) * torch.softmax(ratios / temperature, dim=0)


def make_weighting(config: WeightingConfig, tasks: Sequence[str], slice_counts: Mapping[str, int]) -> Weighting:
    """The weighting that a configuration means.

    Args:
        config: its kind and settings.
        tasks: names in the network's order.
        slice_counts: training slices of each task, at least 1.

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
