"""The leaderboard: a study's trials as one table, ranked, filtered, sorted, and written for people or machines.

A rank is given to finished trials that reconstruct every task of the study, by the objective that the space names; a
network of one task (STL, transfer) cannot be ranked against networks of all, and stands below with the metrics of its
task. Beside the rank stands that of each task alone, for a mean of opposite effects is no effect. Reading needs no
driver, no torch and no Ray, and works while a search writes. What a trial's record holds, and where it is stored, is
left to ``search.study.record``.
"""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recon.errors import InputError
from recon.evaluation.definitions import METRICS, Quantity
from search.study.gains import References, over_tasks
from search.study.open import OpenStudy
from search.study.record import INTERRUPTED, Record, State
from search.study.summary import Summary, summaries

ENOUGH = 5
"""The fewest networks from which z-scores are computed."""


@dataclass(frozen=True)
class Selection:
    """The choice of trials in the table, and their order.

    Attributes:
        everything: also running, stopped and failed trials; else finished ones.
        kind: keep those of this kind: mtl, joint, stl, stl-steps, joint-stl, joint-tuned, transfer.
        stage: keep those of this stage: search, baseline, confirm.
        weighting: keep those with this weighting.
        layout: keep layouts that this glob matches, such as ``I2*``.
        scarce_slices: keep trials at this N.
        sort: a column that orders the rows, largest first (``nrmse/…`` and ``rank/…`` smallest first); None or ``rank``
            orders by the study's objective. Ranks are by the objective whatever the order.
        top: keep that many rows.
    """

    everything: bool = False
    kind: str | None = None
    stage: str | None = None
    weighting: str | None = None
    layout: str | None = None
    scarce_slices: int | None = None
    sort: str | None = None
    top: int | None = None


def leaderboard(study: OpenStudy, choice: Selection | None = None) -> pd.DataFrame:
    """The table, with one row per trial.

    Columns: ``rank, rank/<task>…, trial, kind, stage, layout, weighting, init, scarce_slices, seed, state, epochs,
    ssim, ssim/<task>…, gain, gain_se, gain/<task>, gain_se/<task>…, z, z/<task>…, psnr/<task>…, nrmse/<task>…,
    weight/<task>…, gpu_seconds, seconds, parameters, peak_memory_bytes, node, checkpoint, error``. Metrics are of the
    validation split at the trial's last epoch, ``weight`` is the weight of the task's loss there. A gain is
    the SSIM minus the mean over seeds of the STL at that N (``search.study.gains``); ``gain_se`` is the standard error
    of that mean alone.

    ``rank`` goes by the study's objective among the rows that the choice keeps, ``rank/<task>`` by that task's share of
    it (``ssim/<task>`` or ``gain/<task>``); rows that are equal in a task share the better rank. ``z/<task>`` is the
    ranked networks' SSIM of the task in standard deviations from the mean, both over the study's complete multi-task
    trials (kind ``mtl``) of the same N; ``z`` is its mean over tasks, in which tasks of different scales count alike.

    Raises InputError for a column or value that the study does not have.
    """
    choice = choice or Selection()
    space, referenced = study.space, study.referenced()
    tasks, references = space.tasks, References(referenced)
    trials: list[Record | Summary] = [*summaries(study), *referenced]
    heirs = {(one.stage == "search", one.continues): one.name for one in trials if one.continues is not None}
    rows = [row_of(one, tasks, references, heirs.get((one.stage == "search", one.number))) for one in trials]
    frame = pd.DataFrame(rows, columns=columns(tasks)).astype(
        {"rank": "Int64", "scarce_slices": "Int64", "parameters": "Int64", "peak_memory_bytes": "Int64"}
    )
    complete = frame["state"] == State.COMPLETE
    _add_z(frame, tasks, complete)
    frame = _only(frame, choice, ("kind", "stage", "weighting", "scarce_slices"))
    if not choice.everything:
        frame = frame[complete.loc[frame.index]]
    return _ordered(frame, tasks, choice, space.objective.metric, complete.loc[frame.index])


