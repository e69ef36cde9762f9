"""What a search needs to know of prepared data, so that it need not open them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recon.data.prepared import PreparedData


@dataclass(frozen=True)
class DataFacts:
    """What a search needs to know of prepared data."""

    path: Path
    hash: str
    slices: Mapping[str, int]
    """Training slices of each task."""
    prepared: Mapping[str, Any] = field(default_factory=dict)
    """The options that they were prepared with, as JSON values: a bundle remembers them for raw files to come."""

    @classmethod
    def of(cls, path: Path) -> DataFacts:
        """Read them.

        Raises InputError where there are no prepared data.
        """
        data = PreparedData(path)
        slices = {task: len(data.subset(task)) for task in data.tasks}
        return cls(Path(path).resolve(), data.hash, slices, data.options.model_dump(mode="json"))
