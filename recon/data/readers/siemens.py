"""Reads Siemens raw data (``.dat``, twix; VB, VD and XA lines): Cartesian slices, with the extra ``siemens``.

A file holds measurements: adjustments first, the scan last. A measurement is a protocol and readouts with a head each,
whose flags say what a readout is for. ``twix`` reads those; this module places the readouts. Other scans need
siemens_to_ismrmrd, which writes ISMRMRD.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.data.readers import header, twix
from recon.data.readers.raw import Geometry, Hints, RawVolume, check_shape, usual_task
from recon.data.readers.twix import Measurement, Protocol, refused
from recon.errors import InputError

FORMAT = "siemens"
SUFFIXES = (".dat",)

IMAGES = {"echo": "echo", "repetition": "rep", "set": "set", "phase": "phase"}
"""Counters that tell the images of a slice apart, and how volumes are named by them."""
NOISE_SAMPLES = 2**20
"""The most samples per coil from which a noise covariance is estimated."""
_TEXT = frozenset(b"\t\n\r") | frozenset(range(32, 127))
_NOT_THE_IMAGE = (
    *("RTFEEDBACK", "HPFEEDBACK", "REFPHASESTABSCAN", "PHASESTABSCAN", "PHASCOR", "NOISEADJSCAN"),
    *("CT_NORMALIZE", "RETRO_DUMMYSCAN", "B1_CONTROLLOOP", "MDH_VOP"),
)
_NOT_SLICES = {
    "SLICE_ACCEL_REFSCAN": "slices are excited together (multi-band)",
    "FIRST_SCAN_IN_BLADE": "it rotates its lines (BLADE)",
}


def recognises(path: Path) -> bool:
    """Whether the name says so; a damaged file is one to report, too."""
    return path.suffix.lower() in SUFFIXES


def stands_for(path: Path) -> Path | None:
    """A file of text, to which other programs give the same ending, stands for nothing."""
    with path.open("rb") as file:
        start = file.read(64)
    return None if start and all(byte in _TEXT for byte in start) else path


def read_all(path: Path, hints: Hints) -> tuple[RawVolume, ...]:
    """Read the protocols and heads of a Siemens file; hints overrule the protocol.

    The last measurement is the scan. A line lies so that its head's centre line is at columns // 2, a readout so that
    its centre sample is at rows // 2. Averages are averaged, slices come in the order of space, and lines that were
    acquired for calibration are kept apart.

    Raises:
        InputError: the extra is not installed, the file is damaged, not Cartesian slices, or holds several images of a
            slice and hints do not say how to take them; names the file and siemens_to_ismrmrd.
    """
    measurements = twix.measurements(path)
    scan = measurements[-1]
    protocol, heads = scan.protocol, scan.heads
    for flag, why in _NOT_SLICES.items():
        if scan.flagged(flag).any():
            raise refused(path, f"{why}, and only plain slices can be prepared")
    for wrong, why in (
        (protocol.trajectory not in (None, 1), "its trajectory is not Cartesian"),
        (protocol.regridded, "its readouts are sampled on gradient ramps"),
        (bool(np.unique(heads["partition"]).size > 1), "it is three-dimensional (a second phase encoding)"),
    ):
        if wrong:
            raise refused(path, f"{why}, and only plain Cartesian slices can be prepared")
    aside = np.logical_or.reduce([scan.flagged(flag) for flag in _NOT_THE_IMAGE])
    both = scan.flagged("PATREFANDIMASCAN")
    calibration = ~aside & (both | scan.flagged("PATREFSCAN"))
    image = ~aside & (both | ~calibration)
    if not image.any():
        raise refused(path, f"none of its {heads.size} readouts is of an image")
    counts = {name: np.unique(heads[name][image]) for name in IMAGES}
    several = [name for name, found in counts.items() if found.size > 1]
    if several and hints.images == "one":
        names = " and ".join(f"{counts[name].size} by {name}" for name in several)
        raise refused(
            path,
            f"it holds several images of a slice ({names}); --images volumes makes each a volume, --images average "
            "averages repetitions",
        )
    if hints.images == "average":
        several = [name for name in several if name != "repetition"]
    found = []
    for places in product(*(range(counts[name].size) for name in several)):
        mine = image.copy()
        for name, place in zip(several, places, strict=True):
            mine &= heads[name] == counts[name][place]
        suffixes = [f"{IMAGES[name]}{place + 1}" for name, place in zip(several, places, strict=True)]
        if mine.any():
            found.append(_volume(path, measurements, mine, calibration, suffixes, hints))
    return tuple(found)


def _volume(
    path: Path,
    measurements: tuple[Measurement, ...],
    image: NDArray[np.bool_],
    calibration: NDArray[np.bool_],
    names: list[str],
    hints: Hints,
) -> RawVolume:
    """One image of the scan."""
    scan = measurements[-1]
    protocol, heads = scan.protocol, scan.heads
    coils = np.unique(heads["coils"][image])
    if coils.size > 1 or coils[0] == 0:
        raise refused(path, f"its readouts have {', '.join(map(str, coils))} coils, where all have the same number")
    rows = max(protocol.rows or 0, int(heads["samples"][image].max()))
    columns = _columns(heads[image], protocol)
    shape = (int(coils[0]), rows, columns)
    check_shape(path, shape)
    numbers = _by_position(heads[image])
    placed = [np.flatnonzero(image & (heads["slice"] == number)) for number in numbers]
    aside = [
        np.flatnonzero(calibration & (heads["slice"] == number) & (heads["coils"] == shape[0])) for number in numbers
    ]
    pad_left, pad_right, mask = _lines(path, [_column(heads[which], columns) for which in placed], columns)
    noise = [one for one in measurements[::-1] if one.flagged("NOISEADJSCAN").any()]
    oversampling = hints.oversampling or protocol.oversampling or 1
    image_rows = max(1, min(rows, round(rows / oversampling)))
    crop = hints.crop or (image_rows, round(columns / (1 + protocol.phase_oversampling)))
    pad_left, pad_right = hints.padding or (pad_left, pad_right)
    if pad_left + pad_right >= columns:
        raise InputError(f"{path}: padding of {pad_left} and {pad_right} columns leaves nothing of {columns}")
    acquisition = protocol.name or "unnamed"
    echo = [name for name in names if name.startswith("echo")]
    return RawVolume(
        path=path,
        name="_".join([path.stem, *names]),
        format=FORMAT,
        acquisition=acquisition,
        task="-".join([hints.task or usual_task(acquisition), *echo]),
        patient=hints.patient or header.somebody(protocol.patient) or path.stem,
        slices=numbers.size,
        coils=shape[0],
        rows=rows,
        columns=columns,
        image_rows=image_rows,
        pad_left=pad_left,
        pad_right=pad_right,
        crop=(min(crop[0], image_rows), min(crop[1], columns)),
        mask=mask,
        load=lambda position: _load(scan, placed[position], shape),
        files=(path,),
        load_noise=(lambda: _noise(path, noise[0], scan, shape[0])) if noise else None,
        load_calibration=(lambda position: _load(scan, aside[position], shape)) if any(map(len, aside)) else None,
        geometry=_geometry(protocol, heads[image], numbers, (image_rows, columns)),
    )


def _columns(heads: NDArray[np.void], protocol: Protocol) -> int:
    """Columns of k-space, symmetric about the centre line; what partial Fourier left out is among them."""
    line, centre = heads["line"].astype(int), heads["centre_line"].astype(int)
    if not centre.any():
        # The sequence does not say.
        return max(protocol.lines or 0, int(line.max()) + 1)
    reach = max(int((centre - line).max()), int((line + 1 - centre).max()))
    return max(protocol.lines or 0, 2 * reach)


def _column(heads: NDArray[np.void], columns: int) -> NDArray[np.int64]:
    """Where lines lie: the centre line at columns // 2."""
    line, centre = heads["line"].astype(int), heads["centre_line"].astype(int)
    return line - centre + columns // 2 if centre.any() else line


