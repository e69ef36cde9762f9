"""Curves of SSIM against N, and paired differences from STL, of every network."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from recon.bundle import slugs
from recon.files import replace_file
from search.report.compare import LEVEL, Comparison, Difference, Row
from search.report.pictures import draw_slices, source
from search.report.tables import legend
from search.results.folder import UNTRAINED

DPI = 150
# Okabe and Ito's colours, told apart by the colour-blind.
_BASELINES = {
    "stl": "#000000", "stl-steps": "#8a8a8a", "joint-stl": "#56b4e9", "transfer": "#d55e00",
    "joint": "#332288", "joint-tuned": "#117733",
}  # fmt: skip
_PEERS = ("#7a4b1e", "#882255", "#999933")
_WEIGHTINGS = {"naive": "#0072b2", "dwa": "#009e73", "uncertainty": "#cc79a7", "equal": "#e69f00"}
_OTHER = "#666666"
_LAYOUTS = (
    ("s", (0, (5, 2))), ("^", (0, (1.5, 1.5))), ("D", (0, (6, 1.5, 1, 1.5))), ("v", (0, (3, 1, 1, 1, 1, 1))),
    ("P", (0, (8, 2))), ("X", (0, (1, 3))), ("<", (0, (8, 2, 2, 2))), (">", (0, (4, 4))), ("*", (0, (2, 4))),
    ("h", (0, (10, 1))), ("p", (0, (1, 1, 4, 1))), ("d", (0, (12, 3, 3, 3))),
)  # fmt: skip
"""Marker and dash of the first layout, the second …"""


@dataclass(frozen=True)
class Style:
    """How a configuration is drawn."""

    colour: str
    marker: str
    dash: Any
    width: float
    face: str
    """Of the marker; white for networks that start from transfer, grey for those that start from the joint network."""


def styles(comparison: Comparison) -> dict[Row, Style]:
    """Strong solid lines for baselines and peers; colour for the weighting and dash and marker for the layout."""
    found = {}
    layouts = list(dict.fromkeys(row.layout for row in comparison.networks))
    looks = dict(zip(layouts, itertools.cycle(_LAYOUTS), strict=False))
    colours = _BASELINES | dict(zip(comparison.peers, itertools.cycle(_PEERS), strict=False))
    for row in comparison.rows:
        if row.kind == "mtl":
            marker, dash = looks[row.layout]
            colour = _OTHER if comparison.is_aside(row) else _WEIGHTINGS.get(row.weighting, _OTHER)
            face = {"transfer": "white", "joint": "#cccccc"}.get(row.init, colour)
            found[row] = Style(colour, marker, dash, 1.3, face)
        elif row.kind not in UNTRAINED:
            colour = colours[row.kind]
            found[row] = Style(colour, "o", "solid", 2.2, colour)
    return found


def curves(comparison: Comparison) -> Figure:
    """SSIM against N on each task: one line per configuration, with a band of ± standard error over seeds."""
    tasks = [comparison.scarce, *comparison.abundant]
    counts = comparison.counts
    looks = styles(comparison)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(4.6 * len(tasks) + 2.4, 4.4), layout="constrained", facecolor="white")
        axes = figure.subplots(1, len(tasks), squeeze=False)[0]
        handles = {}
        for axis, task in zip(axes, tasks, strict=True):
            for row, look in looks.items():
                cells = [(count, comparison.cell(row, count, task, "ssim")) for count in counts]
                found = [(count, one) for count, one in cells if one is not None]
                if not found:
                    continue
                at = [count for count, _ in found]
                mean = np.array([one.mean for _, one in found])
                error = np.nan_to_num([one.error for _, one in found])
                order = 3 if row.kind == "mtl" else 4
                axis.fill_between(at, mean - error, mean + error, color=look.colour, alpha=0.13, lw=0, zorder=order - 2)
                (handles[row.name],) = axis.plot(
                    at, mean, color=look.colour, ls=look.dash, lw=look.width, marker=look.marker, ms=4.5,
                    mfc=look.face, mew=1.1, zorder=order, label=row.name,
                )  # fmt: skip
            _keep_to_own(axis, comparison, task)
            axis.set_xscale("log")
            axis.set_xticks(counts, list(map(str, counts)))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xlim(counts[0] / 1.15, counts[-1] * 1.15)
            axis.set_xlabel(f"N: training slices of {comparison.scarce}")
            axis.set_title(f"{task}{_untrained(comparison, task)}", fontsize=9)
            axis.grid(color="#e6e6e6", lw=0.7)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel("SSIM, mean over test slices and seeds")
        figure.supxlabel(source(comparison), fontsize=7.5, color="#555555")
        names = [row.name for row in looks if row.name in handles]
        figure.legend(
            [handles[name] for name in names], names, loc="outside right center", frameon=False, handlelength=3.6,
            title="bands: ± standard error\nover seeds", title_fontsize=8, alignment="left",
        )  # fmt: skip
    return figure


def _keep_to_own(axis: Axes, comparison: Comparison, task: str) -> None:
    """Scale to the study's own networks, and say where a peer or another recipe that lies far off is."""
    cells = {
        row: [one for count in comparison.counts if (one := comparison.cell(row, count, task, "ssim"))]
        for row in styles(comparison)
    }
    own = [one.mean for row, found in cells.items() if not comparison.is_aside(row) for one in found]
    if not own:
        return
    low, high = min(own), max(own)
    span = max(high - low, 0.01)
    away = []
    for row, found in cells.items():
        means = [one.mean for one in found]
        if comparison.is_aside(row) and means and (min(means) < low - span or max(means) > high + span):
            away.append(
                f"{row.name}: {min(means):.3f} to {max(means):.3f}"
                if len(set(means)) > 1
                else f"{row.name}: {means[0]:.3f}"
            )
    if away:
        axis.set_ylim(low - 0.15 * span, high + 0.08 * span)
        text = "off the scale: " + "\n".join(away)
        axis.text(0.02, 0.02, text, transform=axis.transAxes, fontsize=7.5, color="#555555", va="bottom")


