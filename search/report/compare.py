"""Tested networks side by side: means over seeds, and paired differences with intervals over seeds and volumes.

A cell is a mean over test slices, averaged over seeds, ± its standard error over seeds. Beside it stand paired
differences from baselines of the same N and seeds, with intervals over seeds and test volumes: patients differ more
than the slices of one patient, and a second training gives another network.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import scipy.stats

from recon.errors import InputError
from recon.evaluation.definitions import L1_WAVELET, TRUTH, ZERO_FILLED
from search.results.folder import UNTRAINED, Results

LEVEL = 0.95
SIX = tuple((layout, weighting) for layout in ("I2V10", "I2Y10") for weighting in ("naive", "dwa", "uncertainty"))
"""The paper's networks; others stand below them."""
NAMES = {
    ZERO_FILLED: "Zero-filled",
    L1_WAVELET: "ℓ1-wavelet",
    TRUTH: "Noise-free truth",
    "stl": "STL",
    "stl-steps": "STL, equal steps",
    "joint-stl": "Joint STL",
    "joint": "Joint network",
    "joint-tuned": "Joint, then fine-tuned",
    "transfer": "Transfer",
    "fastmri": "fastMRI VarNet, STL",
}
"""Of kinds other than multi-task networks, in the order of a table's rows."""
COMPARED = (L1_WAVELET, "stl", "stl-steps", "joint-stl", "joint-tuned", "transfer")
"""The baselines with which every network and peer is compared."""
OWN = ("mtl", *UNTRAINED, "stl", "stl-steps", "joint-stl", "joint", "joint-tuned", "transfer")
"""Kinds that a study has; any other is a peer, made by another tool."""

NO_SEED = -1
"""Stands for the seed in lines that come from no network."""


@dataclass(frozen=True)
class Row:
    """One line of a table: a configuration apart from N and seed."""

    kind: str
    layout: str
    weighting: str
    init: str
    hyperparameters: str = ""

    @property
    def name(self) -> str:
        """The name in a table's first column."""
        name = NAMES.get(self.kind, self.kind)
        if self.kind == "mtl":
            start = f", from {self.init}" if self.init in ("joint", "transfer") else ""
            name = f"{self.layout} {self.weighting}{start}"
        return f"{name} ({self.hyperparameters})" if self.hyperparameters else name


ROW = [field.name for field in dataclasses.fields(Row)]


@dataclass(frozen=True)
class Difference:
    """A paired difference of means, with its interval; the bounds are NaN if there is only one test volume."""

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
    """By kind of baseline: this minus it."""


