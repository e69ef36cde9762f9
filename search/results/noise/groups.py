"""Groups of layouts that can be told apart, and a verdict that names only what is sure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from recon.network.layout import Layout
from search.results.noise.grid import (
    LEVEL,
    MEAN,
    Array,
    Grid,
    best_over_median,
    components,
    grid,
    seeds_needed,
    values_of,
)
from search.results.noise.words import amount, capital, joined, listed, short


@dataclass(frozen=True)
class Difference:
    """One group of configurations over another."""

    upper: tuple[int, ...]
    """Indices of the group's configurations in the grid."""
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
    """One row per configuration, best first: ``configuration, mean, error, group`` and, with several tasks, each task's
    mean.

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
                alone.append(f"in {task} {_over(one, parted[0], joined(parted[1:]), level)}")
        if alone:
            sentences.append(capital("; ".join(alone)) + ".")
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
            f"which of {listed([found.names[row] for row in best])} is best cannot be told "
            f"({found.names[best[0]]} over {found.names[best[1]]}: {amount(gap.estimate, gap.error)})"
        )
    return f"{seeds}, {', and '.join(clauses)}; {within}."


def _over(found: Grid, upper: tuple[int, ...], lower: tuple[int, ...], level: float) -> str:
    """«layouts whose blocks 7–12 are private (V12, I6V6) score +.0043 ± .0005 above I12 and V6I6»."""
    gap = difference(found.end, upper, lower, level)
    high, low = ([found.names[row] for row in rows] for rows in (upper, lower))
    common = shared_trait([found.layouts[row] for row in upper], [found.layouts[row] for row in lower])
    who = f"layouts with {common} ({', '.join(high)})" if common else listed(high)
    verb = "scores" if len(high) == 1 and not common else "score"
    return f"{who} {verb} {amount(gap.estimate, gap.error)} above {listed(low)}"


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
    return f"block{'s' if len(positions) > 1 else ''} {listed(named)}"
