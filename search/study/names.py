"""Names in a study's folder, for those who read no study."""

from __future__ import annotations

import re

CHECKPOINT_NAME = re.compile(r"epoch-(\d+)")
"""Name of a checkpoint's folder, which says after which epoch it was written."""


def trial_folder(searched: bool, number: int) -> str:
    """The name of a trial's folder: ``search-0012`` of a searched trial, ``reference-0003`` of another."""
    return f"{'search' if searched else 'reference'}-{number:04d}"