def _untrained(comparison: Comparison, task: str) -> str:
    rows = [row for kind in UNTRAINED if (row := comparison.baseline(kind))]
    cells = {row.kind: comparison.cell(row, comparison.counts[0], task, "ssim") for row in rows}
    said = ", ".join(f"{kind} {one.mean:.3f}" for kind, one in cells.items() if one)
    return f"\n{said}" if said else ""


def forest(comparison: Comparison) -> Figure:
    """Paired differences of SSIM from STL with their intervals: one panel per task and N, one line per network."""
    tasks = [comparison.scarce, *comparison.abundant]
    counts = comparison.counts
    looks = styles(comparison)
    rows = {task: [row for row in looks if _differs(comparison, row, task)] for task in tasks}
    with matplotlib.rc_context({"font.size": 9}):
        heights = [0.24 * len(found) + 0.75 for found in rows.values()]
        figure = Figure(
            figsize=(2.3 + max(2.1 * len(counts), 4.2), sum(heights) + 0.9), layout="constrained", facecolor="white"
        )
        axes = figure.subplots(
            len(tasks), len(counts), squeeze=False, sharey="row", sharex="row", gridspec_kw={"height_ratios": heights}
        )
        for line, (task, shown) in zip(axes, rows.items(), strict=True):
            for axis, count in zip(line, counts, strict=True):
                axis.axvline(0, color="black", lw=0.9, zorder=1)
                for place, row in enumerate(shown):
                    found = _from_stl(comparison, row, task, count)
                    if found is None:
                        continue
                    look = looks[row]
                    if np.isfinite(found.low):
                        axis.plot([found.low, found.high], [place, place], color=look.colour, lw=1.8, zorder=2)
                    face = look.colour if found.sign else "white"
                    axis.plot(
                        found.mean, place, marker=look.marker, ms=5.5, color=look.colour, mfc=face, mew=1.2, zorder=3
                    )
                axis.set_title(f"{task}, N = {count}", fontsize=9)
                axis.set_yticks(range(len(shown)), [row.name for row in shown])
                axis.set_ylim(len(shown) - 0.4, -0.6)
                axis.grid(axis="x", color="#e6e6e6", lw=0.7)
                axis.set_axisbelow(True)
                axis.locator_params(axis="x", nbins=5)
                axis.tick_params(axis="x", labelsize=8)
                axis.tick_params(axis="y", length=0)
                axis.spines[["top", "right", "left"]].set_visible(False)
            left, right = _own_limits(comparison, task, shown) or line[0].get_xlim()
            for axis, count in zip(line, counts, strict=True):
                for place, row in enumerate(shown):
                    found = _from_stl(comparison, row, task, count)
                    if found is not None and not left <= found.mean <= right:
                        side, at = ("left", left) if found.mean < left else ("right", right)
                        text = f"◂ {found.mean:+.3f}" if side == "left" else f"{found.mean:+.3f} ▸"
                        axis.text(at, place, text, ha=side, va="center", fontsize=7.5, color=looks[row].colour)
                axis.axvspan(left, 0, color="#d55e00", alpha=0.06, lw=0, zorder=0)
            line[0].set_xlim(min(left, 0), max(right, 0))
        figure.suptitle(
            f"SSIM minus STL's, paired, with {LEVEL:.0%} intervals over seeds and test volumes", fontsize=10
        )
        marks = "left of zero, for a multi-task network: negative transfer; filled: the interval excludes zero"
        figure.supxlabel(f"{marks}\n{source(comparison)}", fontsize=7.5, color="#555555")
    return figure


