"""Lines of an ISMRMRD file that were acquired for calibration: which belong to an image, and where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recon.data.readers import header
from recon.data.readers.mrd.placing import Line, Placed, place_calibration, rows_of
from recon.data.readers.mrd.scan import File, Image, encoding_of
from recon.errors import InputError

SAME_FIELD = 0.01
"""Calibration in a field of view that differs by more cannot be laid over the image's samples."""


def calibration_of(file: File, keys: NDArray[np.int64], image: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the readouts that calibrate an image: its own, else the first ones there are."""
    numbers = file.roles.calibration
    if not numbers.size:
        return numbers
    own = (keys[numbers] == image).all(axis=1)
    if not own.any():
        own = (keys[numbers] == np.unique(keys[numbers], axis=0)[0]).all(axis=1)
    return numbers[own]


def lay_over(image: Image, axes: tuple[Line, Line]) -> tuple[Placed | None, str]:
    """The readouts for calibration over the image's samples, if there are any that fit, and a note if there are not.

    A separate scan may have an encoding of its own, and count its lines from 0. Where they lie along the phase
    encoding does not matter to coil maps: a shift of all coils alike cancels.
    """
    file, numbers = image.file, image.calibration
    if not numbers.size:
        return None, ""
    heads = file.heads[numbers]
    said = "its lines for calibration are left out: "
    if np.unique(heads["active_channels"]).tolist() != np.unique(image.heads["active_channels"]).tolist():
        return None, said + "they have another number of coils"
    encoding = image.encoding
    reference = int(heads["encoding_space_ref"][0])
    if reference != image.heads["encoding_space_ref"][0]:
        try:
            encoding = encoding_of(file, reference)
            fields = _fields(file.path, encoding, heads), _fields(file.path, image.encoding, image.heads)
        except InputError as error:
            return None, said + str(error).removeprefix(f"{file.path}: ")
        if any(abs(a - b) > SAME_FIELD * b for a, b in zip(*fields, strict=True) if a is not None and b is not None):
            return None, said + "their field of view is another"
    second = axes[1].size > 1
    slices = np.zeros(numbers.size, np.int64) if second else image.slices.of(heads["idx"]["slice"])
    kept = slices >= 0
    if not kept.any():
        return None, said + "they are of other slices"
    lines = (
        _own_line(file.path, encoding, 1, heads, axes[0], encoding is image.encoding),
        _own_line(file.path, encoding, 2, heads, axes[1], encoding is image.encoding),
    )
    placed = place_calibration(file.path, file.group, heads[kept], numbers[kept], slices[kept], image.rows, lines)
    return (placed, "") if placed.number.size else (None, said + "they lie outside of the image's samples")


def _fields(path: Path, encoding: Any, heads: Any) -> tuple[float | None, float | None]:
    """Fields of view in mm of all samples along readout and phase encoding, as far as the header says."""
    phase = header.fields(encoding, "y")
    return header.readout_field(encoding, rows_of(path, encoding, heads)[0]), None if phase is None else phase[0]


def _own_line(path: Path, encoding: Any, which: Literal[1, 2], heads: Any, axis: Line, same: bool) -> Line:
    """The image's axis as the calibration counts its steps."""
    steps = heads["idx"][f"kspace_encode_step_{which}"].astype(np.int64)
    low, high = int(steps.min()), int(steps.max())
    centre = None if same else header.centre_step(path, encoding, which)
    first = axis.first if centre is None else axis.size // 2 - centre
    if not first + low <= axis.size // 2 <= first + high:
        first = axis.size // 2 - (low + high + 1) // 2
    return Line(axis.size, first)
