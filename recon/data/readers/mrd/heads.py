"""The readouts of an ISMRMRD file: their heads, which are read at once, what each readout is for, and its samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
from ismrmrd.hdf5 import acquisition_header_dtype
from numpy.typing import NDArray

from recon.data.readers.raw import parsing
from recon.errors import InputError

CHUNK = 4096
"""Heads read at once."""
NOISE_SAMPLES = 2**20
"""The most samples per coil from which a noise covariance is estimated."""

_ASIDE = (
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
    "read_dir",
    "phase_dir",
    "slice_dir",
    "idx",
)
COUNTERS = ("contrast", "phase", "set", "repetition")
"""Counters that tell images of a slice apart."""


@dataclass(frozen=True)
class Roles:
    """What the readouts of a file are for, each as their numbers in the file.

    Attributes:
        image: of the image; in an integrated scan, lines that were acquired for calibration are among them.
        calibration: acquired for calibration, of one scale: in an integrated scan all of them, else those of the
            separate scan, else the image's own that are flagged so.
        noise: of the noise scan.
    """

    image: NDArray[np.int64]
    calibration: NDArray[np.int64]
    noise: NDArray[np.int64]


def find_group(file: h5py.File) -> str | None:
    """Name of the first group with a header and readouts."""
    for name, group in file.items():
        if isinstance(group, h5py.Group) and all(isinstance(group.get(one), h5py.Dataset) for one in ("xml", "data")):
            return str(name)
    return None


def are_readouts(kind: np.dtype[Any]) -> bool:
    """Whether a data set's type is that of ISMRMRD's readouts, as far as they are used."""
    if kind.names is None or not {"head", "data"} <= set(kind.names):
        return False
    head, expected = kind["head"], acquisition_header_dtype
    if head.names is None or not set(_HEAD) <= set(head.names):
        return False
    counters = head["idx"].names or ()
    return set(expected["idx"].names or ()) <= set(counters) and all(
        head[one].shape == expected[one].shape and head[one].base.kind in "uif" for one in _HEAD if one != "idx"
    )


def read_heads(path: Path, group: str, count: int) -> Any:
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


def flagged(flags: NDArray[np.uint64], flag: int) -> NDArray[np.bool_]:
    """Which readouts carry a flag; flags are numbered from 1."""
    return np.asarray(flags & np.uint64(1 << (flag - 1))).astype(bool)


def roles(heads: Any) -> Roles:
    """Sort the readouts by what they are for.

    Calibration is integrated if some of the image's lines are flagged to be for calibration too, and those for
    calibration alone fill in between: same scan, same scale, other steps. Else they are a scan of their own, which may
    have another scale, phase and resolution.
    """
    flags = heads["flags"]
    aside = np.zeros(flags.shape, bool)
    for flag in _ASIDE:
        aside |= flagged(flags, flag)
    shared = ~aside & flagged(flags, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
    alone = ~aside & ~shared & flagged(flags, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
    image = ~aside & ~alone
    if shared.any() and alone.any() and _fills_in(heads[alone], heads[image]):
        image, calibration = image | alone, shared | alone
    else:
        calibration = alone if alone.any() else shared
    noise = flagged(flags, ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    return Roles(*(np.flatnonzero(one) for one in (image, calibration, noise)))


def _fills_in(calibration: Any, image: Any) -> bool:
    """Whether lines for calibration lie where the image has none, and are of its kind."""
    kept = ("number_of_samples", "discard_pre", "discard_post", "active_channels", "encoding_space_ref")
    if any(not np.isin(calibration[name], image[name]).all() for name in kept):
        return False
    names = ("slice", "kspace_encode_step_1", "kspace_encode_step_2", *COUNTERS)
    places = [
        np.stack([heads["encoding_space_ref"], *(heads["idx"][name] for name in names)], axis=1)
        for heads in (calibration, image)
    ]
    # A place that both have is there once more than in either alone.
    single = [np.unique(one, axis=0) for one in places]
    return len(np.unique(np.concatenate(single), axis=0)) == sum(map(len, single))


def samples_of(path: Path, numbers: Any, coils: int, readout: int, samples: int) -> NDArray[np.complex64]:
    """A readout's samples, (coils, samples), from the interleaved real and imaginary parts that are stored."""
    flat = np.ascontiguousarray(numbers, np.float32)
    if flat.size != 2 * coils * samples:
        raise InputError(
            f"{path}: readout {readout} holds {flat.size} numbers, which are not {coils} coils of {samples} samples"
        )
    return flat.view(np.complex64).reshape(coils, samples)


def read_noise(
    path: Path, group: str, numbers: NDArray[np.int64], heads: Any, image: int, coils: int
) -> NDArray[np.complex64]:
    """The noise scan's samples that are not to be discarded, (coils, samples), as loud as in the image's bandwidth.

    Noise grows as the root of the bandwidth, which is one over the sample time.

    Args:
        path: the file.
        group: of readouts.
        numbers: of the noise scan's readouts.
        heads: of all readouts.
        image: number of a readout of the image.
        coils: of the image.
    """
    scan_us, image_us = float(heads["sample_time_us"][numbers[0]]), float(heads["sample_time_us"][image])
    louder = np.sqrt(scan_us / image_us) if scan_us > 0 and image_us > 0 else 1.0
    found, total = [], 0
    with parsing(path, "its noise scan cannot be read"), h5py.File(path, "r") as file:
        data = file[group]["data"].fields("data")
        for number in numbers:
            if heads["active_channels"][number] != coils:
                raise InputError(
                    f"{path}: its noise scan has {heads['active_channels'][number]} coils, its image {coils}"
                )
            stored = int(heads["number_of_samples"][number])
            end = max(0, stored - int(heads["discard_post"][number]))
            samples = samples_of(path, data[number], coils, int(number), stored)[:, heads["discard_pre"][number] : end]
            found.append(samples)
            total += samples.shape[1]
            if total >= NOISE_SAMPLES:
                break
    return np.asarray(np.concatenate(found, axis=1) * np.float32(louder), np.complex64)
