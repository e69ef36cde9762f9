"""Tables as text: for terminals, logs, Markdown, and machines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from recon.errors import InputError
from recon.evaluation.definitions import DEFINITIONS, REPORTED, Quantity
from recon.files import replace_file


class Format(StrEnum):
    """How a leaderboard is written."""

    table = "table"
    csv = "csv"
    json = "json"
    markdown = "markdown"
    parquet = "parquet"


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
    # A bar inside a cell, as a task's name may have it, would begin a new one.
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


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
NUMBERS = {"N", "seed", "seeds", "epochs", "parameters", "seconds"}
"""Columns of numbers beside those of a ``Quantity``: they end at the right."""
LONGEST_ERROR = 60
"""Characters of an error that a table for people shows; csv, json and parquet have all."""
MOVING = ("dwa", "uncertainty")
"""Weightings whose weights change in a training."""


def _of(columns: Iterable[str], *quantities: Quantity) -> list[str]:
    """The columns of these quantities, in their order."""
    return [name for name in columns if Quantity.of_column(name) in quantities]


def cells(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and cells of the columns that people compare, as text; a mean stands with its standard error."""
    metrics = _of(frame.columns, Quantity.SSIM, Quantity.GAIN)
    # If all networks start alike, the column says nothing.
    spared = {"init"} if "init" in frame.columns and frame["init"].nunique() < 2 else set()
    spared |= {"z"} if "z" in frame.columns and frame["z"].isna().all() else set()
    # The error of the STL's mean alone is not a trial's; a mean over seeds has one of its own.
    errors = Quantity.SSIM.error in frame.columns
    # Ranks of each task beside the rank; weights where a weighting moves them.
    ranks = [name for name in _of(frame.columns, Quantity.RANK) if name != Quantity.RANK]
    moved = "weighting" in frame.columns and frame["weighting"].isin(MOVING).any()
    weights = _of(frame.columns, Quantity.WEIGHT) if moved else []
    spared |= {"error"} if "error" in frame.columns and frame["error"].isna().all() else set()
    wanted = (SHOWN[0], *ranks, *SHOWN[1:], *metrics, "z", *weights, "parameters", "seconds", "trials", "error")
    names = [name for name in wanted if name in frame.columns and name not in spared]

    def text(name: str, row: Mapping[Hashable, Any]) -> str:
        value = row[name]
        if value is None or pd.isna(value):
            return "–"
        quantity = Quantity.of_column(name)
        if name == "error":
            first = str(value).splitlines()[0]
            return first if len(first) <= LONGEST_ERROR else first[: LONGEST_ERROR - 1] + "…"
        if quantity is None:
            return f"{value:.0f}" if name == "seconds" else str(value)
        number = format(value, quantity.form)
        error = row.get(name.replace(quantity, quantity.error, 1)) if errors and name in metrics else None
        return number if error is None or pd.isna(error) else f"{number} ± {error:.4f}"

    titles = ["N" if name == "scarce_slices" else name for name in names]
    return titles, [[text(name, row) for name in names] for row in frame.to_dict(orient="records")]


SPARED = (
    *("weight/", "z", "seconds", "parameters", "trials", "epochs", "gain/", "seed", "seeds", "state", "N"),
    *("rank/", "ssim/", "kind"),
)
"""Columns that a narrow terminal leaves out, first to last; a name with a slash means the columns of every task."""


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
            number = Quantity.of_column(name) is not None or name in NUMBERS
            table.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
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
    quantity = Quantity.of_column(name)
    if quantity is Quantity.GAIN and cell.startswith("-"):
        return "red"
    return "bold" if quantity is Quantity.SSIM and cell == best[name] else ""


def caption(names: Sequence[str]) -> str:
    """What the numbers in columns of these titles are."""
    z = "z: mean over tasks of ssim's distance from the multi-task trials' mean at that N, in standard deviations. "
    return (
        "validation, last epoch; gain: ssim minus the mean of the STL at that N. "
        f"{z if 'z' in names else ''}Definition «{REPORTED}»: {DEFINITIONS[REPORTED]}"
    )
