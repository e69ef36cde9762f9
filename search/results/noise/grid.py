"""Layouts × seeds: how much of a score is due to the layout, and how much to chance."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from recon.errors import InputError

Array = np.ndarray[Any, Any]
LEVEL = 0.05
"""The level of every verdict: the probability that it names a difference where there is none."""
POWER = 0.8
MEAN = "mean of tasks"
"""The objective's name among the tasks."""
MOST_SEEDS = 9999


@dataclass(frozen=True)
class Grid:
    """Trainings of configurations × seeds, balanced."""

    names: tuple[str, ...]
    """The layouts of the configurations."""
    layouts: tuple[str, ...]
    """Of the same."""
    seeds: tuple[int, ...]
    epochs: tuple[int, ...]
    """At which every training has a value; the last one is the end."""
    values: Array
    """(configurations, seeds, epochs)."""
    dropped: tuple[str, ...] = ()
    """Configurations and seeds that were left out, for want of some of their trainings."""

    @property
    def end(self) -> Array:
        """Values at the end, (configurations, seeds)."""
        return self.values[:, :, -1]


def grid(table: pd.DataFrame, task: str | None = None) -> Grid:
    """The balanced part of a table.

    A training counts where it has a finite value at the table's last epoch. Where trainings are missing, the
    configuration or seed that lacks the largest part is left out, until all is there.

    Args:
        table: one row per value: ``layout, seed, epoch, task, value``, and ``configuration`` where a layout has several
            (of its weighting, say). Rows that agree in these (slices of one validation) are averaged.
        task: whose values; without it the mean over all tasks.

    Raises InputError where fewer than two configurations or two seeds are left.
    """
    if "configuration" not in table:
        table = table.assign(configuration=table["layout"])
    keys = ["configuration", "seed", "epoch"]
    chosen = table if task is None else table[table["task"] == task]
    tasks = chosen["task"].nunique()
    by_task = chosen.groupby([*keys, "task"], sort=False)["value"].mean()
    grouped = by_task.groupby(keys, sort=False)
    means = grouped.mean().where(grouped.count() == tasks)
    wide = means.unstack("epoch").sort_index(axis="columns")
    if wide.empty:
        raise InputError("there are no trainings over seeds")
    there = wide.iloc[:, -1].unstack("seed").sort_index(axis="columns")
    there = there.reindex(list(dict.fromkeys(chosen["configuration"])))
    present = there.astype(float).map(np.isfinite)
    dropped = []
    while not present.to_numpy().all():
        rows, columns = 1 - present.mean(axis=1), 1 - present.mean(axis=0)
        if rows.max() >= columns.max():
            dropped.append(f"{rows.idxmax()}")
            present = present.drop(index=rows.idxmax())
        else:
            dropped.append(f"seed {columns.idxmax()}")
            present = present.drop(columns=columns.idxmax())
    names, seeds = list(present.index), [int(seed) for seed in present.columns]
    for what, found in (("layout", names), ("seed", seeds)):
        if len(found) < 2:
            without = f" (without {', '.join(dropped)}, whose trainings are not all there)" if dropped else ""
            raise InputError(
                f"noise is told from layouts by two layouts, each trained with the same two seeds, and there is "
                f"{len(found) or 'no'} {what}{without}"
            )
    full = wide.reindex(pd.MultiIndex.from_product([names, seeds])).dropna(axis="columns").astype(float)
    layouts = chosen.drop_duplicates("configuration").set_index("configuration")["layout"]
    return Grid(
        tuple(map(str, names)),
        tuple(layouts.loc[names]),
        tuple(seeds),
        tuple(int(epoch) for epoch in full.columns),
        full.to_numpy().reshape(len(names), len(seeds), -1),
        tuple(dropped),
    )


@dataclass(frozen=True)
class Components:
    """The additive two-way model of one value for each layout and seed (one observation per cell)."""

    layout: float
    """Standard deviation of the layouts' effect, the variance component: √max(0, (MS_layout − MS_residual) / seeds)."""
    spread: float
    """Plain standard deviation of the layouts' means, which holds noise too."""
    seed: float
    """As ``layout``, of what all trainings of a seed share."""
    residual: float
    """Standard deviation of one run's paired noise, √MS_residual."""
    f: float
    """MS_layout / MS_residual, on (layouts − 1) and (layouts − 1)(seeds − 1) degrees of freedom."""
    p: float
    """Of that F, where layouts do nothing."""


