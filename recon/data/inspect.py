"""Inspect a prepared data set: a table of counts and a contact sheet of pictures.

Looks only at training and validation slices; of the test split it counts what the index says and opens nothing. Where
the data know their noise-free truth, the table says the ceiling that their noise leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from recon.config import MaskConfig, MasksConfig
from recon.data.index import SPLITS, IndexRow
from recon.data.prepared import PreparedData, Slice
from recon.data.volume_file import centre
from recon.errors import InputError
from recon.files import replace_file
from recon.physics.coils import magnitude_of
from recon.physics.espirit import espirit_residual
from recon.physics.masks import Mask, fixed


def summary(data: PreparedData, masks: MasksConfig | None = None) -> pd.DataFrame:
    """One line per task, split and shape of slices.

    Args:
        data: a prepared data set; the test split need not be open.
        masks: whose lines (or samples) and net accelerations to count; the default masks where None.

    Returns:
        Columns task, split, volumes, patients, slices, coils, rows, columns, padding (left+right), crop, kept (the
        least share of the object's energy that a slice's maps keep, noise apart; NaN for test), and for the split's
        mask lines (samples where it keeps single samples) and net_acceleration; a range (``50-70``) where training
        draws among several. Where a task's validation slices know their noise-free truth also ``ceiling``: their mean
        SSIM of it (definition ``paper``) against the noisy reference, NaN in the lines of other splits.
    """
    masks = masks or MasksConfig()
    shape = ["coils", "rows", "columns", "pad_left", "pad_right", "crop_rows", "crop_columns"]
    lines: list[dict[str, Any]] = []
    known = {task for task in data.tasks if data.knows_truth(task, "val")}
    for task, split in product(data.tasks, SPLITS):
        chosen = data.index[(data.index["task"] == task) & (data.index["split"] == split)]
        for _, group in chosen.groupby(shape):
            row = data.row(group["slice_id"].iloc[0])
            drawn = possible_masks(getattr(masks, split), row)
            lines.append(
                {
                    "task": task,
                    "split": split,
                    "volumes": group["volume"].nunique(),
                    "patients": group["patient"].nunique(),
                    "slices": len(group),
                    "coils": row.coils,
                    "rows": row.rows,
                    "columns": row.columns,
                    "padding": f"{row.pad_left}+{row.pad_right}",
                    "crop": f"{row.crop_rows}×{row.crop_columns}",
                    "kept": _least_kept(data, group["volume"]) if split != "test" else float("nan"),
                    drawn[0].unit: _range([mask.count for mask in drawn], "d"),
                    "net_acceleration": _range([mask.net_acceleration for mask in drawn], ".2f"),
                }
            )
            if split == "val" and task in known:
                lines[-1]["ceiling"] = ceiling(data, group["slice_id"], masks.val)
    return pd.DataFrame(lines)


def ceiling(data: PreparedData, slices: Iterable[int], mask: MaskConfig) -> float:
    """Mean SSIM (definition ``paper``) of the slices' noise-free truth against their noisy reference.

    It approximates the best score that a network could reach.
    """
    pieces = (data.read(int(one), truth=True) for one in slices)
    from recon.evaluation.compare import measure_slice  # takes torch, which looking at other data does not
    from recon.evaluation.methods import noise_free_truth  # takes torch, which looking at other data does not

    return float(np.mean([measure_slice(piece, noise_free_truth, mask)["ssim"] for piece in pieces]))


def possible_masks(config: MaskConfig, row: IndexRow) -> list[Mask]:
    """One mask for each pair of acceleration and centre fraction that a configuration may draw, for this slice's shape.

    Pairs that a shape does not permit are left out.

    Raises:
        InputError: where the shape permits none of them.
    """
    masks, refused = [], ""
    for acceleration, fraction in product(config.accelerations, config.centre_fractions):
        one = config.model_copy(update={"accelerations": (acceleration,), "centre_fractions": (fraction,)})
        try:
            masks.append(fixed(one, row.shape, row.padding))
        except InputError as error:
            refused = str(error)
    if not masks:
        raise InputError(f"volume {row.volume}: {refused}")
    return masks


def contact_sheet(
    data: PreparedData,
    path: str | Path,
    *,
    slices: int = 3,
    mask: MaskConfig | None = None,
) -> Path:
    """Draw a picture (PNG) of a few slices of each task.

    For each slice: the target with its crop framed, its phase, the magnitude of four maps, 1 − Σ|s|² (white where the
    maps are cut away), what the maps leave unexplained of the coil images (below it the shares of the object's energy
    that they keep and of the object that they cover), k-space, and the mask.

    Args:
        data: a prepared data set; only training and validation slices are drawn.
        path: the file to write.
        slices: number of slices per task, from different volumes if possible.
        mask: the mask to show; validation's default where None.

    Returns:
        ``path``.
    """
    mask = mask or MasksConfig().val
    chosen = [(task, piece) for task in data.tasks for piece in _examples(data, task, slices)]
    if not chosen:
        raise InputError(f"{data.path} has no training or validation slice to draw")
    heads = ("target", "phase", "maps of four coils", "1 − Σ|s|²", "left by maps", "k-space", "mask")
    figure = Figure(figsize=(2.1 * len(heads), 1.9 * len(chosen)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(chosen), len(heads), squeeze=False)
    for (task, piece), axes in zip(chosen, grid, strict=True):
        drawn = fixed(mask, piece.row.shape, piece.row.padding).within(np.asarray(piece.kspace.any(axis=0)))
        _draw(axes, task, piece, drawn, _facts(data, piece.row))
    for axis, head in zip(grid[0], heads, strict=True):
        axis.set_title(head, fontsize=9)
    path = Path(path)
    with replace_file(path) as fresh:
        figure.savefig(fresh, format="png", dpi=110)
    return path


def _examples(data: PreparedData, task: str, count: int) -> list[Slice]:
    """Middle slices of different volumes first, training before validation."""
    rows = [data.row(one) for split in ("train", "val") for one in data.subset(task, split=split)]
    volumes: dict[str, list[IndexRow]] = {}
    for row in rows:
        volumes.setdefault(row.volume, []).append(row)
    # The middle of each volume, then its next neighbours.
    by_distance = [sorted(group, key=lambda one: abs(one.slice - (len(group) - 1) / 2)) for group in volumes.values()]
    rounds = (group[turn] for turn in range(max(map(len, by_distance), default=0)) for group in by_distance[:count])
    return [data.read(row.slice_id) for row, _ in zip(rounds, range(count), strict=False)]


class Facts(NamedTuple):
    """What a volume's record says of one slice."""

    number: int
    """In the raw volume, as findings name it."""
    kept: tuple[float, float] | None
    """The shares of the object's energy that the maps keep, and of the object that they cover, where it says so."""


