"""The leaderboard: a study's trials as one table, ranked, filtered, sorted, and written for people or machines.

A rank is given to finished trials that reconstruct every task of the study, by the objective that the space names; a
network of one task (STL, transfer) cannot be ranked against networks of all, and stands below with the metrics of its
task. Beside the rank stands that of each task alone, for a mean of opposite effects is no effect. Reading needs no
driver, no torch and no Ray, and works while a search writes. What a trial's record holds, and where it is stored, is
left to ``search.study``.
"""

from __future__ import annotations

import fnmatch
import json
import math
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from recon.definitions import DEFINITIONS
from recon.errors import InputError
from recon.files import replace_file
from search.references import References
from search.study import OpenStudy, Record, State

ENOUGH = 5
"""So many networks have a spread that z-scores can be of."""
DEFINITION = "paper"
"""The metric definition (``recon.definitions.DEFINITIONS``) that trainings report and every table here shows."""


class Format(StrEnum):
    """How a leaderboard is written."""

    table = "table"
    csv = "csv"
    json = "json"
    markdown = "markdown"
    parquet = "parquet"


@dataclass(frozen=True)
class Choice:
    """Which trials stand in the table, and in which order.

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


def leaderboard(study: OpenStudy, choice: Choice | None = None) -> pd.DataFrame:
    """The table, a row a trial.

    Columns: ``rank, rank/<task>…, trial, kind, stage, layout, weighting, init, scarce_slices, seed, state, epochs,
    ssim, ssim/<task>…, gain, gain_se, gain/<task>, gain_se/<task>…, z, z/<task>…, psnr/<task>…, nrmse/<task>…,
    weight/<task>…, gpu_seconds, seconds, parameters, peak_memory_bytes, node, checkpoint, error``. Metrics are of the
    validation split at the trial's last epoch, ``weight`` is what the task's loss was multiplied by there. A gain is
    the SSIM minus the mean over seeds of the STL at that N (``search.references``); ``gain_se`` is the standard error
    of that mean alone.

    ``rank`` goes by the study's objective among the rows that the choice keeps, ``rank/<task>`` by that task's share of
    it (``ssim/<task>`` or ``gain/<task>``); rows that are equal in a task share the better rank. ``z/<task>`` is the
    ranked networks' SSIM of the task in standard deviations from the mean, both over the study's complete multi-task
    trials (kind ``mtl``) of the same N; ``z`` is its mean over tasks, in which tasks of different scales count alike.

    Raises InputError for a column or value that the study does not have.
    """
    choice = choice or Choice()
    records = study.records()
    tasks = study.space.tasks
    references = References(records)
    rows = [row_of(record, tasks, references) for record in records]
    frame = pd.DataFrame(rows, columns=columns(tasks)).astype(
        {"rank": "Int64", "scarce_slices": "Int64", "parameters": "Int64", "peak_memory_bytes": "Int64"}
    )
    complete = frame["state"] == State.COMPLETE
    _add_z(frame, tasks, complete)
    frame = _only(frame, choice, ("kind", "stage", "weighting", "scarce_slices"))
    if not choice.everything:
        frame = frame[complete.loc[frame.index]]
    return _ordered(frame, tasks, choice, study.space.objective.metric, complete.loc[frame.index])


def confirmed(study: OpenStudy, choice: Choice | None = None) -> pd.DataFrame:
    """Confirmed configurations and baselines over their seeds, a row each: means, standard errors, number of seeds.

    Columns: ``rank, rank/<task>…, kind, layout, weighting, init, scarce_slices, seeds, ssim, ssim_se, ssim/<task>,
    ssim_se/<task>…, gain, gain_se, gain/<task>, gain_se/<task>…, z, z/<task>…, trials``. Gains are above the mean over
    seeds of the STL at that N, and their errors are those of the two means combined. Of baselines, all seeds count, and
    the hyperparameters that are best. Ranked are configurations that reconstruct every task, by the study's objective;
    rows with fewer seeds than the most of a multi-task configuration stand below, unranked. Ranks and z are as in
    ``leaderboard``, of the means over seeds.

    Raises InputError where nothing is confirmed yet, or for a column or value that no confirmed trial has.
    """
    choice = choice or Choice()
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
    values = ["ssim", *(f"ssim/{task}" for task in tasks), "gain", *(f"gain/{task}" for task in tasks)]
    lines = []
    for _, group in rows.groupby("configuration", sort=False):
        first = group.iloc[0]
        names = ("kind", "layout", "weighting", "init", "scarce_slices")
        line: dict[str, Any] = {name: first[name] for name in names} | {"seeds": len(group)}
        for value in values:
            line[value] = group[value].mean(skipna=False)
            error: Any = group[value].sem(skipna=False)
            if value.startswith("gain"):  # all seeds are compared with the same mean, which has an error too
                error = math.hypot(error, group[_error_of(value)].mean(skipna=False))
            line[_error_of(value)] = error
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
        *("ssim", *(f"ssim/{task}" for task in tasks)),
        *("gain", "gain_se", *(f"{name}/{task}" for task in tasks for name in ("gain", "gain_se"))),
        *_z(tasks),
        *(f"{name}/{task}" for name in ("psnr", "nrmse", "weight") for task in tasks),
        *("gpu_seconds", "seconds", "parameters", "peak_memory_bytes", "node", "checkpoint", "error"),
    ]


def _ranks(tasks: tuple[str, ...]) -> list[str]:
    return ["rank", *(f"rank/{task}" for task in tasks)]


def _z(tasks: tuple[str, ...]) -> list[str]:
    return ["z", *(f"z/{task}" for task in tasks)]


def _error_of(name: str) -> str:
    """The column of a metric's standard error."""
    return name.replace("ssim", "ssim_se").replace("gain", "gain_se")


