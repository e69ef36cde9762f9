"""Reads ISMRMRD HDF5 (Inati et al. 2017, Magn Reson Med 77:411-421): 2-D Cartesian multislice raw data.

mridata.org serves this format, and the converters of the vendors' formats write it. The heads of all readouts are read
at once, the samples slice by slice. A readout's flags say what it is for. Noise scans are kept for prewhitening.
Navigators, phase correction, readouts for calibration alone and the like are skipped. Readouts of the reverse direction
are reversed, and averages are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
from ismrmrd.hdf5 import acquisition_header_dtype
from numpy.typing import NDArray

from recon.data.readers import drawn, header
from recon.data.readers.raw import Hints, RawVolume, parsing, usual_task
from recon.errors import InputError

FORMAT = "ismrmrd"
SUFFIXES = (".h5", ".hdf5", ".mrd", ".ismrmrd")

MOST_READOUTS = 2**23
"""More than this is a damaged file: 8 million readouts are a day's scanning."""
CHUNK = 4096
"""Heads read at once."""
NOISE_SAMPLES = 2**20
"""The most samples per coil from which a noise covariance is estimated."""

_NOT_THE_IMAGE = (
    ismrmrd.ACQ_IS_NOISE_MEASUREMENT,
    ismrmrd.ACQ_IS_NAVIGATION_DATA,
    ismrmrd.ACQ_IS_PHASECORR_DATA,
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
    ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION,
    ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
)
_ONE_OF_EACH = ("contrast", "phase", "repetition", "set")
"""Counters that tell images of a slice apart; a task's volume holds one."""
_HEAD = (
    "flags",
    "number_of_samples",
    "active_channels",
    "discard_pre",
    "discard_post",
    "center_sample",
    "sample_time_us",
    "encoding_space_ref",
    "position",
    "slice_dir",
    "idx",
)


@dataclass(frozen=True)
class _Readouts:
    """The readouts of the image, in the file's order, and where their samples go."""

    group: str
    number: NDArray[np.int64]
    """Place in the file."""
    slice: NDArray[np.int64]
    """Position of the slice, from 0, in the order of space."""
    column: NDArray[np.int64]
    turned: NDArray[np.bool_]
    pre: NDArray[np.int64]
    """Samples to discard before; as stored, before turning."""
    stored: NDArray[np.int64]
    """Samples with those to discard."""
    samples: NDArray[np.int64]
    """Samples that remain."""
    first_row: NDArray[np.int64]
    shape: tuple[int, int, int]
    """Coils, rows, columns."""


def recognises(path: Path) -> bool:
    """Whether the file is HDF5 with a group of readouts and an XML header."""
    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return _group(file) is not None
    except OSError:
        return False


def read(path: Path, hints: Hints) -> RawVolume:
    """Read header and heads of an ISMRMRD file; its header says more than hints do.

    A readout's line is its encoding step, moved so that the header's centre step lies at encoded columns // 2; rows and
    columns of zeros fill what partial Fourier or zero padding left out, and columns outside the acquired ones count
    as padding. Slices come in the order of their positions along the slice direction.

    Raises:
        InputError: not two-dimensional Cartesian, more than one image per slice, lines missing from a slice, or a
            field that does not fit; names the file.
    """
    with parsing(path), h5py.File(path, "r") as file:
        name = _group(file)
        assert name is not None  # ``recognises`` saw it
        document = file[name]["xml"][0]
        data = file[name]["data"]
        kind, count = data.dtype, int(data.size)
        drawn_noise = file[drawn.NAME][()] if drawn.NAME in file else None
    if kind.names is None or not {"head", "data"} <= set(kind.names) or not _has_fields(kind["head"]):
        raise InputError(f"{path}: {name}/data does not hold ISMRMRD readouts (its type is {kind})")
    if not 0 < count <= MOST_READOUTS:
        raise InputError(f"{path}: {name}/data holds {count} readouts, where 1 to {MOST_READOUTS} are expected")
    head = _heads(path, name, count)
    document = header.parse(path, document)
    image = np.flatnonzero(_is_image(head["flags"]))
    if not image.size:
        raise InputError(
            f"{path}: none of its {count} readouts is of an image (noise, navigators or calibration alone)"
        )
    encoding = _encoding(path, document, head[image])
    readouts = _place(path, name, encoding, head, image)
    coils, rows, columns = readouts.shape
    slices = int(readouts.slice.max()) + 1
    pad_left, pad_right, mask = _lines(path, readouts, slices)
    rows_of_image = header.image_rows(encoding, rows)
    recon = encoding.reconSpace.matrixSize
    acquisition = header.protocol(document) or "unnamed"
    own_name = path.name.removesuffix(path.suffix).removesuffix(".ismrmrd")
    noise = np.flatnonzero(_flagged(head["flags"], ismrmrd.ACQ_IS_NOISE_MEASUREMENT))

    def load(position: int) -> NDArray[np.complex64]:
        return _load(path, readouts, position)

    def load_noise() -> NDArray[np.complex64]:
        return _noise(path, name, noise, head, int(image[0]), coils)

    return RawVolume(
        path=path,
        name=own_name,
        format=FORMAT,
        acquisition=acquisition,
        task=usual_task(acquisition),
        patient=header.patient(document) or own_name,
        slices=slices,
        coils=coils,
        rows=rows,
        columns=columns,
        image_rows=rows_of_image,
        pad_left=pad_left,
        pad_right=pad_right,
        crop=(min(recon.x, rows_of_image), min(recon.y, columns)),
        mask=mask,
        load=load,
        files=(path,),
        load_noise=load_noise if noise.size else None,
        simulated_noise=drawn.parse(path, drawn_noise),
    )


