"""Metrics of each slice, as a study stores them: one line of text per epoch, which is parsed only on request.

A table of all trials reads every attribute of every trial. So the metrics are stored as text: for the storage they are
one string, however many slices there are.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from recon.evaluation.measure import SliceMetrics

COLUMNS = ("task", "slice_id", "ssim", "psnr", "nrmse")
DIGITS = 6
"""Significant digits that are kept: more than are exact in single precision."""


def packed(slices: SliceMetrics) -> str:
    """``{task: {slice_id: [...], ssim: [...], psnr: [...], nrmse: [...]}}`` as compact JSON, about 30 bytes per
    slice."""
    rounded = {
        task: {
            name: [one if isinstance(one, int) else float(f"{one:.{DIGITS}g}") for one in values]
            for name, values in columns.items()
        }
        for task, columns in slices.items()
    }
    return json.dumps(rounded, separators=(",", ":"))


def unpacked(text: str) -> pd.DataFrame:
    """The table of a packed text: ``COLUMNS``, one row per slice, in the order of the validation."""
    import pandas as pd

    parts = [pd.DataFrame(columns).assign(task=task) for task, columns in json.loads(text).items()]
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)]