@dataclass(frozen=True)
class Comparison:
    """The configurations of a folder of results, and how they compare.

    Raises InputError where the results have no N to compare at.
    """

    results: Results
    _pivots: dict[tuple[Row, int, str, str], pd.DataFrame | None] = field(default_factory=dict, repr=False)
    _cells: dict[tuple[Row, int, str, str], Cell | None] = field(default_factory=dict, repr=False)
    _differences: dict[tuple[Row, Row, int, str, str], Difference | None] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        about = self.results.about
        if about.scarce is None:
            raise InputError(
                f"the results of {about.study!r} have no N to compare at: its space names no scarce task; "
                "see splitpoint leaderboard --confirmed, or name one (scarce, with slices: [all])"
            )
        if not self.counts:
            raise InputError(f"the results of {about.study!r} have no N to compare at: no network of one was tested")

    @property
    def scarce(self) -> str:
        """The task that N cuts."""
        return str(self.results.about.scarce)

    @property
    def abundant(self) -> list[str]:
        """The other tasks."""
        return [task for task in self.results.about.tasks if task != self.scarce]

    @functools.cached_property
    def counts(self) -> list[int]:
        """Every N, smallest first."""
        return sorted(int(one) for one in self.results.table["scarce_slices"].dropna().unique())

    @functools.cached_property
    def seeds(self) -> list[int]:
        """Every seed."""
        return sorted(int(one) for one in self.results.table["seed"].dropna().unique())

    @functools.cached_property
    def rows(self) -> list[Row]:
        """Every configuration: what no network made, baselines, peers, the paper's networks, others, transferred."""
        lines = self.results.table[ROW].drop_duplicates()
        six = {pair: place for place, pair in enumerate(SIX)}
        kinds = {kind: place for place, kind in enumerate([*(k for k in NAMES if k in OWN), *self.peers, "mtl"])}

        def place(row: Row) -> tuple[int, int, int]:
            return (
                kinds[row.kind],
                ("random", "joint", "transfer").index(row.init or "random"),
                six.get((row.layout, row.weighting), len(SIX)),
            )

        return sorted((Row(*map(str, line)) for line in lines.itertuples(index=False)), key=place)

    @functools.cached_property
    def peers(self) -> list[str]:
        """Kinds that other tools made."""
        return [str(kind) for kind in self.results.table["kind"].unique() if kind not in OWN]

    def is_aside(self, row: Row) -> bool:
        """Whether a row does not belong to what the study compares: a peer, or another recipe for one of its rows."""
        return row.kind in self.peers or (
            bool(row.hyperparameters) and dataclasses.replace(row, hyperparameters="") in self.rows
        )

    @functools.cached_property
    def networks(self) -> list[Row]:
        """The multi-task networks."""
        return [row for row in self.rows if row.kind == "mtl"]

    def baseline(self, kind: str) -> Row | None:
        """The row of a kind that has one."""
        return next((row for row in self.rows if row.kind == kind), None)

    def row(self, name: str) -> Row:
        """The row of a name.

        Raises InputError where there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise InputError(f"there is no row {name!r}; the rows are {', '.join(row.name for row in self.rows)}")

    def best(self, count: int) -> Row | None:
        """What stands for MTL at an N: of those that start at random, the best by mean *validation* SSIM; where none
        does, of those that start from the joint network.

        Networks with fewer seeds than the most are left out: a mean over fewer seeds is no match.
        """
        found = {row: self.slices(row, count, self.scarce, "validation") for row in self.networks}
        init = "random" if any(row.init == "random" for row in self.networks) else "joint"
        there = {
            row: one for row, one in found.items() if one is not None and row.init == init and not self.is_aside(row)
        }
        most = max((len(one.columns) for one in there.values()), default=0)
        scores = {row: float(one.mean(axis=0).mean()) for row, one in there.items() if len(one.columns) == most}
        return max(scores, key=scores.__getitem__) if scores else None

    def minus(self, row: Row, other: Row, count: int, task: str, metric: str) -> Difference | None:
        """A row minus another one, over the seeds that both have.

        None if they have no seed in common at this N, are the same row, or the first row comes from no network.
        """
        key = (row, other, count, task, metric)
        if key not in self._differences:
            self._differences[key] = self._minus(*key)
        return self._differences[key]

    def _minus(self, row: Row, other: Row, count: int, task: str, metric: str) -> Difference | None:
        mine, theirs = (self.slices(one, count, task, metric) for one in (row, other))
        if row.kind in UNTRAINED or row == other or mine is None or theirs is None:
            return None
        if NO_SEED in theirs.columns:
            return difference(mine.sub(theirs[NO_SEED], axis=0))
        seeds = [seed for seed in mine.columns if seed in theirs.columns]
        return difference(mine[seeds] - theirs[seeds]) if seeds else None

    def slices(self, row: Row, count: int, task: str, metric: str) -> pd.DataFrame | None:
        """One column per seed and one line per test slice (volume, slice); None if the row was not run at this N.

        A network that never saw the scarce task does not depend on N, and serves them all.
        """
        key = (row, count, task, metric)
        if key not in self._pivots:
            mine = self.lines(row, count, task)
            self._pivots[key] = (
                None if mine is None else mine.pivot(index=["volume", "slice"], columns="seed", values=metric)
            )
        return self._pivots[key]

    def lines(self, row: Row, count: int, task: str) -> pd.DataFrame | None:
        """The table's lines of a row at an N."""
        mine = self._groups.get((*dataclasses.astuple(row), task))
        if mine is None:
            return None
        at_n = mine[mine["scarce_slices"].isna() | (mine["scarce_slices"] == count).fillna(False)]
        return None if at_n.empty else at_n.assign(seed=at_n["seed"].fillna(NO_SEED))

    @functools.cached_property
    def _groups(self) -> dict[tuple[str, ...], pd.DataFrame]:
        keys = [*ROW, "task"]
        return {tuple(map(str, key)): part for key, part in self.results.table.groupby(keys, sort=False)}

    def cell(self, row: Row, count: int, task: str, metric: str) -> Cell | None:
        """The cell of a row; None if the row was not run.

        Args:
            row: the configuration.
            count: N.
            task: whose test slices.
            metric: ``ssim``, ``psnr`` or ``nrmse``.
        """
        key = (row, count, task, metric)
        if key not in self._cells:
            self._cells[key] = self._cell(row, count, task, metric)
        return self._cells[key]

    def _cell(self, row: Row, count: int, task: str, metric: str) -> Cell | None:
        mine = self.slices(row, count, task, metric)
        if mine is None:
            return None
        by_seed = mine.mean(axis=0)
        against = {}
        for kind in (*COMPARED, *self.peers):
            baseline = self.baseline(kind)
            found = self.minus(row, baseline, count, task, metric) if baseline else None
            if found is not None:
                against[kind] = found
        error = float(by_seed.std(ddof=1) / np.sqrt(len(by_seed))) if len(by_seed) > 1 else float("nan")
        return Cell(float(by_seed.mean()), error, len(by_seed), against)


