"""The address that points and spaces had before the rooms; scripts outside the project import them from here."""

from spaces.point import Point
from spaces.reading import load_space

__all__ = ["Point", "load_space"]
