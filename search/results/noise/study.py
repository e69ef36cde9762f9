"""How much of a trial's score is due to its layout, and how much to chance: layouts × seeds, and searched trials.

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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from recon.errors import InputError
from recon.evaluation.definitions import Quantity

if TYPE_CHECKING:
    from search.study.open import OpenStudy
from search.results.noise.effects import at_the_end, block_effects, effects, effects_table, judged_at, trials_verdict
from search.results.noise.grid import MEAN, grid, summary
from search.results.noise.groups import group_table, verdict
from search.results.noise.words import rounded, shown


def seeds_table(study: OpenStudy) -> pd.DataFrame:
    """The complete multi-task trainings over seeds (grid and confirmations) of a study, one row per task and epoch.

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
                        "value": metrics[Quantity.SSIM.of(task)],
                    }
                )
    names = ["configuration", "layout", "scarce_slices", "seed", "epoch", "task", "value"]
    table = pd.DataFrame(rows, columns=names)
    if not table.empty and table.drop_duplicates("configuration")["layout"].is_unique:
        table["configuration"] = table["layout"]  # where layouts differ in nothing else, they are name enough
    return table


def trials_table(study: OpenStudy) -> pd.DataFrame:
    """The searched trials of a study that ended or were stopped early, as ``trials_verdict`` takes them: one row per
    task (and ``MEAN``) and epoch. Values are of the space's objective."""
    from search.study.record import State

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
    """Why one or the other is missing."""

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