def confirmed(study: OpenStudy, choice: Selection | None = None) -> pd.DataFrame:
    """Confirmed configurations and baselines, one row each: means over seeds, standard errors, number of seeds.

    Columns: ``rank, rank/<task>…, kind, layout, weighting, init, scarce_slices, seeds, ssim, ssim_se, ssim/<task>,
    ssim_se/<task>…, gain, gain_se, gain/<task>, gain_se/<task>…, z, z/<task>…, trials``. Gains are above the mean over
    seeds of the STL at that N, and their errors are those of the two means combined. Of baselines, all seeds count, and
    the hyperparameters that are best. Ranked are configurations that reconstruct every task, by the study's objective;
    rows with fewer seeds than the most of a multi-task configuration stand below, unranked. Ranks and z are as in
    ``leaderboard``, of the means over seeds.

    Raises InputError where nothing is confirmed yet, or for a column or value that no confirmed trial has.
    """
    choice = choice or Selection()
    if choice.stage not in (None, "confirm"):
        raise InputError(f"--stage {choice.stage} does not go with --confirmed, which shows confirmed trials alone")
    records = study.over_seeds()
    if not records:
        raise InputError(f"study {study.name!r} has no confirmed trial yet; run splitpoint confirm {study.name}")
    tasks = study.space.tasks
    references = References(records)
    rows = pd.DataFrame([row_of(record, tasks, references) for record in records])
    # The layout and weighting alone do not tell hyperparameters or the start apart.
    rows["configuration"] = [record.configuration for record in records]
    values = [
        column
        for one in (Quantity.SSIM, Quantity.GAIN)
        for column in ((one, one.value, one.error), *((one, one.of(task), one.error_of(task)) for task in tasks))
    ]
    lines = []
    for _, group in rows.groupby("configuration", sort=False):
        first = group.iloc[0]
        names = ("kind", "layout", "weighting", "init", "scarce_slices")
        line: dict[str, Any] = {name: first[name] for name in names} | {"seeds": len(group)}
        for quantity, column, error_column in values:
            line[column] = group[column].mean(skipna=False)
            error: Any = group[column].sem(skipna=False)
            if quantity is Quantity.GAIN:  # all seeds are compared with the same mean, which has an error too
                error = math.hypot(error, group[error_column].mean(skipna=False))
            line[error_column] = error
        lines.append(line | dict.fromkeys(_z(tasks), np.nan) | {"trials": " ".join(group["trial"])})
    frame = pd.DataFrame(lines, columns=[*_ranks(tasks), *lines[0]]).astype({"scarce_slices": "Int64"})
    finished = frame["seeds"] >= frame.loc[frame["kind"] == "mtl", "seeds"].max()
    _add_z(frame, tasks, finished)
    frame = _only(frame, choice, ("kind", "weighting", "scarce_slices"))
    return _ordered(frame, tasks, choice, study.space.objective.metric, finished.loc[frame.index])


def columns(tasks: tuple[str, ...]) -> list[str]:
    """The table's columns for a study of these tasks."""
    return [
        *_ranks(tasks),
        *("trial", "kind", "stage", "layout", "weighting", "init", "scarce_slices", "seed", "state", "epochs"),
        *(Quantity.SSIM.value, *map(Quantity.SSIM.of, tasks)),
        *(Quantity.GAIN.value, Quantity.GAIN.error),
        *(name(task) for task in tasks for name in (Quantity.GAIN.of, Quantity.GAIN.error_of)),
        *_z(tasks),
        *(name.of(task) for name in (Quantity.PSNR, Quantity.NRMSE, Quantity.WEIGHT) for task in tasks),
        *("gpu_seconds", "seconds", "parameters", "peak_memory_bytes", "node", "checkpoint", "error"),
    ]


def _ranks(tasks: tuple[str, ...]) -> list[str]:
    return [Quantity.RANK.value, *map(Quantity.RANK.of, tasks)]


def _z(tasks: tuple[str, ...]) -> list[str]:
    return [Quantity.Z.value, *map(Quantity.Z.of, tasks)]


def row_of(
    record: Record | Summary, tasks: tuple[str, ...], references: References, heir: str | None = None
) -> dict[str, Any]:
    """One trial as a row; values that it lacks are missing. ``heir``: name of the trial that continues it."""
    gains = references.gains(record)
    mean_gain = over_tasks(gains) if gains and set(gains) == set(record.tasks) else None
    metrics, names = record.metrics, _names(tasks)
    return {
        "trial": record.name,
        "kind": record.kind,
        "stage": record.stage,
        "layout": record.layout,
        "weighting": record.weighting,
        "init": record.init,
        "scarce_slices": record.scarce_slices,
        "seed": record.seed,
        "state": INTERRUPTED if record.closed == INTERRUPTED else str(record.state),
        "epochs": record.epochs,
        Quantity.SSIM.value: metrics.get(Quantity.SSIM, np.nan),
        Quantity.GAIN.value: mean_gain.mean if mean_gain else np.nan,
        Quantity.GAIN.error: mean_gain.error if mean_gain else np.nan,
        **{name: gains[task].mean if task in gains else np.nan for name, task in names.gains},
        **{name: gains[task].error if task in gains else np.nan for name, task in names.errors},
        **{name: metrics.get(name, np.nan) for name in names.metrics},
        "gpu_seconds": metrics.get("gpu_seconds", 0.0),
        "seconds": metrics.get("seconds", np.nan),
        "parameters": metrics.get("parameters"),
        "peak_memory_bytes": metrics.get("peak_memory_bytes"),
        "node": record.node,
        "checkpoint": record.checkpoint,
        "error": _why(record, heir),
    }


