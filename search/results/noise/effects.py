"""The effects of the kinds of blocks, from searched trials of one seed, some of them stopped at a rung."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.stats

from recon.errors import InputError
from recon.network.layout import Layout
from search.results.noise.grid import LEVEL, MEAN, Array
from search.results.noise.groups import blocks_named
from search.results.noise.words import amount, listed

REGIONS = 2
"""Parts of the network whose blocks' kinds the model of searched trials tells apart: the first half and the last.
Neighbouring blocks are mostly of one kind, so a few dozen trials cannot tell twelve positions from each other; and
parts that do not depend on the trials let two studies be compared."""
ENOUGH = 0.8
"""The share of the searched trials that must have reached the epoch at which they are judged."""


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
    """The effects of the kinds of blocks, by a linear model over searched trials that also uses the stopped ones.

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
        trials: one row per trial and epoch: ``trial, layout, epoch, value`` and, where they vary, ``weighting, init,
            scarce_slices`` and hyperparameters by dotted name. Values of one seed.
        milestones: epochs of the rungs; the last epoch of the table is the end.
        at: a rung or the end; without it, that of ``judged_at``.

    Returns:
        One effect per contrast, including contrasts that the trials cannot tell (NaN).

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
    """-> the trials' properties (one row per trial), and their values at rungs and end (NaN after a trial stopped)."""
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
    """One row per contrast: ``contrast, effect, error, p, corrected, trials, having``; corrected is p by Holm's
    method."""
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
    clauses = [listed([named(one) for one in sure])] if sure else []
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