def _draw(axes: Sequence[Axes], task: str, piece: Slice, mask: Mask, facts: Facts) -> None:
    row = piece.row
    target, phase, maps, uncovered, residual, kspace, kept = axes
    magnitude = magnitude_of(piece.target)
    sets = piece.maps if piece.maps.ndim == 4 else piece.maps[None]
    target.imshow(magnitude, cmap="gray", vmin=0, vmax=float(np.percentile(magnitude, 99.5)))
    region = centre((row.rows, row.columns), (row.crop_rows, row.crop_columns))
    top, left = region[0].start - 0.5, region[1].start - 0.5
    frame = ([left, left + row.crop_columns, left + row.crop_columns, left, left], [0, 0, 1, 1, 0])
    target.plot(frame[0], [top + one * row.crop_rows for one in frame[1]], color="tab:orange", linewidth=0.8)
    target.set_ylabel(f"{task}\n{row.volume}\nslice {facts.number} ({row.split})", fontsize=7)
    first = piece.target if piece.target.ndim == 2 else piece.target[0]
    phase.imshow(np.where(np.abs(first) > 0, np.angle(first), np.nan), cmap="twilight", vmin=-np.pi, vmax=np.pi)
    # Of each set four coils, one set below the other.
    maps.imshow(np.concatenate([_tiles(np.abs(one)) for one in sets]), cmap="viridis", vmin=0, vmax=1)
    # How many sets of maps there are, too: the second one only where the first does not explain all.
    power = np.sum(np.abs(sets) ** 2, axis=(0, 1))
    uncovered.imshow(1 - power, cmap="gray", vmin=1 - len(sets), vmax=1)
    left_over = residual.imshow(espirit_residual(piece.kspace, piece.maps), cmap="magma", vmin=0, vmax=0.2)
    residual.figure.colorbar(left_over, ax=residual, shrink=0.7)
    if facts.kept is not None:
        residual.set_xlabel(f"kept {facts.kept[0]:.3f}, covered {facts.kept[1]:.3f}", fontsize=7)
    power = np.log10(np.sqrt(np.sum(np.abs(piece.kspace) ** 2, axis=0)) / np.abs(piece.kspace).max() + 1e-6)
    kspace.imshow(power, cmap="gray", vmin=-4, vmax=0)
    kept.imshow(np.broadcast_to(mask.kept, row.shape), cmap="gray", vmin=0, vmax=1)
    kept.set_xlabel(f"{mask.count} {mask.unit}, R {mask.net_acceleration:.2f}", fontsize=7)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])


def _facts(data: PreparedData, row: IndexRow) -> Facts:
    record = data.record(row.volume)
    kept = (record.kept[row.slice], record.covered[row.slice]) if record.kept else None
    return Facts(row.slice if record.positions is None else record.positions[row.slice], kept)


def _least_kept(data: PreparedData, volumes: Iterable[str]) -> float:
    """The least energy that the maps of any slice of the volumes keep, NaN where the data do not say."""
    return min((one for volume in set(volumes) for one in data.record(volume).kept), default=float("nan"))


def _tiles(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Four images, spread evenly over those there are, as a square of two by two."""
    four = images[np.linspace(0, len(images) - 1, 4).round().astype(int)]
    return np.block([[four[0], four[1]], [four[2], four[3]]])


def _range(values: Sequence[float], form: str) -> str:
    numbers = sorted(values)
    low, high = format(numbers[0], form), format(numbers[-1], form)
    return low if low == high else f"{low}-{high}"