def row_of(record: Record, tasks: tuple[str, ...], references: References) -> dict[str, Any]:
    """One trial as a row; what it does not have is missing."""
    gains, mean_gain = references.gains(record), references.gain(record)
    metrics = record.metrics
    return {
        "trial": record.name,
        "kind": record.kind,
        "stage": record.stage,
        "layout": record.layout,
        "weighting": record.weighting,
        "init": record.point.init if record.point else None,
        "scarce_slices": record.scarce_slices,
        "seed": record.seed,
        "state": str(record.state),
        "epochs": record.epochs,
        "ssim": metrics.get("ssim", np.nan),
        "gain": mean_gain.mean if mean_gain else np.nan,
        "gain_se": mean_gain.error if mean_gain else np.nan,
        **{f"gain/{task}": gains[task].mean if task in gains else np.nan for task in tasks},
        **{f"gain_se/{task}": gains[task].error if task in gains else np.nan for task in tasks},
        **{
            f"{name}/{task}": metrics.get(f"{name}/{task}", np.nan)
            for name in ("ssim", "psnr", "nrmse", "weight")
            for task in tasks
        },
        "gpu_seconds": record.gpu_seconds,
        "seconds": metrics.get("seconds", np.nan),
        "parameters": record.parameters,
        "peak_memory_bytes": record.peak_memory_bytes,
        "node": record.node,
        "checkpoint": record.checkpoint,
        "error": record.error or record.closed,
    }


def _only(frame: pd.DataFrame, choice: Choice, names: tuple[str, ...]) -> pd.DataFrame:
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


def _sorted_by(choice: Choice, objective: str, there: list[str]) -> str:
    by = objective if choice.sort in (None, "rank") else str(choice.sort)
    if by not in there:
        raise InputError(f"--sort {by!r} is no column; the columns are {', '.join(there)}")
    return by


def _whole(frame: pd.DataFrame, tasks: tuple[str, ...]) -> pd.Series:
    return frame[[f"ssim/{task}" for task in tasks]].notna().all(axis=1)


def _add_z(frame: pd.DataFrame, tasks: tuple[str, ...], finished: pd.Series) -> None:
    """Fill ``z`` and ``z/<task>`` of finished multi-task networks, where there are enough at that N for a spread."""
    searched = _whole(frame, tasks) & finished & (frame["kind"] == "mtl")
    counts = frame["scarce_slices"].fillna(0)
    for task in tasks:
        ssim = frame[f"ssim/{task}"]
        alike = ssim.where(searched).groupby(counts)
        spread = alike.transform("std").where(alike.transform("count") >= ENOUGH)
        frame[f"z/{task}"] = ((ssim - alike.transform("mean")) / spread.where(spread > 0)).where(searched)
    frame["z"] = frame[[f"z/{task}" for task in tasks]].mean(axis=1, skipna=False)


