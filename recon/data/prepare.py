"""Raw k-space → prepared data set: the steps for one volume, and the run over many.

A volume: padding zeroed, coils compressed where asked, ESPIRiT maps, readout oversampling off, SENSE-combined target.
The maps come before the oversampling goes, because an object that is cut off at the edge of the field of view wraps
round for ESPIRiT, and no single set of maps explains the outer rows then.
The run: find the files, split by patient, prepare each volume by ``map`` (side by side where the caller's map is),
then index them with nested subsets. The format itself is ``recon.data.prepared``.
"""

from __future__ import annotations

import builtins
import fnmatch
import hashlib
import importlib.metadata
import json
import re
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recon import coils
from recon.data import readers
from recon.data.prepared import (
    DATASET_FILE,
    FORMAT_VERSION,
    INDEX_DTYPES,
    INDEX_FILE,
    SPLITS,
    VOLUMES_FOLDER,
    Description,
    Piece,
    PrepareOptions,
    Split,
    VolumeRecord,
    centre,
    content_hash,
    empty_index,
    read_record,
    volume_file,
    write_index,
    write_volume,
)
from recon.data.readers import RawVolume
from recon.errors import InputError
from recon.files import replace_file
from recon.fourier import fft, ifft
from recon.masks import fixed

RECIPE_VERSION = 1
"""Raised when the same raw data and options begin to give other numbers: what was prepared before is prepared again."""

FOLDER_SPLIT = re.compile(r"(?:(?:multicoil|singlecoil)_)?(train|val|test)", re.IGNORECASE)

Complex = NDArray[np.complex64]
Map = Callable[[Callable[["Job"], "VolumeResult"], Iterable["Job"]], Iterable["VolumeResult"]]


class Source(NamedTuple):
    """A raw file and the folder names that lead to it from what the caller named."""

    path: Path
    folders: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """The preparation of one volume; picklable."""

    raw: Path
    task: str
    out: Path
    options: PrepareOptions


@dataclass(frozen=True)
class VolumeResult:
    """What became of one raw file."""

    raw: Path
    status: Literal["prepared", "kept", "failed"]
    """``kept``: it was there already, from the same samples and options."""
    record: VolumeRecord | None = None
    reason: str = ""
    """Why it failed, in a sentence that names the file."""
    detail: str = ""
    """The traceback, where it failed otherwise than by its content."""
    seconds: float = 0.0


@dataclass(frozen=True)
class PrepareReport:
    """What a preparation did."""

    out: Path
    hash: str | None
    """Content hash of the data set; None where no volume could be prepared, and none was written."""
    results: tuple[VolumeResult, ...]
    seconds: float
    index: pd.DataFrame = field(repr=False, default_factory=empty_index)

    @property
    def prepared(self) -> tuple[str, ...]:
        """Volumes made in this run."""
        return tuple(one.record.volume for one in self.results if one.status == "prepared" and one.record)

    @property
    def kept(self) -> tuple[str, ...]:
        """Volumes that were there already."""
        return tuple(one.record.volume for one in self.results if one.status == "kept" and one.record)

    @property
    def failed(self) -> dict[str, str]:
        """Raw file → reason, for each that is not in the data set."""
        return {str(one.raw): one.reason for one in self.results if one.status == "failed"}

    @property
    def ok(self) -> bool:
        """Whether every raw file is in the data set."""
        return not self.failed


