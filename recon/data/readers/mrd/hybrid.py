"""Three-dimensional ISMRMRD scans: slices along the readout, after one Fourier transform of each readout.

Any slice needs all readouts, so a scan is transformed once, at the first slice that is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.data.readers.hybrid import scratch
from recon.data.readers.mrd.placing import Placed
from recon.data.readers.raw import parsing
from recon.data.volume_file import centre
from recon.physics.fourier import ifft

AT_ONCE = 64 * 1024**2
"""Bytes of readouts that are transformed at once."""


@dataclass(frozen=True, eq=False)
class Slab:
    """The readouts of a three-dimensional scan, and how many slices they give.

    Attributes:
        placed: its readouts, all of one slice.
        slices: central samples along the readout in image space that remain when its oversampling is removed.
    """

    placed: Placed
    slices: int

    def read_slice(self, position: int) -> NDArray[np.complex64]:
        """One slice, (coils, lines, partitions)."""
        (line, partition), samples = _transformed(self)
        coils, _, lines, partitions = self.placed.shape
        kspace = np.zeros((coils, lines, partitions), np.complex64)
        part = samples[position]
        kspace[:, line : line + part.shape[1], partition : partition + part.shape[2]] = part
        return kspace


# Two: the image, and its calibration.
@lru_cache(maxsize=2)
def _transformed(slab: Slab) -> tuple[tuple[int, int], NDArray[np.complex64]]:
    """First line and partition of what was acquired, and its samples, (slices, coils, lines, partitions)."""
    placed = slab.placed
    coils, rows, _, _ = placed.shape
    corner = int(placed.line.min()), int(placed.partition.min())
    line, partition = placed.line - corner[0], placed.partition - corner[1]
    size = int(line.max()) + 1, int(partition.max()) + 1
    # The transform is linear, so readouts of one place are divided by their number beforehand, sample by sample.
    times = np.zeros((*size, rows), np.uint16)
    for one, other, begin, count in zip(line, partition, placed.row, placed.samples, strict=True):
        times[one, other, begin : begin + count] += 1
    repeat = _repeats(line * size[1] + partition)
    out = scratch((slab.slices, coils, *size))
    kept = centre((rows, 1), (slab.slices, 1))[0]
    step = max(1, AT_ONCE // (8 * coils * rows))
    with parsing(placed.path, "its readouts cannot be read"), h5py.File(placed.path, "r") as file:
        data = file[placed.group]["data"].fields("data")
        for start in range(0, placed.number.size, step):
            chosen = np.arange(start, min(start + step, placed.number.size))
            block = np.zeros((chosen.size, coils, rows), np.complex64)
            for target, index, numbers in zip(block, chosen, data[placed.number[chosen]], strict=True):
                placed.into(target, int(index), numbers)
            block /= np.maximum(times[line[chosen], partition[chosen]], 1)[:, None]
            with np.errstate(over="ignore", invalid="ignore"):
                image = np.ascontiguousarray(ifft(block, (-1,))[..., kept].transpose(2, 1, 0))
            # Adding through an index adds one of several that are alike, so each repeat has its turn.
            for turn in np.unique(repeat[chosen]):
                now = np.flatnonzero(repeat[chosen] == turn)
                at = slice(None), line[chosen[now]], partition[chosen[now]]
                for whole, part in zip(out, image[..., now], strict=True):
                    whole[at] = part if turn == 0 else whole[at] + part
    return corner, out


def _repeats(place: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many readouts before each one have its place."""
    order = np.argsort(place, kind="stable")
    first = np.searchsorted(place[order], place[order])
    repeats = np.empty(place.size, np.int64)
    repeats[order] = np.arange(place.size) - first
    return repeats
