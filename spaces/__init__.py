"""Search spaces: what a study may choose, as YAML with a typed schema; knows neither Ray nor Optuna."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recon.door import door

if TYPE_CHECKING:
    from spaces.point import Point as Point
    from spaces.reading import load_space as load_space
    from spaces.reading import parse_space as parse_space
    from spaces.reading import shipped as shipped
    from spaces.space import Space as Space

_HOMES = {
    "Point": "spaces.point",
    "Space": "spaces.space",
    "load_space": "spaces.reading",
    "parse_space": "spaces.reading",
    "shipped": "spaces.reading",
}

__all__ = [
    "Point",
    "Space",
    "load_space",
    "parse_space",
    "shipped",
]

__getattr__, __dir__ = door(__name__, _HOMES)
