"""Reconstructed test slices beside each other, as in the paper's Figures 2 to 4; none is picked by hand.

The volume is the one whose difference between MTL and STL is the median over the test volumes; the slice its middle
one.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from recon.pictures import Column, draw_columns
from search.report.compare import NO_SEED, Comparison, Row
from search.results import REFERENCE, ZERO_FILLED

MOST = 4
"""So many N are shown at most."""


def pictures(comparison: Comparison) -> dict[tuple[str, int], Figure | None]:
    """A figure for each task and N that is shown; None where it cannot be.

    The scarce task at up to four N, the abundant ones at the smallest.
    """
    counts = comparison.counts
    few = sorted({counts[int(place)] for place in np.linspace(0, len(counts) - 1, min(MOST, len(counts))).round()})
    wanted = [(comparison.scarce, count) for count in few] + [(task, counts[0]) for task in comparison.abundant]
    return {(task, count): picture(comparison, task, count) for task, count in wanted}


def picture(comparison: Comparison, task: str, count: int) -> Figure | None:
    """Reference, zero-filled image, STL, the MTL network of Table 1, and transfer where it serves the task.

    None where one of these was not tested, or its images were not kept.
    """
    chosen = comparison.best(count)
    stl = comparison.baseline("stl")
    zero = comparison.baseline(ZERO_FILLED)
    reference = comparison.results.images(REFERENCE)
    if chosen is None or stl is None or zero is None or reference is None:
        return None
    volume = median_volume(comparison, chosen, task, count)
    others = [comparison.baseline(kind) for kind in ("transfer", *comparison.peers)]
    columns = []
    for row in (zero, stl, chosen, *others):
        column = None if row is None or volume is None else _column(comparison, row, task, count, volume)
        if column is not None:
            columns.append(column)
        elif row in (zero, stl, chosen):
            return None
    title = (
        f"{task}, N = {count}: {volume}, middle slice, seed {comparison.seeds[0]}\n"
        "of the test volumes, the one whose difference in SSIM, MTL minus STL, is the median"
    )
    return draw_columns(reference[f"{task}/{volume}"].astype(np.float32), columns, title, source(comparison))


def source(comparison: Comparison) -> str:
    """What a figure's numbers come from, in one line."""
    about = comparison.results.about
    tested = ", ".join(f"{task} {counts.volumes}" for task, counts in about.test.items())
    seeds = ", ".join(map(str, comparison.seeds))
    return (
        f"metrics: definition {about.definition}; study {about.study}; data {about.data_hash[:12]}; seeds {seeds}; "
        f"test volumes: {tested}"
    )


def median_volume(comparison: Comparison, row: Row, task: str, count: int) -> str | None:
    """The volume whose difference from STL in SSIM of the middle slice, averaged over seeds, is the (lower) median."""
    stl = comparison.baseline("stl")
    pair = [comparison.slices(one, count, task, "ssim") for one in (row, stl) if one is not None]
    found = [one for one in pair if one is not None]
    if len(found) < 2:
        return None
    mine, other = found
    seeds = [seed for seed in mine.columns if seed in other.columns]
    if not seeds:
        return None
    differences = (mine[seeds] - other[seeds]).mean(axis=1)
    middles = differences.groupby(level="volume").apply(lambda one: one.sort_index().iloc[len(one) // 2])
    return str(middles.sort_values(kind="stable").index[(len(middles) - 1) // 2])


def _column(comparison: Comparison, row: Row, task: str, count: int, volume: str) -> Column | None:
    lines = comparison.lines(row, count, task)
    if lines is None:
        return None
    # The zero-filled image has no seed.
    seed = lines["seed"].isin([comparison.seeds[0], NO_SEED])
    lines = lines[(lines["volume"] == volume) & seed].sort_values("slice")
    if lines.empty:
        return None
    line: pd.Series = lines.iloc[len(lines) // 2]
    images = comparison.results.images(str(line["trial"]) or ZERO_FILLED, str(line["weights"]))
    if images is None:
        return None
    name = f"MTL: {row.name}" if row.kind == "mtl" else row.name
    caption = f"SSIM {line['ssim']:.3f}\npSNR {line['psnr']:.2f} dB"
    return Column(name, images[f"{task}/{volume}"].astype(np.float32), caption)
