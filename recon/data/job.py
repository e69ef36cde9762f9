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
from recon.data.volume_file import VolumeRecord, read_record, volume_file, write_volume
from recon.errors import InputError

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
    raw = readers.read_volume(job.raw, options.hints)
    path = job.out / volume_file(raw.name)
    source_sha256 = files_sha256(raw.files)
    facts = _facts(raw, job)
    said = raw.simulated_noise
    noise_key = "" if said is None else digest(said.model_dump(mode="json"))
    if path.is_file():
        record = _kept(path, facts, source_sha256, noise_key)
        if record is not None:
            findings += [Finding(str(raw.path), position, "warning", what) for position, what in record.warnings]
            return "kept", record
    # What a killed run left half written of this volume.
    for stale in path.parent.glob(f".{path.name}.*.part"):
        stale.unlink(missing_ok=True)
    seen = volume.survey(raw, options)
    findings += seen.findings
    seen.require_whole()
    noise, doubt = volume.known_noise(raw, seen.kspace_sha256)
    if doubt:
        findings.append(Finding(str(raw.path), None, "warning", doubt))
    matrices = volume.coil_matrices(raw, options, seen)
    calibration = calibration_key(raw, options, matrices, seen.kspace_sha256, source_sha256)
    with _maps_of(job.known.get(calibration), calibration, raw.slices) as known_maps:
        record = write_volume(
            path,
            {
                **facts,
                "key": volume_key(facts, seen.kspace_sha256),
                "kspace_sha256": seen.kspace_sha256,
                "calibration": calibration,
                "prewhitened": matrices.whitened,
                "warnings": [(one.slice, one.what) for one in findings],
                "simulated_noise": noise_key,
                "truth": noise is not None,
                "source_sha256": source_sha256,
                "versions": versions(),
            },
            volume.pieces(raw, options, matrices, known_maps, noise),
            matrices.stored(),
        )
    return "prepared", record


@contextlib.contextmanager
def _maps_of(path: Path | None, calibration: str, slices: int) -> Iterator[Callable[[int], Complex] | None]:
    """A reader of the maps that a volume file holds, where it still holds them; else None."""
    if path is None:
        yield None
        return
    try:
        file = h5py.File(path, "r")
    except OSError:  # gone, or replaced, since the run began
        yield None
        return
    with file:
        same = VolumeRecord.model_validate_json(file.attrs["record"]).calibration == calibration
        whole = file["maps"].shape[0] == slices
        yield (lambda position: np.asarray(file["maps"][position])) if same and whole else None


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
