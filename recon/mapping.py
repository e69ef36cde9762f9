"""The map that parallel work takes: like the builtin ``map``, over processes or over a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Map(Protocol):
    """Like the builtin ``map`` over one iterable; results may come in any order."""

    def __call__(self, function: Callable[[T], R], items: Iterable[T], /) -> Iterable[R]:
        """Apply a module-level function to picklable items."""
