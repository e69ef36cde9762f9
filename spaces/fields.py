"""The fields of a training, by dotted name: what a space can search or change."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from pydantic import BaseModel

from recon.config import (
    MasksConfig,
    NetworkConfig,
    TrainConfig,
    WeightingConfig,
    WeightingKind,
)

CONDITIONAL: dict[str, WeightingKind] = {
    "weighting.temperature": "dwa",
    "weighting.ratios": "dwa",
    "weighting.log_variance_start": "uncertainty",
    "weighting.log_variance_learning_rate": "uncertainty",
}
"""Hyperparameters that mean something with one weighting only."""
PLACED = {"tasks", "slices", "seed", "epochs", "passes", "validate_at", "network.layout", "weighting.kind"}
"""Fields of TrainConfig that have a place of their own in a space."""


def check_field(name: str, known: Collection[str], where: str, of: str = "a training") -> None:
    """Raise ValueError for a name that is no field, with the nearest that is."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; the fields are {', '.join(sorted(known))}"
        raise ValueError(f"{where}.{name} is no field of {of}{hint}")


def training_fields() -> dict[str, type]:
    """Searchable fields of a training by dotted name, with their types (masks and fields with their own place are
    left out)."""
    found: dict[str, type] = {}
    models: list[tuple[str, type[BaseModel]]] = [
        ("", TrainConfig),
        ("network.", NetworkConfig),
        ("weighting.", WeightingConfig),
    ]
    for prefix, model in models:
        for name, field in model.model_fields.items():
            kind = field.annotation
            if prefix + name not in PLACED and kind not in (NetworkConfig, WeightingConfig, MasksConfig):
                found[prefix + name] = kind if isinstance(kind, type) else object
    return found