def _ordered(
    frame: pd.DataFrame, tasks: tuple[str, ...], choice: Choice, objective: str, finished: pd.Series
) -> pd.DataFrame:
    """The rows in the chosen order, with their ranks: those that are ranked first, then others that are finished."""
    by = _sorted_by(choice, objective, list(frame.columns))
    ranked = _whole(frame, tasks) & finished & frame[objective].notna()
    merit = frame[objective].where(ranked)
    frame = frame.assign(rank=merit.rank(ascending=False, method="first").astype("Int64"))
    for task in tasks:
        merit = frame[f"{objective}/{task}"].where(ranked)
        frame[f"rank/{task}"] = merit.rank(ascending=False, method="min").astype("Int64")
    order = pd.DataFrame({"ranked": ~ranked, "finished": ~finished, "by": frame[by]})
    rising = by.startswith(("nrmse/", "rank/"))
    order = order.sort_values(["ranked", "finished", "by"], ascending=[True, True, rising], kind="stable")
    frame = frame.loc[order.index]
    return frame.head(choice.top) if choice.top is not None else frame


def write(frame: pd.DataFrame, form: Format, out: Path | None) -> None:
    """Write the table to a file, or to standard output.

    Raises InputError for parquet without a file.
    """
    if form is Format.parquet and out is None:
        raise InputError("--format parquet is binary: say where it goes with --out FILE")
    if out is not None:
        with replace_file(out) as fresh:
            if form is Format.parquet:
                frame.to_parquet(fresh, index=False)
            else:
                fresh.write_text(render(frame, form), encoding="utf-8")
        return
    sys.stdout.write(render(frame, form))


def render(frame: pd.DataFrame, form: Format) -> str:
    """The table as text: csv and json with every column and digit, markdown with the columns that people compare."""
    if form is Format.csv:
        return str(frame.to_csv(index=False))
    if form is Format.json:
        return json.dumps(objects(frame), indent=2, allow_nan=False) + "\n"
    names, rows = cells(frame)
    return (_markdown(names, rows) if form is Format.markdown else _plain(names, rows)) + f"\n{caption(names)}\n"


def plain_table(frame: pd.DataFrame) -> str:
    """Any small table in aligned columns, as a terminal or a log shows it."""
    return _plain(list(frame.columns), [[_text(value) for value in row] for row in frame.itertuples(index=False)])


def markdown_table(frame: pd.DataFrame) -> str:
    """The columns of a leaderboard that people compare, in Markdown, without the caption."""
    return _markdown(*cells(frame))


def render_markdown(frame: pd.DataFrame) -> str:
    """Any small table in Markdown."""
    return _markdown(list(frame.columns), [[_text(value) for value in row] for row in frame.itertuples(index=False)])


def _text(value: Any) -> str:
    return "–" if pd.isna(value) else str(value)


