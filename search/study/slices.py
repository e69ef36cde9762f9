"""Metrics slice by slice as a study keeps them: one line of text an epoch, which nobody parses who does not ask.

A table of all trials reads every attribute of every trial, so the text is stored as text: to a storage's reader it is
one string, however many slices there are.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from recon.evaluation.measure import SliceMetrics

COLUMNS = ("task", "slice_id", "ssim", "psnr", "nrmse")
DIGITS = 6
"""Significant digits that are kept: more than single precision and rounding leave true."""


def packed(slices: SliceMetrics) -> str:
    """``{task: {slice_id: [...], ssim: [...], psnr: [...], nrmse: [...]}}`` as compact JSON, about 30 bytes a slice."""
    rounded = {
        task: {
            name: [one if isinstance(one, int) else float(f"{one:.{DIGITS}g}") for one in values]
            for name, values in columns.items()
        }
        for task, columns in slices.items()
    }
    return json.dumps(rounded, separators=(",", ":"))


def unpacked(text: str) -> pd.DataFrame:
    """The table of a packed text: ``COLUMNS``, a row a slice, in the order of the validation."""
    parts = [pd.DataFrame(columns).assign(task=task) for task, columns in json.loads(text).items()]
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)]
