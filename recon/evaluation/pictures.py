"""Reconstructions of one slice side by side: images above, their errors below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

ERROR_GAIN = 5
"""Errors are drawn this many times brighter, as is usual in MR papers."""
WIDTH = 2.6
"""Width of a column in inches."""


class Column(NamedTuple):
    """A reconstruction."""

    name: str
    image: np.ndarray[Any, Any]
    """Magnitudes, (rows, columns), in the units of the reference."""
    caption: str
    """Text below its error image, such as its metrics."""


def draw_columns(reference: np.ndarray[Any, Any], columns: Sequence[Column], title: str, note: str = "") -> Figure:
    """Draw the reference and the reconstructions, each with its error below.

    Args:
        reference: magnitudes, (rows, columns).
        columns: the reconstructions, left to right.
        title: text above the figure.
        note: text below the figure.
    """
    top = float(np.percentile(reference, 99.5))
    height = WIDTH * reference.shape[0] / reference.shape[1]
    shown = [Column("reference", reference, ""), *columns]
    with matplotlib.rc_context({"font.size": 9}):
        layout = ConstrainedLayoutEngine(hspace=0.02)
        figure = Figure(
            figsize=(WIDTH * len(shown), 2 * height + 0.9 + 0.3 * bool(note)), layout=layout, facecolor="white"
        )
        axes = figure.subplots(2, len(shown), squeeze=False)
        for (above, below), column in zip(axes.T, shown, strict=True):
            above.imshow(column.image, cmap="gray", vmin=0, vmax=top)
            above.set_title(column.name)
            if column is shown[0]:
                below.text(0.5, 0.5, f"error × {ERROR_GAIN}", ha="center", va="center", transform=below.transAxes)
            else:
                error = np.abs(column.image - reference)
                below.imshow(ERROR_GAIN * error, cmap="inferno", vmin=0, vmax=top)
                below.set_xlabel(column.caption)
            for axis in (above, below):
                axis.set_xticks([])
                axis.set_yticks([])
                for spine in axis.spines.values():
                    spine.set_visible(False)
        figure.suptitle(title)
        if note:
            figure.supxlabel(note, fontsize=7.5, color="#555555")
    return figure
