"""Raw k-space readers: one module per format, chosen by the content of a file and not by its name.

A module of this package with ``FORMAT``, ``SUFFIXES``, ``recognises(path)`` and ``read(path, hints)`` is a reader: a
new format is one new file. A format with several files per volume adds ``stands_for(path)``.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import ValidationError

from recon.data.readers.raw import Hints, RawVolume
from recon.errors import InputError, sentence

__all__ = ["Hints", "RawVolume", "Reader", "hints_for", "open_reader", "read_volume", "readers", "suffixes", "volumes"]


class Reader(Protocol):
    """The interface of a reader module in this package."""

    FORMAT: str
    """Name of the format, as provenance records it."""
    SUFFIXES: tuple[str, ...]
    """Lower-case endings that files of the format have, for looking through folders."""

    def recognises(self, path: Path) -> bool:
        """Whether the file holds this format. Looks at the content; a file that cannot be opened is not recognised."""
        ...

    def read(self, path: Path, hints: Hints) -> RawVolume:
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


def volumes(files: Iterable[Path]) -> list[Path]:
    """The files that stand for a volume, among files with known endings. Of several files of one volume, it is the
    first."""
    found: dict[Path, None] = {}
    for file in files:
        one: Path | None = file
        for reader in readers():
            if file.suffix.lower() in reader.SUFFIXES:
                # Only formats with several files per volume have it.
                one = getattr(reader, "stands_for", Path)(file)
        if one is not None:
            found.setdefault(one)
    return list(found)


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
    known = ", ".join(f"{reader.FORMAT} ({', '.join(reader.SUFFIXES)})" for reader in readers())
    raise InputError(f"{path} is broken or of a format that is not known here (known: {known})")


def hints_for(path: Path, otherwise: Hints | None = None) -> Hints:
    """The hints of the JSON file beside a raw file; what it leaves out is taken from ``otherwise``.

    Raises:
        InputError: the file beside it is not JSON, or names something else than hints.
    """
    beside = path.with_name(path.name + ".json")
    given = otherwise or Hints()
    if not beside.is_file():
        return given
    try:
        content: Any = json.loads(beside.read_text(encoding="utf-8"))
        return Hints.model_validate(given.model_dump(exclude_unset=True) | dict(content))
    except ValidationError as error:
        raise InputError(f"{beside}: {sentence(error)}") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{beside}: it is no JSON object of hints ({error})") from error


def read_volume(path: str | Path, hints: Hints | None = None) -> RawVolume:
    """Open a raw volume, whatever its format.

    Args:
        path: the file that stands for the volume.
        hints: what formats without a header cannot say; a JSON file beside the raw one goes before them.
    """
    path = Path(path)
    return open_reader(path).read(path, hints_for(path, hints))
