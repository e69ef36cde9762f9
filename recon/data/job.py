"""The preparation of one volume, as a job that may run in another process.

A volume is made, or kept if it already exists, or it has failed, with a sentence that says why.
The steps themselves are ``recon.data.volume``.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.data import readers, volume
from recon.data.checks import Finding
from recon.data.identity import RECIPE_VERSION, calibration_key, digest, files_sha256, versions, volume_key
from recon.data.options import PrepareOptions
from recon.data.readers import RawVolume
from recon.data.volume_file import Piece, VolumeRecord, read_record, volume_file, write_volume
from recon.errors import InputError
from recon.files import remove_parts

Complex = NDArray[np.complex64]
Status = Literal["prepared", "kept", "duplicate", "failed"]


@dataclass(frozen=True)
class VolumeJob:
    """The preparation of one volume; picklable."""

    raw: Path
    task: str
    patient: str
    out: Path
    options: PrepareOptions
    known: Mapping[str, Path]
    """Calibration → a volume file that holds its maps."""
    name: str | None = None
    """Of the volume, where the file may hold several."""


@dataclass(frozen=True)
class VolumeResult:
    """The result for one raw file."""

    raw: Path
    status: Status
    """``kept``: it was there already, from the same samples and options. ``duplicate``: another file holds the same
    samples, and that one is taken."""
    record: VolumeRecord | None = None
    reason: str = ""
    """Why it failed, in a sentence that names the file."""
    findings: tuple[Finding, ...] = ()
    detail: str = ""
    """The traceback, if the failure was not caused by the file's content."""
    seconds: float = 0.0


def prepare_volume(job: VolumeJob) -> VolumeResult:
    """Prepare one volume, or keep it where it is already there from the same samples and options.

    Never raises for what is in a file: the result says what went wrong, so that the others go on.
    """
    begin = time.monotonic()
    findings: list[Finding] = []
    try:
        status, record = _prepare_volume(job, findings)
    except Exception as error:
        return failure(job.raw, error, time.monotonic() - begin, findings)
    return VolumeResult(job.raw, status, record, findings=tuple(findings), seconds=time.monotonic() - begin)


def _prepare_volume(job: VolumeJob, findings: list[Finding]) -> tuple[Status, VolumeRecord]:
    options = job.options
    raw = readers.read_volume(job.raw, options.hints, job.name)
    path = job.out / volume_file(raw.name)
    source_sha256 = files_sha256(raw.files)
    facts = _facts(raw, job)
    said = raw.simulated_noise
    noise_key = "" if said is None else digest(said.model_dump(mode="json"))
    if path.is_file():
        record = _kept(path, facts, source_sha256, noise_key)
        if record is not None:
            findings += [Finding(str(raw.path), position, "warning", what) for position, what in record.warnings]
            findings += [Finding(str(raw.path), position, "error", what) for position, what in record.left_out]
            return "kept", record
    remove_parts(path)
    seen = volume.survey(raw, options)
    findings += seen.findings
    seen.require_some()
    noise, doubt = volume.known_noise(raw, seen.kspace_sha256)
    if doubt:
        findings.append(Finding(str(raw.path), None, "warning", doubt))
    matrices = volume.coil_matrices(raw, options, seen)
    calibration = calibration_key(raw, options, matrices, seen.kspace_sha256, source_sha256)
    with _maps_of(job.known.get(calibration), calibration) as known_maps:
        made = volume.pieces(raw, options, matrices, seen.usable, known_maps, noise)
        record = write_volume(
            path,
            {
                **facts,
                "key": volume_key(facts, seen.kspace_sha256),
                "kspace_sha256": seen.kspace_sha256,
                "calibration": calibration,
                "prewhitened": matrices.whitened,
                "simulated_noise": noise_key,
                "truth": noise is not None and options.target == "sense",
                "source_sha256": source_sha256,
                "versions": versions(),
            },
            _with_reference(str(raw.path), made, findings),
            matrices.stored(),
            lambda: {
                "warnings": [(one.slice, one.what) for one in findings if one.severity == "warning"],
                "left_out": [(one.slice, one.what) for one in findings if one.severity == "error"],
            },
        )
    return "prepared", record