def _own_limits(comparison: Comparison, task: str, rows: list[Row]) -> tuple[float, float] | None:
    """The span of the study's own intervals, where the mean of a peer or another recipe lies far outside."""
    found = [(comparison.is_aside(row), _from_stl(comparison, row, task, n)) for row in rows for n in comparison.counts]
    ends = [
        end for aside, one in found if one and not aside for end in (one.mean, one.low, one.high) if np.isfinite(end)
    ]
    others = [one.mean for aside, one in found if one and aside]
    if not ends or not others:
        return None
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    span = max(high - low, 0.01)
    if min(others) >= low - span and max(others) <= high + span:
        return None
    return low - 0.3 * span, high + 0.08 * span


def _from_stl(comparison: Comparison, row: Row, task: str, count: int) -> Difference | None:
    one = comparison.cell(row, count, task, "ssim")
    return one.against.get("stl") if one else None


def _differs(comparison: Comparison, row: Row, task: str) -> bool:
    return any(_from_stl(comparison, row, task, count) is not None for count in comparison.counts)


@dataclass(frozen=True)
class Drawn:
    """What was drawn."""

    paths: list[Path]
    without: list[str]
    """Pictures that could not be drawn, because the results lack the images or a network."""


def draw_figures(comparison: Comparison, folder: Path) -> Drawn:
    """Draw all figures of a folder of results as PNGs."""
    names = slugs(comparison.results.about.tasks)
    figures = {"ssim.png": curves(comparison), "differences.png": forest(comparison)}
    shown = draw_slices(comparison)
    figures |= {
        f"pictures-{names[task]}-N{count}.png": figure for (task, count), figure in shown.items() if figure is not None
    }
    about = {"Description": "\n".join(legend(comparison))}
    for name, figure in figures.items():
        with replace_file(folder / name) as fresh:
            figure.savefig(fresh, dpi=DPI, format="png", metadata=about)
    without = [f"{task} at N = {count}" for (task, count), figure in shown.items() if figure is None]
    return Drawn([folder / name for name in figures], without)