def _by_position(heads: NDArray[np.void]) -> NDArray[np.int64]:
    """The slices' counters, in the order of space where their positions tell."""
    numbers, first = np.unique(heads["slice"].astype(int), return_index=True)
    position = heads["position"][first].astype(float)
    far = position[np.linalg.norm(position - position[0], axis=1).argmax()] - position[0]
    # Towards left, posterior or superior, whichever the stack follows most.
    along = position @ (far * np.sign(far[np.abs(far).argmax()]))
    order = np.argsort(along, kind="stable")
    apart = np.isfinite(along).all() and (np.diff(along[order]) > 1e-3).all()
    return np.asarray(numbers[order] if apart else numbers)


def _lines(path: Path, columns_of: list[NDArray[np.int64]], columns: int) -> tuple[int, int, NDArray[np.bool_] | None]:
    """Padding and mask; every slice has the same lines."""
    kept = np.zeros((len(columns_of), columns), bool)
    for slice_of, found in zip(kept, columns_of, strict=True):
        slice_of[found[(found >= 0) & (found < columns)]] = True
    union = np.asarray(kept.any(axis=0))
    short = np.flatnonzero(kept.sum(axis=1) < union.sum())
    if short.size:
        raise refused(
            path,
            f"slice {short[0]} has {int(kept[short[0]].sum())} of {int(union.sum())} lines ({short.size} such slices "
            "in all), so it is damaged or was stopped",
        )
    left, right = int(union.argmax()), int(union[::-1].argmax())
    return left, right, None if union[left : columns - right].all() else union


