"""Raw k-space readers: one module a format, chosen by what a file holds and not by its name.

A module of this package with ``FORMAT``, ``SUFFIXES``, ``recognises(path)`` and ``read(path)`` is a reader: a new
format is one new file.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from recon.data.readers.raw import RawVolume
from recon.errors import InputError

__all__ = ["RawVolume", "Reader", "open_reader", "read_volume", "readers", "suffixes"]


class Reader(Protocol):
    """What a module of this package offers to be a reader."""

    FORMAT: str
    """Name of the format, as provenance records it."""
    SUFFIXES: tuple[str, ...]
    """Lower-case endings that files of the format have, for looking through folders."""

    def recognises(self, path: Path) -> bool:
        """Whether the file holds this format. Looks at the content; a file that cannot be opened is not recognised."""
        ...

    def read(self, path: Path) -> RawVolume:
        """Read the header; samples are read slice by slice later. Raises InputError naming the file and the field."""
        ...


@cache
def readers() -> tuple[Reader, ...]:
    """All readers, in the order of their modules' names."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    return tuple(cast(Reader, module) for module in modules if hasattr(module, "recognises"))


def suffixes() -> frozenset[str]:
    """Endings of the files that some reader may know."""
    return frozenset(suffix for reader in readers() for suffix in reader.SUFFIXES)


def open_reader(path: Path) -> Reader:
    """The reader that knows the file's content.

    Raises:
        InputError: no such file, or no reader knows it.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file")
    for reader in readers():
        if reader.recognises(path):
            return reader
    known = ", ".join(reader.FORMAT for reader in readers())
    raise InputError(f"{path} is broken or of a format that is not known here (known: {known})")


def read_volume(path: str | Path) -> RawVolume:
    """Open a raw volume, whatever its format."""
    path = Path(path)
    return open_reader(path).read(path)