def _group(file: h5py.File) -> str | None:
    for name, group in file.items():
        if isinstance(group, h5py.Group) and all(isinstance(group.get(one), h5py.Dataset) for one in ("xml", "data")):
            return str(name)
    return None


def _has_fields(head: np.dtype[Any]) -> bool:
    if head.names is None or not set(_HEAD) <= set(head.names):
        return False
    expected = acquisition_header_dtype
    counters = head["idx"].names or ()
    return set(expected["idx"].names or ()) <= set(counters) and all(
        head[one].shape == expected[one].shape and head[one].base.kind in "uif" for one in _HEAD if one != "idx"
    )


def _heads(path: Path, group: str, count: int) -> Any:
    """The fields of all heads that are used, read a chunk at a time: (count,) structured."""
    wanted = np.dtype([(one, acquisition_header_dtype[one]) for one in _HEAD])
    heads = np.empty(count, wanted)
    with parsing(path), h5py.File(path, "r") as file:
        field = file[group]["data"].fields("head")
        for start in range(0, count, CHUNK):
            part = field[start : start + CHUNK]
            for one in _HEAD:
                heads[one][start : start + CHUNK] = part[one]
    return heads


def _flagged(flags: NDArray[np.uint64], flag: int) -> NDArray[np.bool_]:
    # Flags are numbered from 1.
    return np.asarray(flags & np.uint64(1 << (flag - 1))).astype(bool)


