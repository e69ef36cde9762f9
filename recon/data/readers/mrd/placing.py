"""Where the readouts of an ISMRMRD file lie in k-space: by their heads, the header, and hints where those overrule it.

Converters and vendors do not agree on what a header holds. What is taken from where stands at the functions below; what
a user should know of it becomes a note.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import ismrmrd
import numpy as np
from numpy.typing import NDArray

from recon.data.readers import header
from recon.data.readers.mrd.heads import flagged, samples_of
from recon.errors import InputError

FAR = 1 / 8
"""A centre sample further from the middle of a whole readout, in parts of its length, is not believed."""
WIDEST = 2
"""Lines beyond this many times the encoded matrix are a damaged header."""
SPARSEST = 4
"""A readout of less than one in so many of the encoded samples is a damaged header."""
FULL_SIDE = 0.9
"""A partial echo has at least this part of the samples on the side that is not cut off."""


@dataclass(frozen=True)
class Line:
    """An axis of phase encoding.

    Attributes:
        size: samples, those that were never acquired included.
        first: sample that step 0 lies at; may be negative.
        note: what a user should know; may be empty.
    """

    size: int
    first: int
    note: str = ""


@dataclass(frozen=True, eq=False)
class Placed:
    """Readouts, slice by slice and within a slice in the file's order, and where their samples go.

    Attributes:
        path, group: where they are stored.
        number: their places in the file.
        slice: from 0.
        line, partition: sample along the first and the second phase encoding.
        turned: whether they run in the reverse direction.
        stored: samples with those to discard.
        lead: samples before the first that is kept, after turning.
        samples: how many are kept.
        row: where the first that is kept goes.
        shape: coils, rows (samples along the readout), lines, partitions.
        starts: for each slice, which of these readouts is its first; and their number at the end.
    """

    path: Path
    group: str
    number: NDArray[np.int64]
    slice: NDArray[np.int64]
    line: NDArray[np.int64]
    partition: NDArray[np.int64]
    turned: NDArray[np.bool_]
    stored: NDArray[np.int64]
    lead: NDArray[np.int64]
    samples: NDArray[np.int64]
    row: NDArray[np.int64]
    shape: tuple[int, int, int, int]
    starts: NDArray[np.int64]

    def into(self, target: NDArray[np.complex64], place: int, numbers: Any) -> None:
        """Add one readout's samples, read from the file as ``numbers``, to its row of ``target``, (coils, rows)."""
        coils = self.shape[0]
        samples = samples_of(self.path, numbers, coils, int(self.number[place]), int(self.stored[place]))
        if self.turned[place]:
            samples = samples[:, ::-1]
        lead, count, row = self.lead[place], self.samples[place], self.row[place]
        # Samples of a damaged file need not be numbers; whoever checks the slices says so.
        with np.errstate(invalid="ignore", over="ignore"):
            target[:, row : row + count] += samples[:, lead : lead + count]