def prepare(
    raw: Sequence[str | Path] | str | Path,
    out: str | Path,
    options: PrepareOptions | None = None,
    *,
    map: Map = builtins.map,
    progress: Callable[[int, int, VolumeResult], None] | None = None,
) -> PrepareReport:
    """Prepare raw volumes into the folder ``out``.

    Safe to interrupt: each volume appears whole or not at all, and the same call goes on with those that are missing.
    A volume is made again only where its samples or the options that shape it changed. One run at a time in a folder.

    Args:
        raw: files and folders (searched through) of raw volumes.
        out: the data set's folder; made where it is not there.
        options: see ``PrepareOptions``.
        map: applies a module-level function to picklable jobs, in any order; by default one after another.
        progress: called with (done, all, result) after each volume.

    Returns:
        A report; ``report.ok`` is false where a file was left out, and ``report.failed`` says why.

    Raises:
        InputError: nothing to prepare, two volumes of one name, folders that do not say a split, or a patient on both
            sides of it. A broken file raises nothing: it is left out and reported.
    """
    begin = time.monotonic()
    out = Path(out)
    options = options or PrepareOptions()
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; the data set needs a folder")
    sources = [source for source in find(raw) if not source.path.resolve().is_relative_to(out.resolve())]
    opened: dict[str, tuple[Source, RawVolume]] = {}
    results: list[VolumeResult] = []
    for source in sources:
        try:
            volume = readers.read_volume(source.path)
            _check_has_reference(volume)
        except Exception as error:
            results.append(_failure(source.path, error, 0.0))
            continue
        if volume.name in opened:
            other = opened[volume.name][0].path
            raise InputError(f"{other} and {source.path} are both named {volume.name}; a volume's file name is its own")
        opened[volume.name] = (source, volume)
    splits = _split(opened, options)
    # Absolute paths: a cluster's workers run in folders of their own.
    jobs = [
        Job(source.path.resolve(), _task(source, volume, options), out.resolve(), options)
        for source, volume in opened.values()
    ]
    for done, result in enumerate(map(prepare_volume, jobs), start=1):
        results.append(result)
        if progress is not None:
            progress(done, len(jobs), result)
    results = _without_duplicates(sorted(results, key=lambda one: (one.raw.stem, str(one.raw))))
    records = [one.record for one in results if one.record is not None]
    index, identity = empty_index(), None
    if records:
        index = build_index(records, {record.volume: splits[record.volume] for record in records}, options)
        identity = _write_description(out, index, records, options, results)
    return PrepareReport(out, identity, tuple(results), time.monotonic() - begin, index)


def find(raw: Sequence[str | Path] | str | Path) -> list[Source]:
    """Raw files among the given files and folders, each once, in the order of their names.

    Raises:
        InputError: a path that is not there, or nothing found.
    """
    given = [Path(one) for one in ([raw] if isinstance(raw, str | Path) else raw)]
    found: dict[Path, Source] = {}
    for path in given:
        if path.is_dir():
            for file in path.rglob("*"):
                inner = file.relative_to(path)
                hidden = any(part.startswith(".") for part in inner.parts)
                if file.is_file() and file.suffix.lower() in readers.suffixes() and not hidden:
                    found.setdefault(file.resolve(), Source(file, (path.resolve().name, *inner.parts[:-1])))
        elif path.is_file():
            found.setdefault(path.resolve(), Source(path, (path.resolve().parent.name,)))
        else:
            raise InputError(f"{path} is neither a file nor a folder; give raw volumes or folders of them")
    if not found:
        endings = ", ".join(sorted(readers.suffixes()))
        raise InputError(f"there is no raw file ({endings}) in {', '.join(str(path) for path in given)}")
    return sorted(found.values(), key=lambda source: (source.path.name, str(source.path)))


def prepare_volume(job: Job) -> VolumeResult:
    """Prepare one volume, or keep it where it is already there from the same samples and options.

    Never raises for what is in a file: the result says what went wrong, so that the others go on.
    """
    begin = time.monotonic()
    try:
        status, record = _prepare_volume(job)
    except Exception as error:
        return _failure(job.raw, error, time.monotonic() - begin)
    return VolumeResult(job.raw, status, record, seconds=time.monotonic() - begin)


def _prepare_volume(job: Job) -> tuple[Literal["prepared", "kept"], VolumeRecord]:
    raw = readers.read_volume(job.raw)
    path = job.out / volume_file(raw.name)
    source_sha256 = file_sha256(job.raw)
    facts = _facts(raw, job)
    if path.is_file():
        record = _kept(path, facts, source_sha256)
        if record is not None:
            return "kept", record
    # What a killed run left half written of this volume.
    for stale in path.parent.glob(f".{path.name}.*.part"):
        stale.unlink(missing_ok=True)
    kspace_sha256 = samples_sha256(raw)
    record = write_volume(
        path,
        {
            **facts,
            "key": volume_key(facts, kspace_sha256),
            "kspace_sha256": kspace_sha256,
            "source_sha256": source_sha256,
            "versions": versions(),
        },
        pieces(raw, job.options),
    )
    return "prepared", record


