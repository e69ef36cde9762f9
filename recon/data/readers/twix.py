"""The layout of Siemens' raw data files: measurements, their protocols, and the heads of their readouts.

The layout is the one that twixtools (the extra ``siemens``) describes: it gives the structures and parses protocols.
Here the readouts are found, their heads kept as a table, and samples read when they are asked for.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data.readers.raw import parsing
from recon.errors import InputError

MOST_READOUTS = 2**23
"""More than this is a damaged file: 8 million readouts are a day's scanning."""
MOST_MEASUREMENTS = 64
ENTRY, FIRST_ENTRY = 152, 8
"""Bytes of a measurement's entry in the table at the file's beginning, and where the table begins."""
HEAD = np.dtype(
    [
        *((name, "<i8") for name in ("place", "flags")),
        *((name, "<i4") for name in ("samples", "coils", "line", "average", "slice", "partition")),
        *((name, "<i4") for name in ("echo", "phase", "repetition", "set", "pre", "post")),
        *((name, "<i4") for name in ("centre_sample", "centre_line")),
        ("position", "<f4", 3),
    ]
)
"""What is kept of a readout's head; ``place`` is its byte in the file, ``position`` its slice's in the patient, mm."""


def refused(path: Path, why: str) -> InputError:
    """The error for a Siemens file that is not read here."""
    return InputError(f"{path}: {why}; siemens_to_ismrmrd may convert it to ISMRMRD")


@dataclass(frozen=True)
class Protocol:
    """What a measurement's protocol says; None where it does not.

    Attributes:
        name: the protocol's name, or nothing.
        patient: the patient's identifiers, possibly taken out.
        oversampling: of the readout.
        rows: samples of a whole readout, with its oversampling.
        lines: phase-encode lines of whole k-space.
        phase_oversampling: as a part of the field of view along phase encoding.
        field_mm: field of view along the readout and the phase encoding, and the slice's thickness.
        dwell_ns: time of a sample.
        trajectory: 1 is Cartesian.
        regridded: whether readouts are sampled on gradient ramps.
    """

    name: str
    patient: tuple[str, ...]
    oversampling: float | None
    rows: int | None
    lines: int | None
    phase_oversampling: float
    field_mm: tuple[float, float, float] | None
    dwell_ns: float | None
    trajectory: int | None
    regridded: bool


@dataclass(frozen=True, eq=False)
class Measurement:
    """A measurement of a file.

    Attributes:
        path: the file.
        protocol: what was planned.
        heads: (readouts,) of ``HEAD``, in the file's order, without the end and data that are no readouts.
        before_all: bytes of the head before all coils' samples.
        before_each: bytes of the head before each coil's samples.
        bits: name of a flag → its bit.
    """

    path: Path
    protocol: Protocol
    heads: NDArray[np.void]
    before_all: int
    before_each: int
    bits: dict[str, int]

    def flagged(self, flag: str) -> NDArray[np.bool_]:
        """Whether each readout has a flag."""
        return np.asarray((self.heads["flags"] >> self.bits[flag]) & 1).astype(bool)

    def samples(self, which: NDArray[np.int64]) -> Iterator[NDArray[np.complex64]]:
        """The samples of readouts, (coils, samples) each."""
        with self.path.open("rb") as file:
            for head in self.heads[which]:
                count = int(head["samples"])
                block = np.dtype([("head", f"V{self.before_each}"), ("samples", "<c8", (count,))])
                file.seek(int(head["place"]) + self.before_all)
                content = file.read(block.itemsize * int(head["coils"]))
                yield np.frombuffer(content, block, int(head["coils"]))["samples"].astype(np.complex64)


def measurements(path: Path) -> tuple[Measurement, ...]:
    """The measurements of a file that have readouts.

    Raises:
        InputError: the extra is not installed, or the file is damaged; names siemens_to_ismrmrd.
    """
    spans = _spans(path)
    try:
        from twixtools import mdb, mdh_def, twixprot
    except ImportError as error:
        raise refused(path, "to read it here, install the extra siemens (pip install 'splitpoint[siemens]')") from error
    found = []
    new = spans[0][0] > 0
    # The parser tells what it cannot parse by printing.
    with path.open("rb") as file, contextlib.redirect_stdout(io.StringIO()):
        for begin, end in spans:
            file.seek(begin)
            (size,) = struct.unpack("<I", file.read(4))
            if not 8 <= size < end - begin:
                raise refused(path, f"a protocol of {size} bytes does not fit into its {end - begin}, so it is damaged")
            file.seek(begin)
            try:
                with parsing(path, "its protocol cannot be read"):
                    protocol = _protocol(twixprot.parse_twix_hdr(file))
            except InputError as error:
                raise refused(path, str(error).removeprefix(f"{path}: ")) from error
            base = mdb.Mdb_base(version_is_ve=new)
            heads = _heads(path, file, (begin + size, end), base)
            each = np.dtype(mdh_def.Channel_header if new else mdh_def.VB17_header).itemsize
            whole = np.dtype(mdh_def.Scan_header).itemsize if new else 0
            found.append(Measurement(path, protocol, heads, whole, each, dict(mdh_def.mask_dict)))
    found = [one for one in found if one.heads.size]
    if not found:
        raise refused(path, "it has no readouts")
    return tuple(found)


