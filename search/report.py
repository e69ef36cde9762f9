"""A study's tables in the paper's form (Liu et al. 2021, Tables 1 to 3), with the uncertainty that one run cannot give.

Everything comes from the table of tested slices (``search.tested``), so a table can be recomputed from that file alone.
A cell is a mean over test slices, averaged over seeds, ± its standard error over seeds. Beside it stand paired
differences from the STL and from the transfer baseline of the same N and seeds, with bootstrap intervals over test
volumes: patients differ more than slices of one do, so volumes are what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recon.errors import InputError

Form = Literal["text", "markdown", "latex"]
RESAMPLES = 10_000
LEVEL = 0.95
SIX = tuple((layout, weighting) for layout in ("I2V10", "I2Y10") for weighting in ("naive", "dwa", "uncertainty"))
"""The paper's networks; others are rows of their own."""
_NAMES = {"stl": "STL", "joint-stl": "Joint STL", "transfer": "Transfer", "zero-filled": "Zero-filled"}


@dataclass(frozen=True)
class Row:
    """One line of a table: a configuration apart from N and seed."""

    kind: str
    layout: str
    weighting: str
    init: str

    @property
    def name(self) -> str:
        """As a table's first column calls it."""
        if self.kind in _NAMES:
            return _NAMES[self.kind]
        return f"{self.layout} {self.weighting}" + (", from transfer" if self.init == "transfer" else "")


@dataclass(frozen=True)
class Difference:
    """A paired difference of means, with a bootstrap interval over test volumes."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Cell:
    """One configuration at one N on one task."""

    mean: float
    error: float
    """Standard error over seeds; NaN for one seed."""
    seeds: int
    against: dict[str, Difference]
    """By baseline, ``stl`` and ``transfer``: this minus it."""


def cell(table: pd.DataFrame, row: Row, scarce_slices: int | None, task: str, metric: str) -> Cell | None:
    """The cell of a row; None where it was not run.

    Args:
        table: of tested slices.
        row: the configuration.
        scarce_slices: N.
        task: whose test slices.
        metric: ``ssim``, ``psnr`` or ``nrmse``.
    """
    mine = _slices(table, row, scarce_slices, task, metric)
    if mine is None:
        return None
    by_seed = mine.mean(axis=0)
    against = {}
    for kind in ("stl", "transfer"):
        other = _slices(table, Row(kind, *_layout_of(table, kind)), scarce_slices, task, metric)
        seeds = [] if other is None else [seed for seed in mine.columns if seed in other.columns]
        if other is not None and seeds and row.kind != kind:
            against[kind] = difference(mine[seeds].mean(axis=1) - other[seeds].mean(axis=1))
    error = float(by_seed.std(ddof=1) / np.sqrt(len(by_seed))) if len(by_seed) > 1 else float("nan")
    return Cell(float(by_seed.mean()), error, len(by_seed), against)


def difference(paired: pd.Series[float], resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """The mean of paired differences and its percentile bootstrap interval over volumes (Efron 1979).

    Args:
        paired: a difference a slice, indexed by volume and slice; a volume's slices are drawn together.
        resamples: how many.
        seed: of the draws.
    """
    by_volume = paired.groupby(level="volume")
    sums, counts = by_volume.sum().to_numpy(), by_volume.size().to_numpy()
    rng = np.random.default_rng(np.random.SeedSequence([seed]))
    drawn = rng.integers(len(sums), size=(resamples, len(sums)))
    means: NDArray[np.float64] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(float(paired.mean()), float(low), float(high))


def tables(table: pd.DataFrame, scarce: str, abundant: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The paper's tables as text, by title.

    Table 1 compares STL, MTL and transfer on the scarce task; which of the multi-task networks that start at random
    stands for MTL is chosen at each N by mean *validation* SSIM. Tables 2 and 3 list every network on the scarce and on
    each abundant task. A cell reads ``mean ± error``; ``▲`` or ``▼`` where its interval against STL excludes zero,
    ``▼`` being negative transfer; ``△`` or ``▽`` the same against transfer.

    Args:
        table: of tested slices.
        scarce: the task that N cuts.
        abundant: the other tasks.

    Raises:
        InputError: where the table holds no N of the scarce task.
    """
    counts = sorted(int(one) for one in table["scarce_slices"].dropna().unique())
    if not counts:
        raise InputError("the study has no N to make a table of: its space names no scarce task")
    networks = [row for row in _rows(table) if row.kind == "mtl"]
    found = {}
    lines = []
    for count in counts:
        line = {"slices": f"N = {count}"}
        chosen = _best_on_validation(table, [row for row in networks if row.init == "random"], count, scarce)
        for metric, title in (("ssim", "SSIM"), ("psnr", "pSNR")):
            for name, row in (
                ("STL", _baseline(table, "stl")),
                ("MTL", chosen),
                ("Transfer", _baseline(table, "transfer")),
            ):
                line[f"{title} {name}"] = _text(cell(table, row, count, scarce, metric) if row else None, metric)
        line["MTL is"] = chosen.name if chosen else ""
        lines.append(line)
    found[f"Table 1: {scarce}: STL, MTL and transfer"] = pd.DataFrame(lines)
    baselines = [row for kind in ("stl", "joint-stl", "transfer") if (row := _baseline(table, kind))]
    for number, task in enumerate((scarce, *abundant), start=2):
        lines = []
        for row in (*baselines, *networks):
            cells = [cell(table, row, count, task, "ssim") for count in counts]
            if any(cells):
                texts = {f"N = {count}": _text(one, "ssim") for count, one in zip(counts, cells, strict=True)}
                lines.append({"network": row.name, **texts})
        found[f"Table {number}: SSIM of {task}"] = pd.DataFrame(lines)
    return found


