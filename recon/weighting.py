"""How the tasks' losses are weighted in training: naive, uncertainty, DWA, equal (Liu et al. 2021, section 2.2).

A weighting is a small module: what it learns are parameters for the optimiser, what it remembers are buffers, so a
checkpoint of its state resumes exactly. A training step sees one task i, and its loss becomes
``weights(...)[i] * loss + penalty()[i]``; that sum is left to ``recon.training``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recon.config import WeightingConfig
from recon.errors import InputError


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

    def weights(self, epoch: int, losses: Tensor) -> Tensor:
        """The factor of each task's loss, (tasks,).

        Args:
            epoch: from 1.
            losses: the tasks' current losses, (tasks,). No weighting here looks at them: DWA learns of them in
                ``end_epoch``, uncertainty weighting by its gradient.
        """
        return self._fixed

    def penalty(self) -> Tensor:
        """What is added to each task's weighted loss, (tasks,); zero unless weights are learnt."""
        return torch.zeros_like(self._fixed)

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Take note of the epoch's mean training loss of each task (before weighting)."""


def naive_weights(counts: Sequence[int]) -> Tensor:
    """The weights w_i = T (N - n_i) / N of T tasks with n_i slices, N in all: a scarce task weighs more.

    This is the paper's public code. Eq. 2 of the paper, (1/T) Σ (N - n_i) loss_i, differs from it by the factor N / T²
    only, which is common to all tasks (and to which Adam is blind). They add up to T (T - 1), so those of two tasks to
    2, as equal weights do. A single task, for which the formula gives 0, has weight 1.
    """
    if len(counts) == 1:
        return torch.ones(1)
    slices = torch.tensor(counts, dtype=torch.float32)
    return len(counts) * (slices.sum() - slices) / slices.sum()


class Uncertainty(Weighting):
    """L_i / (2 exp(s_i)) + s_i / 2 with a learnt log variance s_i a task (Kendall, Gal, Cipolla 2018).

    At a constant loss the optimum is s_i = log L_i.
    """

    def __init__(self, tasks: Sequence[str], start: float) -> None:
        super().__init__(tasks)
        self.log_variances = nn.Parameter(torch.full((len(self.tasks),), start))

    def weights(self, epoch: int, losses: Tensor) -> Tensor:
        """Learnt: exp(-s) / 2."""
        return torch.exp(-self.log_variances) / 2

    def penalty(self) -> Tensor:
        """Half of s, which keeps the weights from vanishing."""
        return self.log_variances / 2


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

    def weights(self, epoch: int, losses: Tensor) -> Tensor:
        """T softmax(r / temperature) from the third epoch on."""
        if self.history.isnan().any():
            return self._fixed
        ratios = self.history[1] / self.history[0]
        return (len(self.tasks) * torch.softmax(ratios / self.temperature, dim=0)).to(self._fixed)

    def end_epoch(self, losses: Mapping[str, float]) -> None:
        """Remember the epoch's losses and forget those of three epochs ago."""
        latest = self.history.new_tensor([losses[task] for task in self.tasks])
        self.history.copy_(torch.stack([self.history[1], latest]))


def make_weighting(config: WeightingConfig, tasks: Sequence[str], slice_counts: Mapping[str, int]) -> Weighting:
    """The weighting that a configuration means.

    Args:
        config: its kind, DWA's temperature, where uncertainty's log variances start.
        tasks: names in the network's order.
        slice_counts: training slices of each task, at least 1.

    Raises:
        InputError: a task has no slices.
    """
    for task in tasks:
        if slice_counts.get(task, 0) < 1:
            raise InputError(f"the task {task} has no training slices to weight")
    if config.kind == "naive":
        return Weighting(tasks, naive_weights([slice_counts[task] for task in tasks]))
    if config.kind == "uncertainty":
        return Uncertainty(tasks, config.log_variance_start)
    if config.kind == "dwa":
        return DynamicWeightAverage(tasks, config.temperature)
    return Weighting(tasks)
