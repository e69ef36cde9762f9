"""Doors of packages: public names that are resolved when they are first used, so that importing a package costs
nothing."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import Any


def door(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: its name.
        homes: for each public name the module that holds it, or ``module:symbol`` where it is called otherwise there.
    """
    names = sorted(homes)

    def resolve(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
            raise AttributeError(f"module {package!r} has no attribute {name!r}; {hint}")
        module, _, symbol = home.partition(":")
        return getattr(importlib.import_module(module), symbol or name)

    return resolve, lambda: names
