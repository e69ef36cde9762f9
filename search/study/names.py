"""Names in a study's folder, for those who read no study."""

from __future__ import annotations

import re

CHECKPOINT_NAME = re.compile(r"epoch-(\d+)")
"""Name of a checkpoint's folder, which says after which epoch it was written."""