def difference(paired: pd.DataFrame) -> Difference:
    """The mean of paired differences and its interval over seeds and volumes.

    Seeds and volumes are drawn at random and crossed: every seed's network sees every volume. The variance is that of
    a two-way random effects analysis, (MS_volumes + MS_seeds - MS_residual) / (volumes · seeds), where a component
    below zero counts as zero. The interval is Student's with Satterthwaite's degrees of freedom of the first two, as
    Hillis (2007) has it for readers and cases. (Resampling both falls short with three seeds.) One seed gives Student's
    interval over volumes; one volume tells nothing of others, and gives none.

    Args:
        paired: one line per slice, indexed by volume and slice, and one column per seed. Volumes weigh by their slices:
            the mean is a ratio of sums, and its variance that of the linearised one.
    """
    by_volume = paired.groupby(level="volume")
    slices = by_volume.size().to_numpy()
    volumes, seeds = len(slices), paired.shape[1]
    mean = float(paired.to_numpy().mean())
    if volumes < 2:
        return Difference(mean, math.nan, math.nan)
    deviations = (by_volume.sum().to_numpy() - slices[:, None] * mean) * volumes / len(paired)
    of_volumes, of_seeds = deviations.mean(axis=1), deviations.mean(axis=0)
    between_volumes = seeds * np.sum(of_volumes**2) / (volumes - 1)
    between_seeds = residual = 0.0
    if seeds > 1:
        between_seeds = volumes * np.sum(of_seeds**2) / (seeds - 1)
        left = deviations - of_volumes[:, None] - of_seeds
        residual = np.sum(left**2) / ((volumes - 1) * (seeds - 1))
    square = max(between_volumes, residual) + max(between_seeds, residual) - residual
    if square == 0:
        return Difference(mean, mean, mean)
    free = square**2 / (between_volumes**2 / (volumes - 1) + between_seeds**2 / max(seeds - 1, 1))
    half = scipy.stats.t.isf((1 - LEVEL) / 2, free) * math.sqrt(square / (volumes * seeds))
    return Difference(mean, mean - half, mean + half)