def pieces(raw: RawVolume, options: PrepareOptions) -> Iterator[Piece]:
    """The prepared slices of a raw volume, one at a time.

    A volume that is undersampled is calibrated from the lines that it has, and its ``target`` is its zero-filled
    combination.

    Yields:
        k-space (coils, rows, columns) without readout oversampling and with zero padding; maps; the combined image.
    """
    matrix = None
    if options.coils is not None and options.coils < raw.coils:
        matrix = volume_compression(raw, options.coils, options.calibration_width)
    calibration_mask = raw.mask
    if options.calibration == "mask" and calibration_mask is None:
        calibration_mask = fixed(options.calibration_mask, raw.columns, (raw.pad_left, raw.pad_right)).columns
    for position in range(raw.slices):
        acquired = without_padding(raw.read_slice(position), raw.pad_left, raw.pad_right)
        if matrix is not None:
            acquired = coils.compress(acquired, matrix)
        try:
            maps = coils.espirit(
                acquired,
                options.calibration_width,
                calibration_mask,
                rows=raw.image_rows,
                crop=options.eigenvalue_crop,
            )
        except InputError as error:
            raise InputError(f"{raw.path}: slice {position}: {error}") from error
        kspace = without_oversampling(acquired, raw.image_rows)
        target = coils.sense_combine(ifft(kspace, (-2, -1)), maps)
        yield Piece(kspace, maps, target, matrix)


def without_oversampling(kspace: Complex, image_rows: int) -> Complex:
    """Remove readout oversampling: to image space along the rows, the central ``image_rows``, and back.

    Args:
        kspace: (coils, rows, columns), centred.
        image_rows: rows that remain, at most those there are.

    Returns:
        (coils, image_rows, columns). Orthonormal on the way, so the image inside keeps its values.
    """
    rows, columns = kspace.shape[-2:]
    if image_rows == rows:
        return kspace
    region = centre((rows, columns), (image_rows, columns))[0]
    return np.ascontiguousarray(fft(ifft(kspace, (-2,))[..., region, :], (-2,)), np.complex64)


def without_padding(kspace: Complex, pad_left: int, pad_right: int) -> Complex:
    """k-space with the columns that were never acquired at exactly zero."""
    kspace = kspace.copy()
    kspace[..., :pad_left] = 0
    kspace[..., kspace.shape[-1] - pad_right :] = 0
    return kspace


def volume_compression(raw: RawVolume, virtual: int, width: int) -> Complex:
    """One compression matrix for a volume, (virtual, coils), from the centres of all its slices."""
    covariance = np.zeros((raw.coils, raw.coils), np.complex128)
    for position in range(raw.slices):
        covariance += coils.coil_covariance(coils.calibration_region(raw.read_slice(position), width, raw.mask))
    return coils.compression_matrix(covariance, virtual)


def build_index(records: Sequence[VolumeRecord], splits: dict[str, Split], options: PrepareOptions) -> pd.DataFrame:
    """The index of slices: by task, volume and slice, numbered from 0, with the nested orders of each task's training.

    By volumes: whole volumes in a seeded order, the slices of each in a seeded order too, so that a volume which is
    cut gives a fair sample of itself. By slices: all in a seeded order. Each draw is keyed by names, so that adding a
    volume leaves the order of the others.
    """
    seed = options.subset_seed
    lines = []
    for record in sorted(records, key=lambda one: (one.task, one.volume)):
        for position in range(record.slices):
            training = splits[record.volume] == "train"
            lines.append(
                {
                    **record.model_dump(include=set(INDEX_DTYPES)),
                    "slice": position,
                    "split": splits[record.volume],
                    "rank_volumes": -1,
                    "rank_slices": -1,
                    "file": volume_file(record.volume),
                    "_by_volumes": (
                        draw(seed, "volumes", record.volume),
                        record.volume,
                        draw(seed, record.volume, position),
                    ),
                    "_by_slices": (draw(seed, "slices", record.volume, position), record.volume, position),
                    "_training": training,
                }
            )
    for cut in ("volumes", "slices"):
        placed: dict[str, int] = defaultdict(int)
        for line in sorted(lines, key=lambda one: one[f"_by_{cut}"]):
            if line["_training"]:
                line[f"rank_{cut}"] = placed[line["task"]]
                placed[line["task"]] += 1
    table = [{"slice_id": number, **line} for number, line in enumerate(lines)]
    return pd.DataFrame(table, columns=list(INDEX_DTYPES)).astype(INDEX_DTYPES)