def _load(scan: Measurement, which: NDArray[np.int64], shape: tuple[int, int, int]) -> NDArray[np.complex64]:
    """The readouts put in their places, (coils, rows, columns); those of one place are averaged."""
    _, rows, columns = shape
    kspace = np.zeros(shape, np.complex64)
    times = np.zeros((rows, columns), np.float32)
    column = _column(scan.heads[which], columns)
    turned = scan.flagged("REFLECT")
    for number, at, samples in zip(which, column, scan.samples(which), strict=True):
        head = scan.heads[number]
        count, middle = int(head["samples"]), int(head["centre_sample"])
        begin, end = int(head["pre"]), count - int(head["post"])
        if turned[number]:
            samples, begin, end = samples[:, ::-1], count - end, count - begin
        # A readout without a centre is a whole one.
        first = 0
        if middle:
            first = rows // 2 - (count - 1 - middle if turned[number] else middle)
        begin, end = max(begin, -first), min(end, rows - first)
        if 0 <= at < columns and begin < end:
            kspace[:, first + begin : first + end, at] += samples[:, begin:end]
            times[first + begin : first + end, at] += 1
    return np.asarray(kspace / np.maximum(times, 1), np.complex64)


def _noise(path: Path, source: Measurement, scan: Measurement, coils: int) -> NDArray[np.complex64]:
    """The noise readouts, (coils, samples), as loud as in the image's bandwidth where both protocols give it."""
    which = np.flatnonzero(source.flagged("NOISEADJSCAN"))
    if (source.heads["coils"][which] != coils).any():
        raise InputError(f"{path}: its noise scan has {source.heads['coils'][which[0]]} coils, its image {coils}")
    of_noise, of_image = source.protocol.dwell_ns, scan.protocol.dwell_ns
    louder = np.sqrt(of_noise / of_image) if of_noise and of_image else 1.0
    found, total = [], 0
    for samples in source.samples(which):
        found.append(samples)
        total += samples.shape[1]
        if total >= NOISE_SAMPLES:
            break
    return np.asarray(np.concatenate(found, axis=1) * np.float32(louder), np.complex64)


def _geometry(
    protocol: Protocol, heads: NDArray[np.void], numbers: NDArray[np.int64], size: tuple[int, int]
) -> Geometry | None:
    """Voxel size alone; None where the protocol has no field of view."""
    if protocol.field_mm is None:
        return None
    read, phase, thickness = protocol.field_mm
    if numbers.size > 1:
        first, second = (heads["position"][heads["slice"] == number][0].astype(float) for number in numbers[:2])
        thickness = float(np.linalg.norm(second - first)) or thickness
    return Geometry((read / size[0], phase * (1 + protocol.phase_oversampling) / size[1], thickness))
