"""The settings of a simulated data set, which each of its volumes says; and a folder that takes no others.

Volumes of one subject and contrast have one name whatever the settings. So a run with other settings would replace some
volumes of a folder and leave the others, and nothing would show it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import h5py

from recon.data import readers
from recon.data.readers.raw import SIMULATION, parsing
from recon.errors import InputError


@dataclass(frozen=True)
class Settings:
    """What all volumes of a data set have in common: everything but subject, contrast and file format.

    As a text: ``simulator=2 matrix=320 …``, the ``simulation`` of a raw volume.
    """

    simulator: int
    """Version of the simulator."""
    matrix: int
    slices: int
    coils: int
    snr: float
    seed: int
    field_of_view_mm: float
    phase_lines: int

    def __str__(self) -> str:
        return " ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))


def refuse_others(out: Path, settings: Settings, format: str) -> None:
    """Check that a folder's raw volumes, if there are any, are of these settings and this format.

    Raises:
        InputError: for one that is not, or that does not say; names the file and what differs.
    """
    for path, reader in _volumes(out):
        said = _settings_of(path)
        if not said:
            raise InputError(f"{out} holds {path}, which says no settings of this simulator; give another folder")
        other = _differences(said, str(settings))
        if reader != format:
            other.append(f"format={reader} in place of {format}")
        if other:
            raise InputError(
                f"{out} holds volumes of other settings, such as {path} of {', '.join(other)}; give another folder, "
                "or the same settings"
            )


def _volumes(out: Path) -> Iterator[tuple[Path, str]]:
    """Raw volumes in a folder, each with the name of its format; other files, and those that are damaged, are none."""
    files = [path for path in sorted(out.rglob("*")) if path.suffix.lower() in readers.suffixes() and path.is_file()]
    shown = [path for path in files if not any(part.startswith(".") for part in path.relative_to(out).parts)]
    for path in readers.volumes(shown):
        for reader in readers.readers():
            if reader.recognises(path):
                yield path, reader.FORMAT
                break


def _settings_of(path: Path) -> str:
    """The settings as a file says them, or the hints beside it; nothing where none does."""
    hint = readers.hints_for(path).simulation
    if hint or not h5py.is_hdf5(path):
        return hint or ""
    with parsing(path), h5py.File(path, "r") as file:
        return str(file.attrs.get(SIMULATION, ""))


def _differences(found: str, wanted: str) -> list[str]:
    """Settings that two texts do not share, as ``matrix=48 in place of 32``."""
    there, due = (dict(word.partition("=")[::2] for word in text.split()) for text in (found, wanted))
    return [
        f"{name}={there.get(name, 'unknown')} in place of {due.get(name, 'none')}"
        for name in {**due, **there}
        if there.get(name) != due.get(name)
    ]