def _markdown(names: list[str], rows: list[list[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _plain(names: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in [names, *rows]) for i in range(len(names))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [names, *rows])
    return "".join(line.rstrip() + "\n" for line in lines)


def objects(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A list of plain objects; what is missing or not finite is None."""

    def plain(value: Any) -> Any:
        if pd.isna(value) or (isinstance(value, float) and not math.isfinite(value)):
            return None
        return value.item() if hasattr(value, "item") else value

    return [{str(name): plain(value) for name, value in row.items()} for row in frame.to_dict(orient="records")]


SHOWN = ("rank", "trial", "kind", "layout", "weighting", "init", "scarce_slices", "seed", "seeds", "state", "epochs")
NUMBERS = {"rank", "N", "seed", "seeds", "epochs", "ssim", "gain", "z", "weight", "parameters", "seconds"}


MOVING = ("dwa", "uncertainty")
"""Weightings whose weights change in a training."""


def cells(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and cells of the columns that people compare, as text; a mean stands with its standard error."""
    metrics = [name for name in frame.columns if name.split("/")[0] in ("ssim", "gain")]
    # Where all networks start alike, nobody asks.
    spared = {"init"} if "init" in frame.columns and frame["init"].nunique() < 2 else set()
    spared |= {"z"} if "z" in frame.columns and frame["z"].isna().all() else set()
    # The error of the STL's mean alone is not a trial's; a mean over seeds has one of its own.
    errors = "ssim_se" in frame.columns
    # Ranks of each task beside the rank; weights where a weighting moves them.
    ranks = [name for name in frame.columns if name.startswith("rank/")]
    moved = "weighting" in frame.columns and frame["weighting"].isin(MOVING).any()
    weights = [name for name in frame.columns if name.startswith("weight/") and moved]
    wanted = (SHOWN[0], *ranks, *SHOWN[1:], *metrics, "z", *weights, "parameters", "seconds", "trials")
    names = [name for name in wanted if name in frame.columns and name not in spared]

    def text(name: str, row: Mapping[Hashable, Any]) -> str:
        value = row[name]
        if value is None or pd.isna(value):
            return "–"
        if name in metrics:
            number = f"{value:+z.4f}" if name.startswith("gain") else f"{value:.4f}"
            error = row.get(_error_of(name)) if errors else None
            return number if error is None or pd.isna(error) else f"{number} ± {error:.4f}"
        form = {"z": "+.2f", "weight": ".3g", "seconds": ".0f"}.get(name.split("/")[0])
        return str(value) if form is None else format(value, form)

    titles = ["N" if name == "scarce_slices" else name for name in names]
    return titles, [[text(name, row) for name in names] for row in frame.to_dict(orient="records")]


SPARED = (
    *("weight/", "z", "seconds", "parameters", "trials", "epochs", "gain/", "seed", "seeds", "state", "N"),
    *("rank/", "ssim/", "kind"),
)
"""What a narrow terminal does without, first to last; a name with a slash means every task's."""


def rich_table(frame: pd.DataFrame, title: str, width: int | None = None) -> Table:
    """The table for a terminal of so many columns; the best of each metric is bold, losses against STL are red.

    Columns that do not fit are left out as a whole, and the caption names them: a number that is cut off is none.
    """
    names, rows = cells(frame)
    best = {name: max((row[i] for row in rows if row[i] != "–"), default=None) for i, name in enumerate(names)}
    given_up: list[str] = []
    while True:
        kept = [name for name in names if name not in given_up]
        table = Table(
            title=Text(title),
            box=box.SIMPLE_HEAD,
            title_justify="left",
            caption=Text("\n".join(_notes(kept, given_up))),
            caption_justify="left",
        )
        for name in kept:
            table.add_column(Text(name), justify="right" if name.split("/")[0] in NUMBERS else "left", no_wrap=True)
        for row in rows:
            line = dict(zip(names, row, strict=True))
            table.add_row(*(Text(line[name], _style(name, line[name], best)) for name in kept))
        spare = next((group for one in SPARED if (group := [name for name in kept if _spares(one, name)])), None)
        if width is None or spare is None or _natural_width(table) <= width:
            return table
        given_up += spare


def _spares(one: str, name: str) -> bool:
    return name.startswith(one) if one.endswith("/") else name == one


def _natural_width(table: Table) -> int:
    endless = Console(width=10_000)
    return Measurement.get(endless, endless.options, table).maximum


def _notes(kept: list[str], given_up: list[str]) -> list[str]:
    without = f"for want of room without {', '.join(given_up)}; --format csv has all"
    return [*([without] if given_up else []), caption(kept)]


def _style(name: str, cell: str, best: Mapping[str, str | None]) -> str:
    if name.startswith("gain") and cell.startswith("-"):
        return "red"
    return "bold" if name.startswith("ssim") and cell == best[name] else ""


def caption(names: Sequence[str]) -> str:
    """What the numbers in columns of these titles are."""
    z = "z: mean over tasks of ssim's distance from the multi-task trials' mean at that N, in standard deviations. "
    return (
        "validation, last epoch; gain: ssim minus the mean of the STL at that N. "
        f"{z if 'z' in names else ''}Definition «{DEFINITION}»: {DEFINITIONS[DEFINITION]}"
    )