def _with_reference(path: str, made: Iterator[Piece], findings: list[Finding]) -> Iterator[Piece]:
    """The slices whose maps keep enough of them to be a reference; findings name the others, and what is doubtful."""
    for piece in made:
        assert piece.kept is not None
        wrong, doubt = piece.kept.error(), piece.kept.warning()
        if wrong:
            findings.append(Finding(path, piece.position, "error", wrong))
            continue
        if doubt:
            findings.append(Finding(path, piece.position, "warning", doubt))
        yield piece


@contextlib.contextmanager
def _maps_of(path: Path | None, calibration: str) -> Iterator[Callable[[int], Complex | None] | None]:
    """A reader of the maps that a volume file holds, by the slice's number in the raw volume; None where there is no
    such file. It gives None for a slice that the file lacks."""
    if path is None:
        yield None
        return
    try:
        file = h5py.File(path, "r")
    except OSError:  # gone, or replaced, since the run began
        yield None
        return
    with file:
        record = VolumeRecord.model_validate_json(file.attrs["record"])
        numbers = range(record.slices) if record.positions is None else record.positions
        places = {number: place for place, number in enumerate(numbers)}

        def known(position: int) -> Complex | None:
            place = places.get(position)
            return None if place is None else np.asarray(file["maps"][place])

        yield known if record.calibration == calibration else None


def _facts(raw: RawVolume, job: VolumeJob) -> dict[str, Any]:
    """The fields of ``VolumeRecord`` that are known before the samples are read."""
    options = job.options
    crop_rows, crop_columns = volume.crop_of(raw, options)
    return {
        "volume": raw.name,
        "task": job.task,
        "patient": job.patient,
        "slices": raw.slices,
        "coils": min(raw.coils, options.coils or raw.coils),
        "rows": raw.image_rows,
        "columns": raw.columns,
        "pad_left": raw.pad_left,
        "pad_right": raw.pad_right,
        "crop_rows": crop_rows,
        "crop_columns": crop_columns,
        "source": raw.path.name,
        "source_format": raw.format,
        "acquisition": raw.acquisition,
        "simulation": raw.simulation,
        "phase_encodings": raw.phase_encodings,
        "recipe": {"version": RECIPE_VERSION, **options.recipe()},
    }


def _kept(path: Path, facts: dict[str, Any], source_sha256: str, noise_key: str) -> VolumeRecord | None:
    """The record of a finished volume, where it is what would be made now; else None."""
    try:
        record = read_record(path)
    except InputError:
        # Of another version, or not ours: made again.
        return None
    same = record.source_sha256 == source_sha256 and record.key == volume_key(facts, record.kspace_sha256)
    # Of formats with hints this is not among the files that are hashed; and what was prepared by a version that knew no
    # truth has none.
    return record if same and record.simulated_noise == noise_key else None


def failure(path: Path, error: Exception, seconds: float, findings: Sequence[Finding] = ()) -> VolumeResult:
    """The boundary between one file and the rest of the run: named and reported, so that the others go on."""
    if isinstance(error, InputError):
        reason, detail = str(error) if str(path.parent) in str(error) else f"{path}: {error}", ""
    else:
        # It may be our fault as well as the file's.
        reason, detail = f"{path}: {type(error).__name__}: {error}", "".join(traceback.format_exception(error))
    told = [one for one in findings if one.severity == "error"]
    if not told:
        what = (
            "it" + reason.removeprefix(str(path)) if reason.startswith(f"{path} ") else reason.removeprefix(f"{path}: ")
        )
        findings = (*findings, Finding(str(path), None, "error", what))
    return VolumeResult(path, "failed", None, reason, tuple(findings), detail, seconds)
