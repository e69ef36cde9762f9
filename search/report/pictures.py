"""Reconstructed test slices beside each other, as in the paper's Figures 2 to 4; none is picked by hand.

The volume is the one whose difference between MTL and STL is the median over the test volumes; the slice its middle
one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from recon.errors import InputError
from recon.evaluation.definitions import L1_WAVELET, TRUTH, ZERO_FILLED
from recon.evaluation.pictures import Column, draw_columns
from search.report.compare import NO_SEED, Comparison, Row
from search.results.folder import REFERENCE

MOST = 4
"""The largest number of N that are shown."""


def draw_slices(comparison: Comparison) -> dict[tuple[str, int], Figure | None]:
    """A figure for each task and N that is shown; None where it cannot be.

    The scarce task at up to four N, the abundant ones at the smallest.
    """
    counts = comparison.counts
    few = sorted({counts[int(place)] for place in np.linspace(0, len(counts) - 1, min(MOST, len(counts))).round()})
    wanted = [(comparison.scarce, count) for count in few] + [(task, counts[0]) for task in comparison.abundant]
    return {(task, count): picture(comparison, task, count) for task, count in wanted}


def picture(comparison: Comparison, task: str, count: int) -> Figure | None:
    """Reference, zero-filled image, STL, the MTL network of Table 1; where they are there, truth, ℓ1-wavelet, transfer
    and peers.

    None where STL or MTL were not tested, or the images were not kept.
    """
    chosen = comparison.best(count)
    stl = comparison.baseline("stl")
    shown = None if chosen is None or stl is None else median_volume(comparison, chosen, task, count)
    if shown is None:
        return None
    volume, seed = shown
    key = f"{task}/{volume}"
    reference = (comparison.results.images(REFERENCE) or {}).get(key)
    if reference is None:
        return None
    kinds = (ZERO_FILLED, TRUTH, L1_WAVELET, "transfer", *comparison.peers)
    zero_filled, truth, wavelet, *others = (comparison.baseline(kind) for kind in kinds)
    needed = (zero_filled, stl, chosen)
    columns = []
    for row in (zero_filled, truth, wavelet, stl, chosen, *others):
        line = _line(comparison, row, task, count, volume, seed)
        images = None if line is None else comparison.results.images(line["trial"] or line["kind"], line["weights"])
        if row is not None and line is not None and images is not None and key in images:
            if images[key].shape != reference.shape:
                raise InputError(f"the image of trial {line['trial']} of {key} has another shape than the reference's")
            name = f"MTL: {row.name}" if row.kind == "mtl" else row.name
            caption = f"SSIM {line['ssim']:.3f}\npSNR {line['psnr']:.2f} dB"
            columns.append(Column(name, images[key].astype(np.float32), caption))
        elif row in needed:
            return None
    title = (
        f"{task}, N = {count}: {volume}, middle slice, seed {seed}\n"
        "of the test volumes, the one whose difference in SSIM, MTL minus STL, is the median"
    )
    return draw_columns(reference.astype(np.float32), columns, title, source(comparison))


def source(comparison: Comparison) -> str:
    """What a figure's numbers come from, in one line."""
    about = comparison.results.about
    tested = ", ".join(f"{task} {counts.volumes}" for task, counts in about.test.items())
    seeds = ", ".join(map(str, comparison.seeds))
    return (
        f"metrics: definition {about.definition}; study {about.study}; data {about.data_hash[:12]}; seeds {seeds}; "
        f"test volumes: {tested}"
    )


def median_volume(comparison: Comparison, row: Row, task: str, count: int) -> tuple[str, int] | None:
    """The volume that is shown, and the lowest seed that the row and STL share; None where they share none.

    Its difference from STL in SSIM of the middle slice, averaged over seeds, is the (lower) median.
    """
    stl = comparison.baseline("stl")
    mine = comparison.slices(row, count, task, "ssim")
    other = comparison.slices(stl, count, task, "ssim") if stl else None
    if mine is None or other is None:
        return None
    seeds = [seed for seed in mine.columns if seed in other.columns]
    if not seeds:
        return None
    differences = (mine[seeds] - other[seeds]).mean(axis=1)
    middles = differences.groupby(level="volume").apply(lambda one: one.sort_index().iloc[len(one) // 2])
    return str(middles.sort_values(kind="stable").index[(len(middles) - 1) // 2]), int(min(seeds))


def _line(
    comparison: Comparison, row: Row | None, task: str, count: int, volume: str, seed: int
) -> pd.Series[Any] | None:
    """The table's line of a volume's middle slice; what no network made has no seed."""
    lines = None if row is None else comparison.lines(row, count, task)
    if lines is None:
        return None
    mine = lines[(lines["volume"] == volume) & lines["seed"].isin([seed, NO_SEED])].sort_values("slice")
    return None if mine.empty else mine.iloc[len(mine) // 2]