def write(found: dict[str, pd.DataFrame], form: Form) -> str:
    """Tables as text, Markdown or LaTeX, each under its title."""
    from search.leaderboard import plain_table

    parts = []
    for title, frame in found.items():
        lines: list[list[str]] = [list(map(str, frame.columns)), *frame.astype("str").to_numpy().tolist()]
        if form == "markdown":
            piped = ["| " + " | ".join(line) + " |" for line in lines]
            parts += [f"**{title}**", "", piped[0], "|" + "---|" * len(lines[0]), *piped[1:], ""]
        elif form == "latex":
            rows = [" & ".join(map(_latex, line)) + r" \\" for line in lines]
            parts += [r"\begin{table}", rf"\caption{{{_latex(title)}}}", rf"\begin{{tabular}}{{{'l' * len(lines[0])}}}"]
            parts += [rows[0], r"\hline", *rows[1:], r"\end{tabular}", r"\end{table}", ""]
        else:
            parts += [title, plain_table(frame)]
    return "\n".join(parts)


def _rows(table: pd.DataFrame) -> list[Row]:
    lines = table.loc[table["kind"] != "zero-filled", ["kind", "layout", "weighting", "init"]].drop_duplicates()
    rows = [Row(*line) for line in lines.itertuples(index=False)]
    order = {pair: place for place, pair in enumerate(SIX)}
    return sorted(rows, key=lambda row: (row.init == "transfer", order.get((row.layout, row.weighting), len(SIX))))


def _baseline(table: pd.DataFrame, kind: str) -> Row | None:
    return next((row for row in _rows(table) if row.kind == kind), None)


def _layout_of(table: pd.DataFrame, kind: str) -> tuple[str, str, str]:
    row = _baseline(table, kind)
    return (row.layout, row.weighting, row.init) if row else ("", "", "")


def _slices(table: pd.DataFrame, row: Row, scarce_slices: int | None, task: str, metric: str) -> pd.DataFrame | None:
    """A column a seed, a line a test slice; None where the row was not run at this N.

    A network that never saw the scarce task does not depend on N, and serves them all.
    """
    chosen = table["task"] == task
    for name in ("kind", "layout", "weighting", "init"):
        chosen &= table[name] == getattr(row, name)
    mine = table[chosen]
    at_n = mine[mine["scarce_slices"].isna() | (mine["scarce_slices"] == scarce_slices).fillna(False)]
    if at_n.empty:
        return None
    return at_n.pivot(index=["volume", "slice"], columns="seed", values=metric)


def _best_on_validation(table: pd.DataFrame, networks: Sequence[Row], count: int, task: str) -> Row | None:
    scores = {}
    for row in networks:
        found = _slices(table, row, count, task, "validation")
        if found is not None:
            scores[row] = float(found.mean(axis=0).mean())
    return max(scores, key=scores.__getitem__) if scores else None


def _text(one: Cell | None, metric: str) -> str:
    if one is None:
        return ""
    digits = 2 if metric == "psnr" else 4
    text = f"{one.mean:.{digits}f}"
    if np.isfinite(one.error):
        text += f" ± {one.error:.{digits}f}"
    marks = {"stl": {1: " ▲", -1: " ▼"}, "transfer": {1: " △", -1: " ▽"}}
    return text + "".join(marks[kind].get(found.sign, "") for kind, found in one.against.items())


def _latex(value: object) -> str:
    text = str(value)
    for sign, name in (
        ("&", r"\&"), ("_", r"\_"), ("%", r"\%"), ("±", r"$\pm$"), ("▲", r"$\blacktriangle$"),
        ("▼", r"$\blacktriangledown$"), ("△", r"$\vartriangle$"), ("▽", r"$\triangledown$"),
    ):  # fmt: skip
        text = text.replace(sign, name)
    return text