def split_patients(tasks_of: dict[str, frozenset[str]], options: PrepareOptions) -> dict[str, Split]:
    """Draw a split of patients, so that each group of patients with the same tasks is split by the same fractions.

    A group of three or more gives at least one patient to each split whose fraction is not zero; smaller groups serve
    training first, then validation.

    Args:
        tasks_of: patient → the tasks that there are volumes of.
        options: ``fractions`` and ``split_seed``.
    """
    _, val, test = options.fractions
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for patient, tasks in tasks_of.items():
        groups[tuple(sorted(tasks))].append(patient)
    sides: dict[str, Split] = {}
    for patients in groups.values():
        ordered = sorted(patients, key=lambda one: (draw(options.split_seed, "split", one), one))
        enough = len(ordered) >= 3
        n_val = max(int(enough or len(ordered) == 2), round(val * len(ordered))) if val else 0
        n_test = max(int(enough), round(test * len(ordered))) if test else 0
        n_val = min(n_val, len(ordered) - 1)
        n_test = min(n_test, len(ordered) - 1 - n_val)
        for place, patient in enumerate(ordered):
            sides[patient] = "val" if place < n_val else "test" if place < n_val + n_test else "train"
    return sides


def draw(seed: int, *names: str | int) -> int:
    """A random 64-bit number that depends on the seed and the names alone."""
    words = [
        name if isinstance(name, int) else int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) for name in names
    ]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0])


