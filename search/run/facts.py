"""The facts about prepared data that a search needs, so that it does not open them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recon.data.prepared import PreparedData


@dataclass(frozen=True)
class DataFacts:
    """The facts about prepared data that a search needs."""

    path: Path
    hash: str
    slices: Mapping[str, int]
    """Number of training slices of each task."""
    prepared: Mapping[str, Any] = field(default_factory=dict)
    """The options of their preparation, as JSON values: a bundle stores them for later raw files."""

    @classmethod
    def of(cls, path: Path) -> DataFacts:
        """Read the facts from prepared data.

        Raises InputError if there are no prepared data.
        """
        data = PreparedData(path)
        slices = {task: len(data.subset(task)) for task in data.tasks}
        return cls(Path(path).resolve(), data.hash, slices, data.options.model_dump(mode="json"))
