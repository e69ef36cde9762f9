"""Reads BART's pairs of ``.cfl`` (samples, column-major complex64) and ``.hdr`` (dimensions, as text)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.data.readers.raw import Hints, RawVolume, headless, parsing
from recon.errors import InputError

FORMAT = "cfl"
SUFFIXES = (".cfl",)

READ, PHASE, PHASE_2, COIL, SLICE = 0, 1, 2, 3, 13
"""BART's numbers of the dimensions that a volume of slices may have."""
MOST_DIMENSIONS = 16


def recognises(path: Path) -> bool:
    """Whether this is the samples' half of a pair."""
    return path.suffix.lower() == ".cfl"


def read(path: Path, hints: Hints) -> RawVolume:
    """Read the dimensions of a BART file.

    Dimension 0 is the readout, 1 the phase encoding, 3 the coils, and 13 the slices. Padding and mask are columns of
    zeros, where hints say nothing; the task is the file's name, unless hints or the caller name one.

    Raises:
        InputError: no header, more dimensions than a volume of slices has, or a size that the header does not give.
    """
    beside = path.with_suffix(".hdr")
    sizes = _sizes(path, beside)
    slices, coils, rows, columns = sizes[SLICE], sizes[COIL], sizes[READ], sizes[PHASE]

    def load(position: int) -> NDArray[np.complex64]:
        # Column-major: slices last, so that one slice is one stretch of the file.
        count = rows * columns * coils
        flat = np.fromfile(path, np.complex64, count, offset=8 * count * position)
        return flat.reshape(coils, columns, rows).swapaxes(1, 2)

    return headless(
        path,
        (slices, coils, rows, columns),
        load,
        hints,
        format=FORMAT,
        name=path.stem,
        task=path.stem,
        files=(path, beside),
    )


def _sizes(path: Path, header: Path) -> list[int]:
    """The sixteen sizes that the header gives, checked against the samples' file."""
    if not header.is_file():
        raise InputError(f"{path}: {header.name} with its dimensions is missing")
    with parsing(header):
        with header.open(encoding="utf-8") as file:
            lines = file.read(65536).splitlines()
        words = next((line for line in lines if line.strip() and not line.startswith("#")), "").split()
        sizes = [int(word) for word in words]
    if not 2 <= len(sizes) <= MOST_DIMENSIONS or min(sizes, default=0) < 1:
        raise InputError(f"{header}: its dimensions are {' '.join(words)[:200]}; 2 to 16 sizes from 1 are expected")
    sizes += [1] * (MOST_DIMENSIONS - len(sizes))
    for number, size in enumerate(sizes):
        if size > 1 and number not in (READ, PHASE, COIL, SLICE):
            raise InputError(
                f"{header}: dimension {number} is {size}; a volume of slices has a readout (0), phase encoding (1), "
                "coils (3) and slices (13)"
                + ("; three-dimensional data cannot be prepared" if number == PHASE_2 else "")
            )
    expected, found = 8 * int(np.prod(sizes, dtype=object)), path.stat().st_size
    if expected != found:
        raise InputError(f"{path}: it has {found} bytes, where {header.name} gives {expected}; is the file whole?")
    return sizes