def volume_key(facts: dict[str, Any], kspace_sha256: str) -> str:
    """Identity of a volume file's content: raw samples, the header facts that were used, and the recipe."""
    content = {**facts, "source": None, "kspace_sha256": kspace_sha256}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def samples_sha256(raw: RawVolume) -> str:
    """SHA-256 of a volume's raw samples, slice by slice, whatever file they lie in."""
    digest = hashlib.sha256(repr((raw.slices, raw.coils, raw.rows, raw.columns)).encode())
    for position in range(raw.slices):
        digest.update(raw.read_slice(position).tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of what shaped the data, for provenance."""
    return {name: importlib.metadata.version(name) for name in ("splitpoint", "numpy", "sigpy", "h5py", "ismrmrd")}


def _facts(raw: RawVolume, job: Job) -> dict[str, Any]:
    """The fields of ``VolumeRecord`` that are known before the samples are read."""
    options = job.options
    if options.crop == "header":
        size = raw.crop
    elif options.crop == "full":
        size = (raw.image_rows, raw.columns)
    else:
        size = options.crop
    return {
        "volume": raw.name,
        "task": job.task,
        "patient": raw.patient,
        "slices": raw.slices,
        "coils": min(raw.coils, options.coils or raw.coils),
        "rows": raw.image_rows,
        "columns": raw.columns,
        "pad_left": raw.pad_left,
        "pad_right": raw.pad_right,
        "crop_rows": min(size[0], raw.image_rows),
        "crop_columns": min(size[1], raw.columns),
        "source": raw.path.name,
        "source_format": raw.format,
        "acquisition": raw.acquisition,
        "recipe": {"version": RECIPE_VERSION, **options.recipe()},
    }


def _kept(path: Path, facts: dict[str, Any], source_sha256: str) -> VolumeRecord | None:
    """The record of a finished volume, where it is what would be made now; else None."""
    try:
        record = read_record(path)
    except InputError:
        # Of another version, or not ours: made again.
        return None
    same = record.source_sha256 == source_sha256 and record.key == volume_key(facts, record.kspace_sha256)
    return record if same else None


def _check_has_reference(raw: RawVolume) -> None:
    if raw.mask is not None and not raw.mask[raw.pad_left : raw.columns - raw.pad_right].all():
        raise InputError(
            f"{raw.path} is undersampled (its mask keeps {int(raw.mask.sum())} of {raw.columns} columns), so it has no "
            "reference to train or test on"
        )


def _task(source: Source, volume: RawVolume, options: PrepareOptions) -> str:
    for pattern, name in options.tasks.items():
        if fnmatch.fnmatch(str(source.path), pattern) or fnmatch.fnmatch(source.path.name, pattern):
            return name
    return volume.task


def _folder_split(source: Source) -> Split | None:
    """The split that the nearest folder names, or None."""
    for folder in reversed(source.folders):
        match = FOLDER_SPLIT.fullmatch(folder)
        if match is not None:
            side = match[1].lower()
            return next(split for split in SPLITS if split == side)
    return None


def _split(opened: dict[str, tuple[Source, RawVolume]], options: PrepareOptions) -> dict[str, Split]:
    """Volume → its side of the split."""
    by_folder = {name: _folder_split(source) for name, (source, _) in opened.items()}
    unnamed = sorted(name for name, split in by_folder.items() if split is None)
    by_draw = options.split == "random" or (options.split == "auto" and len(unnamed) == len(opened))
    if by_draw:
        tasks_of: dict[str, frozenset[str]] = defaultdict(frozenset)
        for source, volume in opened.values():
            tasks_of[volume.patient] |= {_task(source, volume, options)}
        sides = split_patients(tasks_of, options)
        return {name: sides[volume.patient] for name, (_, volume) in opened.items()}
    if unnamed:
        raise InputError(
            f"{opened[unnamed[0]][0].path} lies in no folder named train, val or test (multicoil_train, …) "
            f"({len(unnamed)} such in all); move it, or ask for split: random"
        )
    first_of: dict[str, tuple[Path, Split]] = {}
    folders: dict[str, Split] = {name: split for name, split in by_folder.items() if split is not None}
    for name, (source, volume) in opened.items():
        path, side = first_of.setdefault(volume.patient, (source.path, folders[name]))
        if side != folders[name]:
            raise InputError(
                f"patient {volume.patient} is on both sides of the split: {path} is in {side}, {source.path} in "
                f"{folders[name]}; move one, or ask for split: random"
            )
    return folders


def _without_duplicates(results: list[VolumeResult]) -> list[VolumeResult]:
    """Volumes with the same samples under two names would put one volume on both sides of a split: the first stays."""
    first: dict[str, Path] = {}
    kept = []
    for result in results:
        if result.record is not None:
            other = first.setdefault(result.record.kspace_sha256, result.raw)
            if other is not result.raw:
                reason = f"{result.raw} holds the same samples as {other}; only the first is taken"
                result = VolumeResult(result.raw, "failed", None, reason, seconds=result.seconds)
        kept.append(result)
    return kept


def _write_description(
    out: Path,
    index: pd.DataFrame,
    records: Sequence[VolumeRecord],
    options: PrepareOptions,
    results: Sequence[VolumeResult],
) -> str:
    keys = {record.volume: record.key for record in records}
    description = Description(
        format=FORMAT_VERSION,
        hash=content_hash(keys, index),
        tasks=tuple(sorted({record.task for record in records})),
        options=options,
        keys=dict(sorted(keys.items())),
        failed={one.raw.name: one.reason for one in results if one.status == "failed"},
        versions=versions() | {"pandas": importlib.metadata.version("pandas")},
    )
    (out / VOLUMES_FOLDER).mkdir(parents=True, exist_ok=True)
    write_index(out / INDEX_FILE, index)
    # Last, as it is what makes the folder a data set; opening checks that the index is the one described.
    with replace_file(out / DATASET_FILE) as fresh:
        fresh.write_text(description.model_dump_json(indent=2) + "\n")
    return description.hash


def _failure(path: Path, error: Exception, seconds: float) -> VolumeResult:
    """The boundary between one file and the rest of the run: named and reported, so that the others go on."""
    if isinstance(error, InputError):
        reason = str(error) if path.name in str(error) else f"{path}: {error}"
        return VolumeResult(path, "failed", None, reason, "", seconds)
    # It may be our fault as well as the file's.
    detail = "".join(traceback.format_exception(error))
    return VolumeResult(path, "failed", None, f"{path}: {type(error).__name__}: {error}", detail, seconds)
