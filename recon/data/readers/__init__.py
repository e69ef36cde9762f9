"""Raw k-space readers: one module per format, chosen by the content of a file and not by its name.

A module of this package with ``FORMAT``, ``SUFFIXES``, ``recognises(path)`` and ``read(path, hints)`` is a reader: a
new format is one new file. A format with several files per volume adds ``stands_for(path)``. One with several volumes
per file has ``read_all(path, hints)``, which gives them all, in place of ``read``.
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

__all__ = [
    "Hints",
    "RawVolume",
    "Reader",
    "hints_for",
    "open_reader",
    "read_volume",
    "read_volumes",
    "readers",
    "suffixes",
    "volumes",
]


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
        one = _stands_for(file)
        if one is not None:
            found.setdefault(one)
    return list(found)


def _stands_for(file: Path) -> Path | None:
    """The file that stands for this one's volume; None where it belongs to another's."""
    for reader in readers():
        # Only formats with several files per volume have it. Formats may share an ending: who knows a file says so by
        # another answer than the file itself.
        if file.suffix.lower() in reader.SUFFIXES and hasattr(reader, "stands_for"):
            one: Path | None = reader.stands_for(file)
            if one != file:
                return one
    return file


def open_reader(path: Path) -> Reader:
    """The reader that knows the file's content.

    Raises:
        InputError: no such file, or no reader knows it.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file")
    for reader in readers():
        if _recognises(reader, path):
            return reader
    known = ", ".join(f"{reader.FORMAT} ({', '.join(reader.SUFFIXES)})" for reader in readers())
    raise InputError(f"{path} is broken or of a format that is not known here (known: {known})")


def _recognises(reader: Reader, path: Path) -> bool:
    try:
        return reader.recognises(path)
    except OSError:
        raise
    except Exception:
        # h5py raises nearly anything where the tables of a damaged file are looked through.
        return False


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


def read_volumes(path: str | Path, hints: Hints | None = None) -> tuple[RawVolume, ...]:
    """Open the raw volumes of a file, whatever its format: one, or several where the hints ask for them.

    Args:
        path: the file that stands for the volumes.
        hints: what the file does not say, or says wrongly; a JSON file beside the raw one goes before them.
    """
    path = Path(path)
    reader = open_reader(path)
    known = hints_for(path, hints)
    beside = path.with_name(path.name + ".json")
    if known.axes and beside.is_file() and reader.FORMAT != "numpy" and hints_for(path).axes:
        raise InputError(f"{beside}: axes are those of a .npy file, and {path.name} is {reader.FORMAT}")
    # Formats with several volumes per file have it, and no ``read``.
    read_all = getattr(reader, "read_all", None)
    return (reader.read(path, known),) if read_all is None else tuple(read_all(path, known))


def read_volume(path: str | Path, hints: Hints | None = None, name: str | None = None) -> RawVolume:
    """Open one raw volume, whatever its format.

    Args:
        path: the file that stands for the volume.
        hints: as for ``read_volumes``.
        name: of the volume, where the file holds several.

    Raises:
        InputError: the file holds several volumes, or none of that name.
    """
    found = read_volumes(path, hints)
    for one in found:
        if one.name == name or (name is None and len(found) == 1):
            return one
    names = ", ".join(one.name for one in found)
    raise InputError(
        f"{path} holds {'the volumes' if len(found) > 1 else 'the volume'} {names}"
        + ("; name one" if name is None else f", and none named {name}")
    )
