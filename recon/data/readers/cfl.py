"""Reads BART's pairs of ``.cfl`` (samples, column-major complex64) and ``.hdr`` (dimensions, as text)."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data.readers.hybrid import Scan, slices_of
from recon.data.readers.raw import Hints, RawVolume, check_shape, headless, parsing
from recon.errors import InputError

FORMAT = "cfl"
SUFFIXES = (".cfl",)

READ, PHASE, PHASE_2, COIL, SLICE = 0, 1, 2, 3, 13
"""BART's numbers of the dimensions that a volume may have."""
ECHO = 5
REPETITIONS = {10: "rep", 14: "avg"}
"""BART's numbers of the dimensions that repeat an image (time, averages), and how the volumes are named by them."""
MOST_DIMENSIONS = 16


def recognises(path: Path) -> bool:
    """Whether this is the samples' half of a pair."""
    return path.suffix.lower() == ".cfl"


def read_all(path: Path, hints: Hints) -> tuple[RawVolume, ...]:
    """Read the dimensions of a BART file.

    Dimension 0 is the readout, 1 the phase encoding, 3 the coils, and 13 the slices. Where dimension 2 is a second
    phase encoding, the scan is three-dimensional: it is transformed along the readout into slices, and where dimension
    0 is 1, someone did so and kept a slice. Echoes (5), times (10) and averages (14) are images of their own. Padding
    and mask are the zeros, where hints say nothing; the task is the file's name, unless hints or the caller name one.

    Raises:
        InputError: no header, other dimensions, a size that the header does not give, or several images where the
            hints do not say what to do with them.
    """
    beside = path.with_suffix(".hdr")
    sizes = _sizes(path, beside)
    several = [number for number in (ECHO, *REPETITIONS) if sizes[number] > 1]
    if several and hints.images == "one":
        names = " and ".join(f"{sizes[number]} in dimension {number}" for number in several)
        raise InputError(
            f"{beside}: it holds several images ({names}); --images volumes makes each a volume, --images average "
            "averages repetitions"
        )
    if hints.images == "average":
        several = [number for number in several if number == ECHO]
    found = []
    for places in product(*(range(sizes[number]) for number in several)):
        found.append(_volume(path, beside, sizes, dict(zip(several, places, strict=True)), hints))
    return tuple(found)


def _volume(path: Path, beside: Path, sizes: list[int], image: dict[int, int], hints: Hints) -> RawVolume:
    """One image of the file: its place in each dimension that tells images apart; others of these are averaged."""
    three_dimensional = sizes[PHASE_2] > 1

    def samples(position: int, coil: int | slice) -> NDArray[np.complex64]:
        """Read, phase, second phase and coil of one slice, the image's own."""
        whole = np.memmap(path, "<c8", "r", shape=tuple(sizes), order="F")
        where: list[Any] = [slice(None)] * MOST_DIMENSIONS
        for number, place in image.items():
            where[number] = slice(place, place + 1)
        where[SLICE] = slice(position, position + 1)
        where[COIL] = coil if isinstance(coil, slice) else slice(coil, coil + 1)
        return np.asarray(whole[tuple(where)].mean(axis=tuple(range(COIL + 1, MOST_DIMENSIONS)), dtype=np.complex64))

    if three_dimensional and sizes[READ] > 1:
        rows, columns = sizes[PHASE], sizes[PHASE_2]
        slices = slices_of(sizes[READ], hints.oversampling)
        # Of the readout, which are the slices here.
        hints = hints.model_copy(update={"oversampling": None})
        load = Scan((sizes[READ], sizes[COIL], rows, columns), slices, lambda coil: samples(0, coil)[..., 0]).load
    else:
        rows, columns = (sizes[PHASE], sizes[PHASE_2]) if three_dimensional else (sizes[READ], sizes[PHASE])
        slices = sizes[SLICE]

        def load(position: int) -> NDArray[np.complex64]:
            one = samples(position, slice(None))
            return (one[0] if three_dimensional else one[:, :, 0]).transpose(2, 0, 1)

    check_shape(path, (sizes[COIL], rows, columns))
    names = [f"{'echo' if number == ECHO else REPETITIONS[number]}{place + 1}" for number, place in image.items()]
    return headless(
        path,
        (slices, sizes[COIL], rows, columns),
        load,
        hints.model_copy(update={"task": _task(hints.task, image)}),
        format=FORMAT,
        name="_".join([path.stem, *names]),
        task=_task(path.stem, image) or path.stem,
        files=(path, beside),
        patient=path.stem,
        phase_encodings=2 if three_dimensional else 1,
    )


def _task(name: str | None, image: dict[int, int]) -> str | None:
    """The task's name with the echo's number, if there are several."""
    return f"{name}-echo{image[ECHO] + 1}" if name and ECHO in image else name


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
        if size > 1 and number not in (READ, PHASE, PHASE_2, COIL, ECHO, *REPETITIONS, SLICE):
            raise InputError(
                f"{header}: dimension {number} is {size}; a volume has a readout (0), phase encodings (1, 2), coils "
                "(3) and slices (13), and with --images volumes echoes (5), times (10) and averages (14)"
            )
    if sizes[PHASE_2] > 1 and sizes[READ] > 1 and sizes[SLICE] > 1:
        raise InputError(
            f"{header}: dimensions 2 and 13 are {sizes[PHASE_2]} and {sizes[SLICE]}; a three-dimensional scan has no "
            "further slices"
        )
    expected, found = 8 * int(np.prod(sizes, dtype=object)), path.stat().st_size
    if expected != found:
        raise InputError(f"{path}: it has {found} bytes, where {header.name} gives {expected}; is the file whole?")
    return sizes
