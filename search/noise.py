"""How much of what a trial says is its layout, and how much is chance: layouts × seeds, and searched trials.

Two kinds of evidence, and a verdict in plain sentences for each:

- **over seeds**: some configurations, each trained with every seed. value = configuration + seed + residual, balanced.
  Its residual is the noise that is left when trials of one seed are compared, as a search compares them.
- **over searched trials**: many layouts, one run each, some stopped at a rung. A linear model of the blocks' kinds
  takes the place of repetitions: its residual is noise and what the model cannot say of a layout.

A verdict names what is sure and no more: simultaneous intervals (Scheffé) over seeds, Holm's correction over searched
trials, each at ``LEVEL``. Errors are standard errors. Values are compared as they are; whose values they are (SSIM,
a gain, a loss with its sign turned) is the caller's choice: more is better. The functions are of tables alone, but for
``seeds_table`` and ``trials_table``, which read them out of a study.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.stats

from recon.errors import InputError
from recon.layout import Layout

if TYPE_CHECKING:
    from search.study import OpenStudy

Array = np.ndarray[Any, Any]

LEVEL = 0.05
"""Of every verdict: the probability that it names a difference where there is none."""
POWER = 0.8
MEAN = "mean of tasks"
"""The objective's name among the tasks."""
REGIONS = 2
"""Parts of the network whose blocks' kinds the model of searched trials tells apart: the first half and the last.
Neighbouring blocks are mostly of one kind, so a few dozen trials cannot tell twelve positions from each other; and
parts that do not depend on the trials let two studies be compared."""
ENOUGH = 0.8
"""Of the searched trials must have reached an epoch that they are judged at."""
MOST_SEEDS = 9999


# Layouts × seeds


@dataclass(frozen=True)
class Grid:
    """Trainings of configurations × seeds, balanced."""

    names: tuple[str, ...]
    """Of the configurations."""
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
        table: a row a value: ``layout, seed, epoch, task, value``, and ``configuration`` where a layout has several (of
            its weighting, say). Rows that agree in these (slices of one validation) are averaged.
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
    """The additive two-way model of one value for each layout and seed (one observation a cell)."""

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
    """A row for the mean of the tasks, and one for each task.

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


# Groups that can be told apart


@dataclass(frozen=True)
class Difference:
    """One group of configurations over another."""

    upper: tuple[int, ...]
    """Places in the grid."""
    lower: tuple[int, ...]
    estimate: float
    """Mean of the upper minus mean of the lower."""
    error: float
    """Its standard error, from the residual."""
    sure: bool
    """By Scheffé's simultaneous test of all contrasts, so also of those that were chosen by looking."""


def difference(values: Array, upper: Sequence[int], lower: Sequence[int], level: float = LEVEL) -> Difference:
    """The contrast between two groups of layouts, with its error.

    Var = MS_residual / seeds · (1/|upper| + 1/|lower|); sure where estimate² / Var exceeds
    (layouts − 1) F_{1−level}(layouts − 1, (layouts − 1)(seeds − 1)) (Scheffé 1953, Biometrika 40:87).

    Args:
        values: (layouts, seeds).
        upper: rows of one group.
        lower: rows of the other.
        level: the probability that any contrast at all is called sure where layouts do nothing.
    """
    error, limit = _scheffe(values, level)
    means = values.mean(axis=1)
    estimate = float(means[list(upper)].mean() - means[list(lower)].mean())
    error *= math.sqrt(1 / len(upper) + 1 / len(lower))
    return Difference(tuple(upper), tuple(lower), estimate, error, abs(estimate) > limit * error)


def _scheffe(values: Array, level: float) -> tuple[float, float]:
    """-> standard error of a layout's mean, and how many standard errors a contrast must be large."""
    rows, columns = values.shape
    limit = math.sqrt((rows - 1) * scipy.stats.f.isf(level, rows - 1, (rows - 1) * (columns - 1)))
    return components(values).residual / math.sqrt(columns), limit