def components(values: Array) -> Components:
    """Variance components by the analysis of variance of a randomised block design, seeds as blocks.

    Args:
        values: (layouts, seeds), at least two of each.

    Source: Montgomery, Design and Analysis of Experiments, chapter 4; the components by equating mean squares with
    their expectations (ibid., chapter 13).
    """
    rows, columns = values.shape
    mean = values.mean()
    by_row, by_column = values.mean(axis=1), values.mean(axis=0)
    ms_row = columns * ((by_row - mean) ** 2).sum() / (rows - 1)
    ms_column = rows * ((by_column - mean) ** 2).sum() / (columns - 1)
    rest = values - by_row[:, None] - by_column[None, :] + mean
    free = (rows - 1) * (columns - 1)
    ms_rest = (rest**2).sum() / free
    f = float(ms_row / ms_rest) if ms_rest > 0 else math.inf if ms_row > 0 else math.nan
    return Components(
        layout=math.sqrt(max(0.0, ms_row - ms_rest) / columns),
        spread=float(by_row.std(ddof=1)),
        seed=math.sqrt(max(0.0, ms_column - ms_rest) / rows),
        residual=math.sqrt(ms_rest),
        f=f,
        p=float(scipy.stats.f.sf(f, rows - 1, free)),
    )


def seeds_needed(difference: float, residual: float, layouts: int = 2, level: float = LEVEL) -> int | None:
    """Seeds by which two layouts are told apart with a probability of ``POWER``, by a two-sided test at a level.

    The smallest n for which a noncentral t with (layouts − 1)(n − 1) degrees of freedom and the noncentrality
    difference / (residual √(2/n)) lies beyond the critical t with probability ``POWER`` (Cohen, Statistical Power
    Analysis, chapter 2; the degrees of freedom are those of the residual when all layouts run with n seeds). For many
    seeds it is 2 (z_{1−level/2} + z_power)² (residual / difference)², 15.7 times the square at 5 % and 80 %.

    Returns None where the difference is none, or takes more than ``MOST_SEEDS``.
    """
    if difference <= 0:
        return None
    normal = scipy.stats.norm.isf(level / 2) + scipy.stats.norm.ppf(POWER)
    least = 2 * normal**2 * (residual / difference) ** 2
    if least > MOST_SEEDS:
        return None
    # The normal approximation is from below; the exact number lies a few seeds above it.
    for count in itertools.count(max(2, math.floor(least))):
        free = (layouts - 1) * (count - 1)
        if free > 500:
            return math.ceil(max(least, count))
        critical = scipy.stats.t.isf(level / 2, free)
        shift = difference / residual * math.sqrt(count / 2) if residual > 0 else math.inf
        if shift > 30 + critical or scipy.stats.nct.sf(critical, free, shift) >= POWER:
            return count
    raise AssertionError("count has no end")


def best_over_median(values: Array, f: float) -> float:
    """The best layout's mean minus the median layout's (the lower of two), shrunk by 1 − 1/F: the best of noisy means
    stands higher than it is.

    Args:
        values: (layouts, seeds).
        f: of ``components``; the shrinkage is that of the best linear predictor of random effects (empirical Bayes).
    """
    means = np.sort(values.mean(axis=1))
    return float((means[-1] - means[(len(means) - 1) // 2]) * max(0.0, 1 - 1 / f)) if f > 0 else 0.0


def rank_correlation(values: Array, end: Array) -> float:
    """Kendall's τ-b of one run with the truth of the other seeds, mean over seeds.

    The truth of a seed's run is the mean over all other seeds at the end: a run is not compared with itself, nor with
    what its seed's trainings share. NaN where all values are tied.

    Args:
        values: (layouts, seeds), at any epoch.
        end: (layouts, seeds), at the last one.
    """
    found = []
    for seed in range(values.shape[1]):
        truth = np.delete(end, seed, axis=1).mean(axis=1)
        found.append(scipy.stats.kendalltau(values[:, seed], truth).statistic)
    return float(np.mean(found))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row for the mean of the tasks, and one row per task.

    Columns: ``value`` (whose), ``layouts, seeds``, then of ``Components`` ``layout, spread, seed_effect, residual, F,
    p``, then ``tau`` (of one run with the other seeds' truth), ``seeds_needed`` (best from median layout; missing where
    layouts explain nothing), ``tau_by_epoch`` (a dictionary).

    Args:
        table: as ``grid`` takes it.
    """
    rows = []
    for task in values_of(table):
        found = grid(table, None if task == MEAN else task)
        parts = components(found.end)
        best = best_over_median(found.end, parts.f)
        rows.append(
            {
                "value": task,
                "layouts": len(found.names),
                "seeds": len(found.seeds),
                "layout": parts.layout,
                "spread": parts.spread,
                "seed_effect": parts.seed,
                "residual": parts.residual,
                "F": parts.f,
                "p": parts.p,
                "tau": rank_correlation(found.end, found.end),
                "seeds_needed": seeds_needed(best, parts.residual, len(found.names)),
                "tau_by_epoch": {
                    epoch: rank_correlation(found.values[:, :, place], found.end)
                    for place, epoch in enumerate(found.epochs)
                },
            }
        )
    return pd.DataFrame(rows).astype({"seeds_needed": "Int64"})


def values_of(table: pd.DataFrame) -> list[str]:
    """The mean of the tasks, where there are several, and each task."""
    tasks = list(dict.fromkeys(table["task"]))
    return [MEAN, *tasks] if len(tasks) > 1 else tasks