def rows_of(path: Path, encoding: Any, heads: Any) -> tuple[int, str]:
    """Samples along the readout when nothing of it is missing, and a note where the header says otherwise.

    It is the encoded matrix, unless the most frequent readout tells that this is the base resolution (then it is a
    whole multiple), or that a converter removed the oversampling and left the header as it was.

    Raises:
        InputError: the readouts are much shorter than the encoded matrix.
    """
    encoded = int(encoding.encodedSpace.matrixSize.x)
    _, samples, middle, said = _middles(heads)
    kinds, counts = np.unique(np.stack([samples, middle, said], axis=1), axis=0, return_counts=True)
    length, centre, is_said = (int(one) for one in kinds[counts.argmax()])
    if not is_said or not 0 <= centre < length:
        centre = length // 2
    longest = int(samples.max())
    if encoded > SPARSEST * max(longest, 1):
        raise InputError(
            f"{path}: its longest readout has {longest} samples, encodedSpace {encoded}; "
            "number_of_samples and encodedSpace do not fit"
        )
    if length <= encoded:
        if length < encoded and abs(centre - length // 2) <= 1 and header.oversampling_is_off(encoding, length):
            return length, (
                f"its readouts have {length} samples, as many as are left of the encoded {encoded} without readout "
                "oversampling; that counts as removed already"
            )
        return encoded, ""
    side = max(centre, length - centre)
    times = length // encoded if length % encoded == 0 else -(-2 * side // encoded)
    rows = times * encoded
    if length != rows and not FULL_SIDE * rows <= 2 * side <= rows:
        return encoded, ""
    return rows, (
        f"its readouts belong to {rows} samples, where encodedSpace says {encoded}; that counts as its base "
        f"resolution, and {header.image_rows(encoding, rows)} rows of the image remain"
    )


def axis_of(path: Path, encoding: Any, which: Literal[1, 2], steps: Any, padding: tuple[int, int] | None) -> Line:
    """An axis of phase encoding: the header's centre step lies at encoded samples // 2.

    Lines that lie beyond the encoded matrix widen k-space about its centre: a finer resolution, the same field of view.

    Args:
        path: the file, for errors.
        encoding: of the image.
        which: first or second phase encoding.
        steps: the steps that were acquired.
        padding: samples never acquired before the first and after the last step, where hints say so.

    Raises:
        InputError: the lines lie far beyond the encoded matrix, or somewhere beyond it while its centre is not known.
    """
    name = "y" if which == 1 else "z"
    encoded = getattr(encoding.encodedSpace.matrixSize, name)
    if not isinstance(encoded, int) or encoded < 1:
        raise InputError(f"{path}: encodedSpace of its ISMRMRD header has no matrixSize along {name}")
    low, high = int(steps.min()), int(steps.max())
    if padding is not None:
        return Line(padding[0] + high - low + 1 + padding[1], padding[0] - low)
    centre = header.centre_step(path, encoding, which)
    first = 0 if centre is None else encoded // 2 - centre
    beyond = max(0, -(first + low), first + high + 1 - encoded)
    if not beyond:
        return Line(encoded, first)
    size = encoded + 2 * beyond
    if centre is None or size > WIDEST * encoded:
        raise InputError(
            f"{path}: its lines lie at columns {first + low} to {first + high} of {encoded}; "
            f"kspace_encode_step_{which}, its centre and encodedSpace do not fit"
        )
    return Line(
        size,
        first + beyond,
        f"its lines of phase encoding {which} reach beyond the encoded {encoded}: k-space is widened to {size} about "
        "its centre; is the centre right?",
    )


def common_steps(slices: NDArray[np.int64], steps: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The steps that at least half of the slices have, and how many of them each slice lacks.

    Args:
        slices: of each readout, from 0 without gaps.
        steps: of each readout.

    Returns:
        Steps in their order, and (slices,) counts.
    """
    pairs = np.unique(np.stack([slices, steps], axis=1), axis=0)
    count = int(slices.max()) + 1
    found, times = np.unique(pairs[:, 1], return_counts=True)
    common = found[2 * times >= count]
    there = np.bincount(pairs[np.isin(pairs[:, 1], common), 0], minlength=count)
    return common, common.size - there


def place(
    path: Path,
    group: str,
    heads: Any,
    numbers: NDArray[np.int64],
    slices: NDArray[np.int64],
    rows: int,
    axes: tuple[Line, Line],
) -> Placed:
    """Where each readout of the image goes. Its slice, line and partition must lie inside.

    The sample that the head calls the centre lies at row rows // 2. A whole readout whose centre sample is 0 or far
    from its middle is placed by its length (some converters leave it 0). A reversed readout of even length has its
    centre one sample off, so a sample of it falls outside.

    Args:
        path, group: as in ``Placed``.
        heads: of these readouts.
        numbers: their places in the file.
        slices: of each readout.
        rows: samples along the readout.
        axes: of both phase encodings.

    Raises:
        InputError: naming a readout that does not fit into the rows.
    """
    turned, samples, middle, said = _middles(heads)
    whole, near = samples == rows, said & (np.abs(middle - rows // 2) <= FAR * rows)
    row = np.where(whole & ~near, 0, rows // 2 - middle)
    outside = np.maximum(0, -row) + np.maximum(0, row + samples - rows)
    off = (samples < 1) | (outside > np.where(whole, rows, turned))
    if off.any():
        worst = int(np.flatnonzero(off)[0])
        raise InputError(
            f"{path}: readout {numbers[worst]} puts {samples[worst]} samples from row {row[worst]} into {rows}; "
            "number_of_samples, center_sample and encodedSpace do not fit"
        )
    return _placed(path, group, heads, numbers, slices, (row, samples, turned), rows, axes)


def place_calibration(
    path: Path,
    group: str,
    heads: Any,
    numbers: NDArray[np.int64],
    slices: NDArray[np.int64],
    rows: int,
    axes: tuple[Line, Line],
) -> Placed:
    """Where readouts for calibration go, which may have another length than the image's: by their own centre.

    Arguments are those of ``place``. What lies outside is left out.
    """
    turned, samples, middle, said = _middles(heads)
    whole = samples == rows
    believed = said & np.where(
        whole, np.abs(middle - rows // 2) <= FAR * rows, (middle >= 0) & (middle < np.maximum(samples, 1))
    )
    row = rows // 2 - np.where(believed, middle, samples // 2)
    steps = heads["idx"]["kspace_encode_step_1"], heads["idx"]["kspace_encode_step_2"]
    inside = (samples > 0) & (row < rows) & (row + samples > 0)
    for step, axis in zip(steps, axes, strict=True):
        at = step.astype(np.int64) + axis.first
        inside &= (at >= 0) & (at < axis.size)
    kept = np.flatnonzero(inside)
    where = row[kept], samples[kept], turned[kept]
    return _placed(path, group, heads[kept], numbers[kept], slices[kept], where, rows, axes)


def _middles(heads: Any) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Of each readout: whether it is reversed, its samples without those to discard, which of them is the centre (after
    turning), and whether the head says so."""
    pre, post = heads["discard_pre"].astype(np.int64), heads["discard_post"].astype(np.int64)
    samples = heads["number_of_samples"].astype(np.int64) - pre - post
    turned = flagged(heads["flags"], ismrmrd.ACQ_IS_REVERSE)
    middle = heads["center_sample"].astype(np.int64) - pre
    return turned, samples, np.where(turned, samples - 1 - middle, middle), heads["center_sample"] > 0


def _placed(
    path: Path,
    group: str,
    heads: Any,
    numbers: NDArray[np.int64],
    slices: NDArray[np.int64],
    where: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]],
    rows: int,
    axes: tuple[Line, Line],
) -> Placed:
    """The readouts in the order of slices, with what falls outside of the rows cut off."""
    row, samples, turned = where
    begin, end = np.maximum(row, 0), np.minimum(row + samples, rows)
    before = np.where(turned, heads["discard_post"], heads["discard_pre"]).astype(np.int64)
    order = np.argsort(slices, kind="stable")
    idx, count = heads["idx"][order], int(slices.max(initial=-1)) + 1
    return Placed(
        path=path,
        group=group,
        number=numbers[order],
        slice=slices[order],
        line=idx["kspace_encode_step_1"].astype(np.int64) + axes[0].first,
        partition=idx["kspace_encode_step_2"].astype(np.int64) + axes[1].first,
        turned=turned[order],
        stored=heads["number_of_samples"][order].astype(np.int64),
        lead=(before + begin - row)[order],
        samples=(end - begin)[order],
        row=begin[order],
        shape=(int(heads["active_channels"][0]) if len(heads) else 0, rows, axes[0].size, axes[1].size),
        starts=np.searchsorted(slices[order], np.arange(count + 1)),
    )


def read_slice(placed: Placed, position: int) -> NDArray[np.complex64] | None:
    """One slice, (coils, rows, lines); several readouts of a line are averaged. None where it has no readouts."""
    coils, rows, lines, _ = placed.shape
    if position + 1 >= placed.starts.size or placed.starts[position] == placed.starts[position + 1]:
        return None
    chosen = np.arange(placed.starts[position], placed.starts[position + 1])
    # Lines first, so that a readout is added to neighbours in memory.
    kspace = np.zeros((lines, coils, rows), np.complex64)
    # Of each sample and not of each line: one average may be a partial echo where another is whole.
    times = np.zeros((lines, rows), np.float32)
    with h5py.File(placed.path, "r") as file:
        found = file[placed.group]["data"].fields("data")[placed.number[chosen]]
    for index, numbers in zip(chosen, found, strict=True):
        line, row = placed.line[index], placed.row[index]
        placed.into(kspace[line], int(index), numbers)
        times[line, row : row + placed.samples[index]] += 1
    kspace /= np.maximum(times, 1)[:, None]
    return np.ascontiguousarray(kspace.transpose(1, 2, 0))
