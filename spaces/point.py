"""A point: one multi-task configuration of a space, apart from its seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from recon.config import (
    WeightingKind,
)
from spaces.layouts import Value

BaselineKind = Literal["stl", "stl-steps", "joint-stl", "joint-tuned", "transfer"]
Init = Literal["joint", "random", "transfer"]
"""What a multi-task network starts from: in every task's path the weights of the joint network of its seed and N, drawn
weights, or in every task's path the weights of the source task's STL."""
Combination = tuple[tuple[str, Value | None], ...]
"""Fields of TrainConfig that a baseline trains with, by dotted name, sorted."""


@dataclass(frozen=True)
class Point:
    """One multi-task configuration of a space: what a searched trial is, apart from its seed."""

    layout: str
    weighting: WeightingKind
    scarce_slices: int | None
    hyperparameters: tuple[tuple[str, Value], ...] = ()
    """Searched fields of TrainConfig by dotted name, sorted."""
    init: Init = "random"

    @property
    def key(self) -> str:
        """A text that names the point: equal points, equal keys. ``Point.parse`` reads it."""
        parts = [self.layout, self.weighting]
        if self.scarce_slices is not None:
            parts.append(f"n={self.scarce_slices}")
        if self.init != "random":
            parts.append(f"init={self.init}")
        parts += [f"{name}={json.dumps(value)}" for name, value in self.hyperparameters]
        return "/".join(parts)

    @classmethod
    def parse(cls, key: str) -> Point:
        """Read ``key``."""
        layout, weighting, *rest = key.split("/")
        named = dict(part.split("=", 1) for part in rest)
        slices = named.pop("n", None)
        init = named.pop("init", "random")
        extras = tuple((name, json.loads(value)) for name, value in named.items())
        return cls(layout, weighting, int(slices) if slices else None, extras, init)  # type: ignore[arg-type]
