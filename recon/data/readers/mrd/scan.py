"""An ISMRMRD file whose heads were read, and one of its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data.readers import header
from recon.data.readers.drawn import DrawnNoise
from recon.data.readers.mrd.heads import Roles
from recon.data.readers.mrd.orientation import Slices
from recon.data.readers.raw import Hints
from recon.errors import InputError


@dataclass(frozen=True)
class File:
    """An ISMRMRD file: its header, and the heads of its readouts."""

    path: Path
    group: str
    document: Any
    heads: Any
    roles: Roles
    simulated_noise: DrawnNoise | None
    simulation: str
    hints: Hints


@dataclass(frozen=True)
class Image:
    """One image of a file: its readouts' numbers, and what its header says of them."""

    file: File
    encoding: Any
    numbers: NDArray[np.int64]
    calibration: NDArray[np.int64]
    rows: int
    slices: Slices

    @property
    def heads(self) -> Any:
        """Of its readouts."""
        return self.file.heads[self.numbers]

    @property
    def image_rows(self) -> int:
        """Samples along the readout that remain without its oversampling."""
        times = self.file.hints.oversampling
        return header.image_rows(self.encoding, self.rows) if times is None else max(1, round(self.rows / times))

    def crop(self, by_header: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """The hint's region, else the header's, no larger than the image."""
        rows, columns = self.file.hints.crop or by_header
        return min(rows, size[0]), min(columns, size[1])


def encoding_of(file: File, number: int) -> Any:
    """The header's encoding of this number, from 0.

    Raises:
        InputError: the header has no such encoding, or it is not Cartesian.
    """
    encodings = file.document.encoding
    if number >= len(encodings):
        raise InputError(f"{file.path}: readouts are of encoding {number}, its header has {len(encodings)}")
    trajectory = getattr(encodings[number].trajectory, "value", encodings[number].trajectory)
    if trajectory is not None and str(trajectory).lower() != "cartesian":
        raise InputError(f"{file.path}: its trajectory is {trajectory}; only Cartesian data can be prepared")
    return encodings[number]