class _Names(NamedTuple):
    """Columns of each task; those of gains with their task."""

    gains: tuple[tuple[str, str], ...]
    errors: tuple[tuple[str, str], ...]
    metrics: tuple[str, ...]


@lru_cache
def _names(tasks: tuple[str, ...]) -> _Names:
    return _Names(
        tuple((Quantity.GAIN.of(task), task) for task in tasks),
        tuple((Quantity.GAIN.error_of(task), task) for task in tasks),
        tuple(name.of(task) for name in (*METRICS, Quantity.WEIGHT) for task in tasks),
    )


def _why(record: Record | Summary, heir: str | None) -> str | None:
    """Why a trial did not finish: its error, with what failed where that was not the configuration; that it was
    interrupted, and which trial continues it; or that it diverged."""
    error = f"{record.fault}: {record.error}" if record.fault else record.error
    if record.closed == INTERRUPTED:
        parts = (INTERRUPTED, f"continued as {heir}" if heir else None, error)
        return ", ".join(filter(None, parts))
    if error is not None:
        return error
    return record.closed or record.fault or ("diverged" if record.diverged else None)


def _only(frame: pd.DataFrame, choice: Selection, names: tuple[str, ...]) -> pd.DataFrame:
    for name in names:
        wanted = getattr(choice, name)
        if wanted is None:
            continue
        there = frame[name].dropna().unique().tolist()
        if wanted not in there:
            raise InputError(f"no trial has {name} {wanted!r}; the study has {', '.join(map(str, there)) or 'none'}")
        frame = frame[frame[name] == wanted]
    if choice.layout is not None:
        frame = frame[[fnmatch.fnmatchcase(layout, choice.layout) for layout in frame["layout"]]]
        if frame.empty:
            raise InputError(f"no trial has a layout that matches {choice.layout!r}")
    return frame


def _sorted_by(choice: Selection, objective: str, there: list[str]) -> str:
    by = objective if choice.sort in (None, "rank") else str(choice.sort)
    if by not in there:
        raise InputError(f"--sort {by!r} is no column; the columns are {', '.join(there)}")
    return by


def _whole(frame: pd.DataFrame, tasks: tuple[str, ...]) -> pd.Series:
    return frame[[Quantity.SSIM.of(task) for task in tasks]].notna().all(axis=1)


def _add_z(frame: pd.DataFrame, tasks: tuple[str, ...], finished: pd.Series) -> None:
    """Fill ``z`` and ``z/<task>`` of finished multi-task networks, where there are enough at that N for a spread."""
    searched = _whole(frame, tasks) & finished & (frame["kind"] == "mtl")
    counts = frame["scarce_slices"].fillna(0)
    for task in tasks:
        ssim = frame[Quantity.SSIM.of(task)]
        alike = ssim.where(searched).groupby(counts)
        spread = alike.transform("std").where(alike.transform("count") >= ENOUGH)
        frame[Quantity.Z.of(task)] = ((ssim - alike.transform("mean")) / spread.where(spread > 0)).where(searched)
    frame[Quantity.Z.value] = frame[[Quantity.Z.of(task) for task in tasks]].mean(axis=1, skipna=False)


def _ordered(
    frame: pd.DataFrame, tasks: tuple[str, ...], choice: Selection, objective: str, finished: pd.Series
) -> pd.DataFrame:
    """The rows in the chosen order, with their ranks: those that are ranked first, then others that are finished."""
    by = _sorted_by(choice, objective, list(frame.columns))
    ranked = _whole(frame, tasks) & finished & frame[objective].notna()
    merit = frame[objective].where(ranked)
    frame = frame.assign(rank=merit.rank(ascending=False, method="first").astype("Int64"))
    for task in tasks:
        merit = frame[f"{objective}/{task}"].where(ranked)
        frame[Quantity.RANK.of(task)] = merit.rank(ascending=False, method="min").astype("Int64")
    order = pd.DataFrame({"ranked": ~ranked, "finished": ~finished, "by": frame[by]})
    quantity = Quantity.of_column(by)
    rising = quantity is not None and quantity.falls
    order = order.sort_values(["ranked", "finished", "by"], ascending=[True, True, rising], kind="stable")
    frame = frame.loc[order.index]
    return frame.head(choice.top) if choice.top is not None else frame
