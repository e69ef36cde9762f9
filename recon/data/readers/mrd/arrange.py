"""An image of an ISMRMRD file as a volume: a stack of slices, or a slab with two phase encodings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon.data.readers import header
from recon.data.readers.mrd import orientation
from recon.data.readers.mrd.calibration import lay_over
from recon.data.readers.mrd.hybrid import Slab
from recon.data.readers.mrd.placing import Line, axis_of, common_steps, place, read_slice
from recon.data.readers.mrd.scan import Image
from recon.data.readers.raw import Geometry, is_solid, parsing
from recon.errors import InputError

Load = Callable[[int], NDArray[np.complex64]]


@dataclass(frozen=True)
class Layout:
    """What an image's samples are once they are placed."""

    slices: int
    rows: int
    columns: int
    image_rows: int
    padding: tuple[int, int]
    crop: tuple[int, int]
    mask: NDArray[np.bool_] | None
    load: Load
    load_calibration: Load | None
    geometry: Geometry | None


def stack(image: Image) -> tuple[Layout, list[str]]:
    """Slices with one phase encoding.

    The lines are those that at least half of the slices have. A slice that lacks some has zeros there.
    """
    path, encoding, hints = image.file.path, image.encoding, image.file.hints
    heads, count = image.heads, image.slices.counters.size
    slices, steps = image.slices.of(heads["idx"]["slice"]), heads["idx"]["kspace_encode_step_1"].astype(np.int64)
    common, lacks = common_steps(slices, steps)
    short = np.flatnonzero(lacks)
    if not common.size:
        raise InputError(f"{path}: its {count} slices have no lines in common; a volume has the same lines in each")
    if 2 * short.size > count:
        raise InputError(
            f"{path}: slice {short[0]} has {common.size - lacks[short[0]]} of {common.size} lines "
            f"({short.size} such slices in all); is the file whole?"
        )
    axis = axis_of(path, encoding, 1, common, hints.padding)
    axes = axis, Line(1, -int(heads["idx"]["kspace_encode_step_2"][0]))
    kept = np.isin(steps, common)
    placed = place(path, image.file.group, heads[kept], image.numbers[kept], slices[kept], image.rows, axes)
    there = np.zeros(axis.size, bool)
    there[common + axis.first] = True
    left, right = int(there.argmax()), int(there[::-1].argmax())
    calibration, note = lay_over(image, axes)
    image_rows = image.image_rows

    def load(position: int) -> NDArray[np.complex64]:
        found = read_slice(placed, position)
        return np.zeros(placed.shape[:3], np.complex64) if found is None else found

    def load_calibration(position: int) -> NDArray[np.complex64]:
        assert calibration is not None
        with parsing(path, f"the calibration of slice {position} cannot be read"):
            found = read_slice(calibration, position)
        if found is None:
            raise InputError(f"{path}: slice {position} has no lines that were acquired for calibration")
        return found

    layout = Layout(
        slices=count,
        rows=image.rows,
        columns=axis.size,
        image_rows=image_rows,
        padding=(left, right),
        crop=image.crop(
            header.crop(encoding, header.image_rows(encoding, image.rows), axis.size), (image_rows, axis.size)
        ),
        mask=None if there[left : axis.size - right].all() else there,
        load=load,
        load_calibration=None if calibration is None else load_calibration,
        geometry=orientation.of_slices(encoding, image.slices, image.rows, image_rows, axis.size),
    )
    rare = np.unique(steps[~kept]).size
    return layout, [
        axis.note,
        note,
        f"{rare} lines that fewer than half of its slices have are left out" if rare else "",
    ]


def slab(image: Image) -> tuple[Layout, list[str]]:
    """A slab with two phase encodings: slices along the readout."""
    path, encoding, hints = image.file.path, image.encoding, image.file.hints
    if image.slices.counters.size > 1:
        raise InputError(
            f"{path}: it has a second phase encoding and {image.slices.counters.size} slabs; split it into one each"
        )
    heads, slices = image.heads, image.image_rows
    idx, one = heads["idx"], np.zeros(image.numbers.size, np.int64)
    axes = (
        axis_of(path, encoding, 1, idx["kspace_encode_step_1"], None),
        axis_of(path, encoding, 2, idx["kspace_encode_step_2"], hints.padding),
    )
    rows, columns = (axis.size for axis in axes)
    placed = place(path, image.file.group, heads, image.numbers, one, image.rows, axes)
    there = np.zeros((rows, columns), bool)
    there[placed.line, placed.partition] = True
    acquired = np.asarray(there.any(axis=0))
    calibration, note = lay_over(image, axes)
    by_header = header.crop_along(encoding, "y", rows), header.crop_along(encoding, "z", columns)
    layout = Layout(
        slices=slices,
        rows=rows,
        columns=columns,
        image_rows=rows,
        padding=(int(acquired.argmax()), int(acquired[::-1].argmax())),
        crop=image.crop(by_header, (rows, columns)),
        mask=None if is_solid(there) else there,
        load=Slab(placed, slices).read_slice,
        load_calibration=None if calibration is None else Slab(calibration, slices).read_slice,
        geometry=orientation.of_slab(encoding, image.slices, image.rows, (slices, rows, columns)),
    )
    return layout, [*(axis.note for axis in axes), note]