def _spans(path: Path) -> list[tuple[int, int]]:
    """First and last byte (exclusive) of each measurement; the only one of the VB line begins at byte 0."""
    size = path.stat().st_size
    with path.open("rb") as file:
        table = file.read(FIRST_ENTRY + ENTRY * MOST_MEASUREMENTS)
    if len(table) < FIRST_ENTRY:
        raise refused(path, f"it has {size} bytes, so it is damaged")
    first, count = struct.unpack_from("<II", table)
    if first >= 10000 or count > MOST_MEASUREMENTS:
        return [(0, size)]
    spans = []
    for number in range(count):
        at = FIRST_ENTRY + ENTRY * number + 8
        if at + 16 > len(table):
            break
        begin, length = struct.unpack_from("<QQ", table, at)
        # A scanner that wrote a single measurement may leave its length out.
        end = size if count == 1 and not length else begin + length
        if not FIRST_ENTRY < begin < end <= size:
            raise refused(
                path,
                f"measurement {number + 1} of {count} lies at bytes {begin} to {end} of {size}, so it is damaged",
            )
        spans.append((begin, end))
    if not spans:
        raise refused(path, "its table of measurements is empty, so it is damaged")
    return spans


def _heads(path: Path, file: io.BufferedReader, span: tuple[int, int], base: Any) -> NDArray[np.void]:
    """The heads of a measurement's readouts.

    Args:
        path: for the messages.
        file: open.
        span: bytes where the readouts lie.
        base: twixtools' view of one head; it is read anew for each readout.
    """
    found: list[tuple[Any, ...]] = []
    place, end = span
    least = len(bytes(base.mdh))
    while place + least <= end:
        file.seek(place)
        file.readinto(base.mdh)
        head, counter = base.mdh, base.mdh.Counter
        length = int(base.dma_len)
        if base.is_flag_set("ACQEND"):
            break
        if length < least or place + length > end or len(found) == MOST_READOUTS:
            raise refused(
                path, f"readout {len(found)} says that it has {length} bytes of {end - place} left, so it is damaged"
            )
        if not base.is_flag_set("SYNCDATA"):
            # As signed numbers of 64 bits; only single bits are asked for.
            flags = int(head.EvalInfoMask) & (2**63 - 1)
            position = head.SliceData.SlicePos
            found.append(
                (
                    *(place, flags, head.SamplesInScan, head.UsedChannels),
                    *(counter.Lin, counter.Ave, counter.Sli, counter.Par),
                    *(counter.Eco, counter.Phs, counter.Rep, counter.Set),
                    *(head.CutOff.Pre, head.CutOff.Post, head.CenterCol, head.CenterLin),
                    (position.Sag, position.Cor, position.Tra),
                )
            )
        place += length
    return np.array(found, HEAD)


def _protocol(parts: dict[str, Any]) -> Protocol:
    """The facts in the parsed buffers of a protocol."""
    plan, derived = parts.get("MeasYaps", {}), [parts.get(one, {}) for one in ("Meas", "Config", "Dicom")]
    kspace = plan.get("sKSpace", {})
    slices = plan.get("sSliceArray", {}).get("asSlice") or [{}]
    field = [slices[0].get(name) for name in ("dReadoutFOV", "dPhaseFOV", "dThickness")]
    dwell = plan.get("sRXSPEC", {}).get("alDwellTime") or [None]
    regrid = parts.get("Meas", {}).get("alRegridMode") or [1]
    base, oversampling = _number(kspace.get("lBaseResolution")), _number(_first(derived, "flReadoutOSFactor"))
    lines, trajectory = _number(kspace.get("lPhaseEncodingLines")), _number(kspace.get("ucTrajectory"))
    sizes = [size for size in map(_number, field) if size is not None]
    return Protocol(
        name=str(_first([*derived, plan], "tProtocolName") or "").strip('" '),
        patient=tuple(str(_first(derived, name) or "").strip() for name in ("PatientID", "tPatientName")),
        oversampling=oversampling if oversampling is not None and 1 <= oversampling <= 16 else None,
        rows=round(base * oversampling) if base and oversampling else None,
        lines=None if lines is None else int(lines),
        phase_oversampling=max(0.0, _number(kspace.get("dPhaseOversamplingForDialog")) or 0.0),
        field_mm=(sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 else None,
        dwell_ns=_number(dwell[0]),
        trajectory=None if trajectory is None else int(trajectory),
        regridded=bool((_number(regrid[0]) or 1) > 1),
    )


def _first(parts: list[dict[str, Any]], name: str) -> Any:
    return next((part[name] for part in parts if part.get(name) not in (None, "", [])), None)


def _number(value: Any) -> float | None:
    """A positive number, or None."""
    return float(value) if isinstance(value, int | float) and np.isfinite(value) and value > 0 else None