def _is_image(flags: NDArray[np.uint64]) -> NDArray[np.bool_]:
    aside = np.zeros(flags.shape, bool)
    for flag in _NOT_THE_IMAGE:
        aside |= _flagged(flags, flag)
    calibration = _flagged(flags, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
    both = _flagged(flags, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
    return ~aside & ~(calibration & ~both)


def _encoding(path: Path, document: Any, heads: Any) -> Any:
    spaces = np.unique(heads["encoding_space_ref"])
    if spaces.size > 1:
        raise InputError(
            f"{path}: its image has readouts of {spaces.size} encodings ({', '.join(map(str, spaces))}); "
            "a volume holds one, so split the file"
        )
    if spaces[0] >= len(document.encoding):
        raise InputError(f"{path}: readouts are of encoding {spaces[0]}, its header has {len(document.encoding)}")
    encoding = document.encoding[int(spaces[0])]
    trajectory = getattr(encoding.trajectory, "value", encoding.trajectory)
    if trajectory is not None and str(trajectory).lower() != "cartesian":
        raise InputError(f"{path}: its trajectory is {trajectory}; only Cartesian data can be prepared")
    if np.unique(heads["idx"]["kspace_encode_step_2"]).size > 1:
        raise InputError(f"{path}: it is three-dimensional (a second phase encoding); only slices can be prepared")
    for counter in _ONE_OF_EACH:
        found = np.unique(heads["idx"][counter]).size
        if found > 1:
            raise InputError(f"{path}: it holds {found} images a slice, told apart by {counter}; split the file")
    return encoding


def _place(path: Path, group: str, encoding: Any, head: Any, image: NDArray[np.int64]) -> _Readouts:
    """Where each readout of the image goes."""
    heads = head[image]
    rows, columns = encoding.encodedSpace.matrixSize.x, encoding.encodedSpace.matrixSize.y
    coils = np.unique(heads["active_channels"])
    if coils.size > 1 or coils[0] == 0:
        raise InputError(
            f"{path}: its readouts have {', '.join(map(str, coils))} coils, where all have the same number"
        )
    pre, post = heads["discard_pre"].astype(np.int64), heads["discard_post"].astype(np.int64)
    stored = heads["number_of_samples"].astype(np.int64)
    samples = stored - pre - post
    turned = _flagged(heads["flags"], ismrmrd.ACQ_IS_REVERSE)
    middle = heads["center_sample"].astype(np.int64) - pre
    middle = np.where(turned, samples - 1 - middle, middle)
    # A whole readout needs no centre (some converters leave it 0); a partial echo is placed by it.
    first_row = np.where(samples == rows, 0, rows // 2 - middle)
    off = (samples < 1) | (first_row < 0) | (first_row + samples > rows)
    if off.any():
        worst = int(np.flatnonzero(off)[0])
        raise InputError(
            f"{path}: readout {image[worst]} puts {samples[worst]} samples from row {first_row[worst]} into {rows}; "
            "number_of_samples, center_sample and encodedSpace do not fit"
        )
    column = heads["idx"]["kspace_encode_step_1"].astype(np.int64) + header.first_column(path, encoding)
    if column.min() < 0 or column.max() >= columns:
        raise InputError(
            f"{path}: its lines lie at columns {column.min()} to {column.max()} of {columns}; "
            "kspace_encode_step_1, its centre and encodedSpace do not fit"
        )
    return _Readouts(
        group=group,
        number=image,
        slice=_slice_positions(heads),
        column=column,
        turned=turned,
        pre=pre,
        stored=stored,
        samples=samples,
        first_row=first_row,
        shape=(int(coils[0]), rows, columns),
    )


def _slice_positions(heads: Any) -> NDArray[np.int64]:
    """Each readout's slice, from 0, in the order of space where the heads give positions, else of the counter."""
    counters, first, inverse = np.unique(heads["idx"]["slice"], return_index=True, return_inverse=True)
    along = np.einsum("nd,nd->n", heads["position"][first].astype(float), heads["slice_dir"][first].astype(float))
    order = np.argsort(along, kind="stable")
    if np.isfinite(along).all() and (np.diff(along[order]) > 1e-3).all():
        place = np.empty(counters.size, np.int64)
        place[order] = np.arange(counters.size)
    else:
        place = np.arange(counters.size)
    return place[inverse.reshape(-1)]


def _lines(path: Path, readouts: _Readouts, slices: int) -> tuple[int, int, NDArray[np.bool_] | None]:
    """Padding and mask; every slice has the same lines."""
    columns = readouts.shape[2]
    kept = np.zeros((slices, columns), bool)
    kept[readouts.slice, readouts.column] = True
    union = np.asarray(kept.any(axis=0))
    short = np.flatnonzero(kept.sum(axis=1) < union.sum())
    if short.size:
        raise InputError(
            f"{path}: slice {short[0]} has {int(kept[short[0]].sum())} of {int(union.sum())} lines "
            f"({short.size} such slices in all); is the file whole?"
        )
    left, right = int(union.argmax()), int(union[::-1].argmax())
    return left, right, None if union[left : columns - right].all() else union


def _load(path: Path, readouts: _Readouts, position: int) -> NDArray[np.complex64]:
    """One slice, (coils, rows, columns); several readouts of a line are averaged."""
    coils, rows, columns = readouts.shape
    chosen = np.flatnonzero(readouts.slice == position)
    kspace = np.zeros((coils, rows, columns), np.complex64)
    # Of each sample and not of each line: one average may be a partial echo where another is whole.
    times = np.zeros((rows, columns), np.float32)
    with h5py.File(path, "r") as file:
        found = file[readouts.group]["data"].fields("data")[readouts.number[chosen]]
    for place, numbers in zip(chosen, found, strict=True):
        lead, count, row = readouts.pre[place], readouts.samples[place], readouts.first_row[place]
        whole = _samples(path, numbers, coils, int(readouts.number[place]), int(readouts.stored[place]))
        samples = whole[:, lead : lead + count]
        if readouts.turned[place]:
            samples = samples[:, ::-1]
        kspace[:, row : row + count, readouts.column[place]] += samples
        times[row : row + count, readouts.column[place]] += 1
    return np.asarray(kspace / np.maximum(times, 1), np.complex64)


def _samples(path: Path, numbers: Any, coils: int, readout: int, samples: int) -> NDArray[np.complex64]:
    """A readout's samples, (coils, samples), from the interleaved real and imaginary parts that are stored."""
    flat = np.ascontiguousarray(numbers, np.float32)
    if flat.size != 2 * coils * samples:
        raise InputError(
            f"{path}: readout {readout} holds {flat.size} numbers, which are not {coils} coils of {samples} samples"
        )
    return flat.view(np.complex64).reshape(coils, samples)


def _noise(
    path: Path, group: str, numbers: NDArray[np.int64], head: Any, image: int, coils: int
) -> NDArray[np.complex64]:
    """The noise scan's samples that are not to be discarded, (coils, samples), as loud as in the image's bandwidth.

    Noise grows as the root of the bandwidth, which is one over the sample time.
    """
    scan_us, image_us = float(head["sample_time_us"][numbers[0]]), float(head["sample_time_us"][image])
    louder = np.sqrt(scan_us / image_us) if scan_us > 0 and image_us > 0 else 1.0
    found, total = [], 0
    with h5py.File(path, "r") as file:
        data = file[group]["data"].fields("data")
        for number in numbers:
            if head["active_channels"][number] != coils:
                raise InputError(
                    f"{path}: its noise scan has {head['active_channels'][number]} coils, its image {coils}"
                )
            stored = int(head["number_of_samples"][number])
            end = max(0, stored - int(head["discard_post"][number]))
            samples = _samples(path, data[number], coils, int(number), stored)[:, head["discard_pre"][number] : end]
            found.append(samples)
            total += samples.shape[1]
            if total >= NOISE_SAMPLES:
                break
    return np.asarray(np.concatenate(found, axis=1) * np.float32(louder), np.complex64)