def groups(values: Array, level: float = LEVEL) -> list[tuple[int, ...]]:
    """Layouts parted into groups that can be told apart, best first; the members of a group cannot.

    Sorted by their means, layouts are parted where the two sides differ most (in units of the difference's error), if
    that difference is sure, and each side again (Scott & Knott 1974, Biometrics 30:507, with Scheffé's test, whose
    level holds for all partings together).

    Args:
        values: (layouts, seeds).
        level: of the test.

    Returns:
        Rows of each group, best first.
    """

    error, limit = _scheffe(values, level)
    means = values.mean(axis=1)

    def parted(members: list[int]) -> list[tuple[int, ...]]:
        def size(cut: int) -> float:
            gap = means[members[:cut]].mean() - means[members[cut:]].mean()
            return float(gap / math.sqrt(1 / cut + 1 / (len(members) - cut)))

        widest = max(range(1, len(members)), key=size, default=None)
        if widest is None or not size(widest) > limit * error:
            return [tuple(members)]
        return parted(members[:widest]) + parted(members[widest:])

    return parted([int(row) for row in np.argsort(-values.mean(axis=1), kind="stable")])


def group_table(table: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """A row a configuration, best first: ``configuration, mean, error, group`` and, of several tasks, the mean of each.

    ``group`` is a letter; layouts of different letters can be told apart. ``error`` is that of a mean against another
    seed-matched one, √(MS_residual / seeds).
    """
    found = grid(table)
    values = found.end
    error = components(values).residual / math.sqrt(len(found.seeds))
    tasks = values_of(table)[1:]
    alone = {task: grid(table, task) for task in tasks}
    of_task = {task: dict(zip(one.names, one.end.mean(axis=1), strict=True)) for task, one in alone.items()}
    rows: list[dict[str, Any]] = []
    for number, members in enumerate(groups(values, level)):
        for row in members:
            name = found.names[row]
            means = {task: of_task[task].get(name, math.nan) for task in tasks}
            line = {"configuration": name, "mean": values[row].mean(), "error": error, "group": letters(number)}
            rows.append(line | means)
    return pd.DataFrame(rows)


def letters(number: int) -> str:
    """a, b … z, aa, ab …"""
    text = ""
    while number >= 0:
        text = chr(ord("a") + number % 26) + text
        number = number // 26 - 1
    return text


def verdict(table: pd.DataFrame, level: float = LEVEL) -> str:
    """What layouts × seeds show, in one or two sentences; differences with their standard errors.

    Args:
        table: as ``grid`` takes it.
        level: the probability that the first sentence names a difference where there is none; the second one, on tasks
            alone, has as much again.
    """
    found = grid(table)
    sentences = [_verdict_of(found, level)]
    tasks = [task for task in values_of(table) if task != MEAN]
    if len(tasks) > 1 and len(groups(found.end, level)) == 1:
        alone = []
        for task in tasks:
            one = grid(table, task)
            parted = groups(one.end, level / len(tasks))
            if len(parted) > 1:
                alone.append(f"in {task} {_over(one, parted[0], _joined(parted[1:]), level)}")
        if alone:
            sentences.append(_capital("; ".join(alone)) + ".")
    if found.dropped:
        sentences.append(f"Left out, for some of their trainings are missing: {', '.join(found.dropped)}.")
    return " ".join(sentences)


def _verdict_of(found: Grid, level: float) -> str:
    values = found.end
    parts = components(values)
    parted = groups(values, level)
    seeds = f"Over {len(found.seeds)} seeds"
    if len(parted) == 1:
        order = parted[0]
        first, median = order[0], order[len(order) // 2]
        gap = difference(values, [first], [median])
        needed = seeds_needed(best_over_median(values, parts.f), parts.residual, len(order))
        rest = f", which would take about {needed} seeds to be sure of" if needed else ""
        return (
            f"{seeds}, the {len(order)} layouts cannot be told apart (F = {parts.f:.1f}, p = {short(parts.p, 2)}): "
            f"{found.names[first]} lies {amount(gap.estimate, gap.error)} above {found.names[median]}{rest}."
        )
    clauses = [_over(found, upper, lower, level) for upper, lower in itertools.pairwise(parted)]
    best = parted[0]
    if len(best) == 1:
        within = f"{found.names[best[0]]} is the best alone"
    else:
        gap = difference(values, best[:1], best[1:2])
        within = (
            f"which of {_listed([found.names[row] for row in best])} is best cannot be told "
            f"({found.names[best[0]]} over {found.names[best[1]]}: {amount(gap.estimate, gap.error)})"
        )
    return f"{seeds}, {', and '.join(clauses)}; {within}."


def _over(found: Grid, upper: tuple[int, ...], lower: tuple[int, ...], level: float) -> str:
    """«layouts whose blocks 7–12 are private (V12, I6V6) score +.0043 ± .0005 above I12 and V6I6»."""
    gap = difference(found.end, upper, lower, level)
    high, low = ([found.names[row] for row in rows] for rows in (upper, lower))
    common = shared_trait([found.layouts[row] for row in upper], [found.layouts[row] for row in lower])
    who = f"layouts with {common} ({', '.join(high)})" if common else _listed(high)
    verb = "scores" if len(high) == 1 and not common else "score"
    return f"{who} {verb} {amount(gap.estimate, gap.error)} above {_listed(low)}"


def shared_trait(upper: Sequence[str], lower: Sequence[str]) -> str | None:
    """What the blocks of all upper layouts have and those of no lower one: «private blocks 7–12».

    A block is private where each task has a decoder of its own (Y or V); where that tells nothing, encoders are looked
    at (V). None where no block's kind tells the groups apart.
    """
    highs, lows = ([Layout.parse(text).kinds for text in texts] for texts in (upper, lower))
    if len({len(kinds) for kinds in [*highs, *lows]}) != 1:
        return None
    for own, words in (("YV", ("private", "shared")), ("V", ("split (V)", "unsplit (I or Y)"))):
        found = {}
        for word, wanted in zip(words, (True, False), strict=True):
            found[word] = [
                position
                for position in range(len(highs[0]))
                if all((kinds[position] in own) == wanted for kinds in highs)
                and all((kinds[position] in own) != wanted for kinds in lows)
            ]
        named = [f"{word} {blocks_named(positions)}" for word, positions in found.items() if positions]
        if named:
            return " and ".join(named)
    return None


def blocks_named(positions: Sequence[int]) -> str:
    """Positions from 0 as «block 3» or «blocks 1–2 and 7–12», counted from 1."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    named = [f"{run[0] + 1}" if len(run) == 1 else f"{run[0] + 1}–{run[-1] + 1}" for run in runs]
    return f"block{'s' if len(positions) > 1 else ''} {_listed(named)}"


# Searched trials: one run each, some stopped at a rung


@dataclass(frozen=True)
class Effect:
    """One contrast of the model of searched trials."""

    name: str
    """Such as «private blocks 9–12 over shared ones»."""
    estimate: float
    """Expected change of the value at the end; NaN where the trials cannot tell."""
    error: float
    """Standard error."""
    free: float
    """Degrees of freedom of the error."""
    p: float
    """Two-sided, of this contrast alone."""
    corrected: float
    """By Holm's method, for all contrasts of the table."""
    trials: int
    having: int
    """Trials that have what the contrast names (in most of those blocks)."""

    @property
    def sure(self) -> bool:
        """At ``LEVEL``, with all contrasts accounted for."""
        return self.corrected <= LEVEL


def effects(trials: pd.DataFrame, milestones: Sequence[int] = (), at: int | None = None) -> list[Effect]:
    """What kinds of blocks do, by a linear model over searched trials that uses the stopped ones too.

    Columns of the model: for each half of the network the part of its blocks that are private (Y or V); half of V's
    minus half of Y's part of all blocks; one for each weighting but the first; and, held but not reported, a level for
    each N and start, and searched hyperparameters (logarithms where all are positive).

    A trial that is stopped at a rung has no value later, and those that go on are the better ones, so a regression over
    complete trials alone would find effects too small. But whether a trial goes on depends on nothing but its values up
    to that rung. So the value at each rung is regressed on the columns and the values at all rungs before, over the
    trials that reached it, and effects are added up along the chain: maximum likelihood for monotone missing values
    (Anderson 1957, J. Am. Stat. Assoc. 52:200; Little & Rubin, Statistical Analysis with Missing Data, section 7.4).
    Where nothing was stopped, it is the ordinary regression of the last value on the columns. Errors come from the
    stages' residuals by the delta method, their degrees of freedom by Satterthwaite's formula.

    Left as it is: a sampler that learns tries more of what went well, which makes errors uneven but favours no kind.

    Args:
        trials: a row a trial and epoch: ``trial, layout, epoch, value`` and, where they vary, ``weighting, init,
            scarce_slices`` and hyperparameters by dotted name. Values of one seed.
        milestones: epochs of the rungs; the last epoch of the table is the end.
        at: a rung or the end; without it, that of ``judged_at``.

    Returns:
        One for each contrast, those that the trials cannot tell (NaN) included.

    Raises InputError where too few trials reached that epoch for the model.
    """
    described, values = _stages(trials, milestones)
    until = judged_at(trials, milestones) if at is None else at
    design, names, having = _design(described)
    return _fit(design, names, having, values.loc[:, :until])


def judged_at(trials: pd.DataFrame, milestones: Sequence[int] = ()) -> int:
    """The epoch that searched trials are judged at: the last rung, or the end, that most (``ENOUGH``) have reached.

    What comes later can be estimated, but where half of the trials were stopped its errors are twice as large.
    """
    _, values = _stages(trials, milestones)
    return max((int(epoch) for epoch in values.columns if values[epoch].notna().mean() >= ENOUGH), default=0)


def block_effects(trials: pd.DataFrame, milestones: Sequence[int] = ()) -> list[Effect]:
    """The same, block by block: each position's kind (private or shared) in a model of its own, which does not hold
    the others.

    Neighbouring blocks are mostly of one kind, so a block's difference is partly its neighbours'. Blocks that are of
    one kind in all trials stand together. Corrected for the number of blocks.
    """
    described, values = _stages(trials, milestones)
    until = values.loc[:, : judged_at(trials, milestones)]
    kinds = np.array([list(Layout.parse(text).kinds) for text in described["layout"]])
    private = kinds != "I"
    patterns: dict[bytes, list[int]] = {}
    for position in range(private.shape[1]):
        patterns.setdefault(private[:, position].tobytes(), []).append(position)
    beside, _, _ = _nuisance(described)
    found = []
    for positions in patterns.values():
        column = private[:, positions[0]].astype(float)
        name = f"private {blocks_named(positions)} over shared ones"
        design = np.column_stack([np.ones(len(column)), column, beside])
        found += _fit(design, [name], {name: int(column.sum())}, until)
    return _holm(found)


def _stages(trials: pd.DataFrame, milestones: Sequence[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """-> what each trial is (a row a trial), and its values at rungs and end (NaN beyond where it stopped)."""
    if trials.empty:
        raise InputError("there are no searched trials")
    last = int(trials["epoch"].max())
    epochs = [*(epoch for epoch in sorted(milestones) if epoch < last), last]
    values = trials.pivot(index="trial", columns="epoch", values="value").reindex(columns=epochs).astype(float)
    described = trials.drop(columns=["epoch", "value"]).drop_duplicates("trial").set_index("trial").loc[values.index]
    # Values are monotone: one that is missing or not finite ends the trial there.
    values = values.where(values.map(np.isfinite).cummin(axis=1))
    # The rungs before the first that all trials have are of use too; a trial that reached none says nothing.
    reached = values.iloc[:, 0].notna()
    return described[reached], values[reached]


def _design(described: pd.DataFrame) -> tuple[Array, list[str], dict[str, int]]:
    """-> columns (trials, 1 + contrasts + held), the contrasts' names in order, and how many trials have each."""
    layouts = [Layout.parse(text) for text in described["layout"]]
    if len({len(layout) for layout in layouts}) > 1:
        raise InputError("layouts of different lengths cannot be compared block by block")
    kinds = np.array([list(layout.kinds) for layout in layouts]).reshape(len(layouts), -1)
    columns: list[Array] = []
    names: list[str] = []
    having: dict[str, int] = {}

    def add(name: str, column: Array, most: Array) -> None:
        columns.append(column)
        names.append(name)
        having[name] = int(most.sum())

    for positions in np.array_split(np.arange(kinds.shape[1]), min(REGIONS, kinds.shape[1])):
        part = (kinds[:, positions] != "I").mean(axis=1)
        add(f"private {blocks_named(positions.tolist())} over shared ones", part, part > 0.5)
    of_v, of_y = (kinds == "V").mean(axis=1), (kinds == "Y").mean(axis=1)
    if of_v.any() and of_y.any():
        add("split blocks (V) over multi-head ones (Y)", (of_v - of_y) / 2, of_v > of_y)
    held, weightings, of_weighting = _nuisance(described)
    for place, name in enumerate(weightings):
        add(name, of_weighting[:, place], of_weighting[:, place] > 0)
    rest = held[:, len(weightings) :]
    return np.column_stack([np.ones(len(layouts)), *columns, rest]), names, having


def _nuisance(described: pd.DataFrame) -> tuple[Array, list[str], Array]:
    """-> the columns of everything but the layout (weightings first), the weightings' contrasts, and their columns."""
    rows = len(described)
    weightings: list[Array] = []
    names: list[str] = []
    rest: list[Array] = []
    for name in described.columns.drop("layout"):
        column = described[name]
        if column.nunique(dropna=False) < 2:
            continue
        numbers = pd.to_numeric(column, errors="coerce")
        if name in ("weighting", "init", "scarce_slices") or (column.notna() & numbers.isna()).any():
            first, *others = sorted(column.dropna().unique(), key=lambda value: (value != "naive", str(value)))
            levels = [(column == value).to_numpy(float) for value in others]
            if name == "weighting":
                weightings += levels
                names += [f"weighting {value} over {first}" for value in others]
            else:
                rest += levels
        else:
            # One that only some trials have (of their weighting) counts from its mean.
            scaled = np.log(numbers) if (numbers.dropna() > 0).all() else numbers
            centred = (scaled - scaled.mean()).fillna(0.0).to_numpy(float)
            rest.append(centred / (np.abs(centred).max() or 1.0))
    of_weighting = np.column_stack(weightings) if weightings else np.empty((rows, 0))
    return np.column_stack([of_weighting, *rest]) if weightings or rest else np.empty((rows, 0)), names, of_weighting


def _fit(design: Array, names: list[str], having: Mapping[str, int], values: pd.DataFrame) -> list[Effect]:
    """The chain of regressions; coefficients 1, 2 … of the design are the contrasts."""
    observed = values.to_numpy(float)
    stages = observed.shape[1]
    width = design.shape[1]
    totals: list[Array] = []  # effect of the columns on the value of each stage, (columns,)
    spreads: list[Array] = []  # what a stage's own coefficients leave uncertain of its total, (columns, columns)
    carried: list[Array] = []  # coefficients of the earlier stages' values
    frees: list[int] = []
    unknown = np.zeros(width, dtype=bool)
    for stage in range(stages):
        there = np.isfinite(observed[:, stage])
        regressors = np.column_stack([design[there], observed[there, :stage]])
        free = int(there.sum()) - int(np.linalg.matrix_rank(regressors)) if there.any() else 0
        if free < 1:
            raise InputError(
                f"{int(there.sum())} searched trials that reached epoch {values.columns[stage]} are too few for the "
                f"{regressors.shape[1]} coefficients of the model of what blocks do"
            )
        inverse = np.linalg.pinv(regressors.T @ regressors, rcond=1e-10, hermitian=True)
        # A coefficient can be told where its unit vector lies in the rows' space.
        projection = inverse @ (regressors.T @ regressors)
        unknown |= np.abs(projection - np.eye(len(projection))).max(axis=1)[:width] > 1e-6
        found = inverse @ (regressors.T @ observed[there, stage])
        rest = observed[there, stage] - regressors @ found
        covariance = inverse * (rest @ rest) / free
        through = np.column_stack([np.eye(width), *totals])
        totals.append(through @ found)
        spreads.append(through @ covariance @ through.T)
        carried.append(found[width:])
        frees.append(free)
    # How much of a stage's value reaches the last one, along all ways.
    weights = np.zeros(stages)
    weights[-1] = 1.0
    for stage in reversed(range(stages)):
        weights[:stage] += weights[stage] * carried[stage]
    result = []
    for place, name in enumerate(names, start=1):
        shares = [weight**2 * spread[place, place] for weight, spread in zip(weights, spreads, strict=True)]
        variance = sum(shares)
        if unknown[place]:
            estimate = error = free_of = p = math.nan
        else:
            estimate, error = float(totals[-1][place]), math.sqrt(variance)
            parts = sum(share**2 / free for share, free in zip(shares, frees, strict=True))
            free_of = variance**2 / parts if parts > 0 else float(frees[-1])
            p = 2 * float(scipy.stats.t.sf(abs(estimate) / error, free_of)) if error > 0 else float(estimate == 0)
        result.append(Effect(name, estimate, error, free_of, p, p, len(values), having[name]))
    return _holm(result)


def _holm(found: Sequence[Effect]) -> list[Effect]:
    """Corrected for all of them that the trials can tell (Holm 1979, Scand. J. Stat. 6:65)."""
    told = sorted((one for one in found if not math.isnan(one.p)), key=lambda one: one.p)
    corrected: dict[str, float] = {}
    highest = 0.0
    for place, one in enumerate(told):
        highest = max(highest, min(1.0, one.p * (len(told) - place)))
        corrected[one.name] = highest
    return [Effect(**{**one.__dict__, "corrected": corrected.get(one.name, math.nan)}) for one in found]


def effects_table(found: Iterable[Effect]) -> pd.DataFrame:
    """A row a contrast: ``contrast, effect, error, p, corrected, trials, having``; corrected is p by Holm's method."""
    return pd.DataFrame(
        [
            {
                "contrast": one.name,
                "effect": one.estimate,
                "error": one.error,
                "p": one.p,
                "corrected": one.corrected,
                "trials": one.trials,
                "having": one.having,
            }
            for one in found
        ]
    )


def trials_verdict(trials: pd.DataFrame, milestones: Sequence[int] = ()) -> str:
    """What searched trials show, in one or two sentences.

    What is sure where trials are judged, and not of the other sign at the end.

    Args:
        trials: as ``effects`` takes them, with ``task``: values of the objective under ``MEAN``, and of each task.
        milestones: epochs of the rungs.
    """
    by_task = {str(task): rows.drop(columns="task") for task, rows in trials.groupby("task", sort=False)}
    objective = by_task.pop(MEAN)
    found = [one for one in effects(objective, milestones) if not math.isnan(one.estimate)]
    last, judged = int(objective["epoch"].max()), judged_at(objective, milestones)
    where = f"Over {objective['trial'].nunique()} searched trials of one seed"
    where += "" if judged == last else f", after epoch {judged} of {last}"
    if not found:
        return f"{where}, all of the same kinds of blocks, nothing is told."
    end = {one.name: one for one in at_the_end(objective, milestones)} if judged < last else {}

    def named(one: Effect) -> str:
        later = end.get(one.name)
        more = f" ({amount(later.estimate, later.error)} at the end)" if later else ""
        return f"{one.name} {'pay' if one.estimate > 0 else 'cost'} {amount(one.estimate, one.error)}{more}"

    sure = [one for one in found if one.sure and (one.name not in end or end[one.name].estimate * one.estimate > 0)]
    sure.sort(key=lambda one: one.corrected)
    unsure = [one for one in found if one not in sure]
    clauses = [_listed([named(one) for one in sure])] if sure else []
    if unsure:
        # How large it may yet be: as far as a 95 % interval reaches.
        reach = [abs(one.estimate) + scipy.stats.t.isf(LEVEL / 2, one.free) * one.error for one in unsure]
        bounds = [f"{one.name} {amount(most)[1:]}" for one, most in zip(unsure, reach, strict=True)]
        what = "nothing more" if sure else "nothing"
        clauses.append(f"{what} is sure (at most, either way: {', '.join(bounds)})")
    sentences = [f"{where}, {'; '.join(clauses)}."]
    # The mean of opposite effects is no effect: what is sure in a task alone is said where the mean hides it.
    hidden = {one.name for one in unsure}
    alone = [
        f"in {task} {one.name} {amount(one.estimate, one.error)}"
        for task, rows in by_task.items()
        for one in effects(rows, milestones)
        if one.name in hidden and one.corrected <= LEVEL / len(by_task)
    ]
    if alone:
        sentences.append(f"Each task alone: {'; '.join(alone)}.")
    return " ".join(sentences)


def at_the_end(trials: pd.DataFrame, milestones: Sequence[int] = ()) -> list[Effect]:
    """The effects at the last epoch that the trials can tell there; none where too few reached it."""
    try:
        found = effects(trials, milestones, int(trials["epoch"].max()))
    except InputError:
        return []
    return [one for one in found if not math.isnan(one.estimate)]


# Out of a study


def seeds_table(study: OpenStudy) -> pd.DataFrame:
    """The complete multi-task trainings over seeds (grid and confirmations) of a study, a row a task and epoch.

    Columns: those that ``grid`` takes, ``configuration``, and ``scarce_slices`` (N; -1 where there is none): values of
    different N are not compared. Values are SSIM; at one N and seed a gain differs from it by a constant.
    """
    rows = []
    for record in study.over_seeds():
        point = record.point
        if point is None or set(record.tasks) != set(study.space.tasks):
            continue
        name = "/".join(part for part in point.key.split("/") if not part.startswith("n="))
        for epoch, metrics in record.history.items():
            for task in record.tasks:
                rows.append(
                    {
                        "configuration": name,
                        "layout": record.layout,
                        "scarce_slices": -1 if record.scarce_slices is None else record.scarce_slices,
                        "seed": record.seed,
                        "epoch": epoch,
                        "task": task,
                        "value": metrics[f"ssim/{task}"],
                    }
                )
    names = ["configuration", "layout", "scarce_slices", "seed", "epoch", "task", "value"]
    table = pd.DataFrame(rows, columns=names)
    if not table.empty and table.drop_duplicates("configuration")["layout"].is_unique:
        table["configuration"] = table["layout"]  # where layouts differ in nothing else, they are name enough
    return table


def trials_table(study: OpenStudy) -> pd.DataFrame:
    """The searched trials of a study that ended or were stopped early, a row a task (``MEAN`` too) and epoch, as
    ``trials_verdict`` takes them; values are of the space's objective."""
    from search.study import State

    metric = study.space.objective.metric
    rows = []
    for record in study.searched():
        if record.state not in (State.COMPLETE, State.PRUNED) or record.point is None:
            continue
        point = record.point
        fields = {
            "trial": record.number,
            "layout": record.layout,
            "weighting": point.weighting,
            "init": point.init,
            "scarce_slices": point.scarce_slices,
            **dict(point.hyperparameters),
        }
        for epoch, metrics in record.history.items():
            values = {MEAN: metrics[metric]} | {task: metrics[f"{metric}/{task}"] for task in record.tasks}
            rows += [fields | {"epoch": epoch, "task": task, "value": value} for task, value in values.items()]
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class StudyNoise:
    """All that a study says of noise."""

    over_seeds: dict[int | None, pd.DataFrame]
    """For each N, the table that ``grid`` takes, where it is balanced for two layouts and two seeds at least."""
    trials: pd.DataFrame | None
    """As ``trials_verdict`` takes them; None where they are too few."""
    milestones: tuple[int, ...]
    missing: tuple[str, ...]
    """Why one or the other is not there."""

    @property
    def by_task(self) -> dict[str, pd.DataFrame]:
        """The searched trials' values, as ``effects`` takes them: of the objective under ``MEAN``, and of each task."""
        if self.trials is None:
            return {}
        return {str(task): rows.drop(columns="task") for task, rows in self.trials.groupby("task", sort=False)}

    @property
    def verdict(self) -> str:
        """What the searched trials show, then what was trained over seeds."""
        found = [] if self.trials is None else [trials_verdict(self.trials, self.milestones)]
        for count, table in self.over_seeds.items():
            sentence = verdict(table)
            found.append(sentence if len(self.over_seeds) == 1 else f"N = {count}: {sentence}")
        return " ".join(found)


def study_noise(study: OpenStudy) -> StudyNoise:
    """Read a study's trainings over seeds and its searched trials.

    Raises InputError where neither says anything.
    """
    missing = []
    over_seeds: dict[int | None, pd.DataFrame] = {}
    table = seeds_table(study)
    if table.empty:
        missing.append("nothing was trained over seeds yet (splitpoint confirm does)")
    for count, rows in table.groupby("scarce_slices", sort=True):
        number = int(str(count))
        try:
            grid(rows)
        except InputError as error:
            missing.append(str(error))
        else:
            over_seeds[None if number == -1 else number] = rows
    trials: pd.DataFrame | None = trials_table(study)
    milestones = study.space.fidelity.milestones
    assert trials is not None
    try:
        effects(trials if trials.empty else trials[trials["task"] == MEAN].drop(columns="task"), milestones)
    except InputError as error:
        missing.append(str(error))
        trials = None
    if not over_seeds and trials is None:
        raise InputError(f"study {study.name!r} says nothing of noise: {'; '.join(missing)}")
    return StudyNoise(over_seeds, trials, milestones, tuple(missing))


# In words


def short(number: float, digits: int = 4) -> str:
    """A number below one as a paper has it: .0043."""
    text = f"{number:.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def amount(estimate: float, error: float | None = None) -> str:
    """«+.0043 ± .0005»; as many digits as the error has need of, four at least."""
    digits = 4 if not error else min(8, max(4, math.ceil(-math.log10(error))))
    text = short(abs(estimate), digits)
    text = ("−" if estimate < 0 else "+") + text
    return text if error is None else f"{text} ± {short(error, digits)}"


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """``summary`` as people read it: rounded, τ by epoch in one cell."""
    out = table.copy()
    for name in ("layout", "spread", "seed_effect", "residual"):
        out[name] = [short(value) for value in table[name]]
    out["F"] = [f"{value:.1f}" for value in table["F"]]
    out["p"] = ["<.001" if value < 0.001 else short(value, 3) for value in table["p"]]
    out["tau"] = [short(value, 2) for value in table["tau"]]
    out["tau_by_epoch"] = [
        " ".join(f"{epoch}:{short(value, 2)}" for epoch, value in one.items()) for one in table["tau_by_epoch"]
    ]
    return out


def plain(value: Any) -> Any:
    """As JSON has it: what is missing or not finite is None, keys are text."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, pd.DataFrame):
        return [plain(row) for row in value.to_dict("records")]
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value


def dumped(value: Any) -> str:
    """One line of JSON."""
    return json.dumps(plain(value), allow_nan=False)


def _joined(parts: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(itertools.chain.from_iterable(parts))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def tables(noise: StudyNoise) -> Iterator[tuple[str, pd.DataFrame]]:
    """The tables of a study with a title each, as people read them."""
    for count, table in noise.over_seeds.items():
        at = "" if len(noise.over_seeds) == 1 else f", N = {count}"
        yield f"over seeds{at}", shown(summary(table))
        yield f"over seeds{at}: layouts of different letters can be told apart", rounded(group_table(table))
    for task, rows in noise.by_task.items():
        yield f"searched trials, {task}", rounded(effects_table(effects(rows, noise.milestones)))
        if task == MEAN:
            blocks = effects_table(block_effects(rows, noise.milestones))
            yield f"searched trials, {task}, block by block (the others not held)", rounded(blocks)


def facts(noise: StudyNoise) -> dict[str, Any]:
    """The same with all digits: ``over_seeds`` (for each N ``summary`` and ``groups``), ``searched`` (for the mean and
    each task ``effects``, ``at_the_end`` and ``blocks``), ``judged_after`` (an epoch), ``missing``, ``verdict``."""
    by_task = noise.by_task
    return {
        "over_seeds": {
            "all" if count is None else count: {"summary": summary(table), "groups": group_table(table)}
            for count, table in noise.over_seeds.items()
        },
        "searched": {
            task: {
                "effects": effects_table(effects(rows, noise.milestones)),
                "at_the_end": effects_table(at_the_end(rows, noise.milestones)),
                "blocks": effects_table(block_effects(rows, noise.milestones)),
            }
            for task, rows in by_task.items()
        },
        "judged_after": judged_at(by_task[MEAN], noise.milestones) if by_task else None,
        "missing": noise.missing,
        "verdict": noise.verdict,
    }


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Floats to four digits, as people read them."""
    floats = table.select_dtypes("float").columns
    return table.assign(**{name: [short(value) for value in table[name]] for name in floats})
