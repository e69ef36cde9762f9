"""Prepare many raw volumes into one data set.

A run finds the files, reads their headers and prepares each volume through ``map`` (in parallel if the caller's map is
parallel). Then it finds volumes listed twice, splits by patient, and indexes the slices with nested subsets. The steps
of one volume are in ``recon.data.volume``, the checks in ``recon.data.checks``, the split in ``recon.data.splits`` and
the format in ``recon.data.prepared``.
"""

from __future__ import annotations

import builtins
import contextlib
import fnmatch
import importlib.metadata
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from recon.data import checks, readers
from recon.data.checks import Finding
from recon.data.identity import versions
from recon.data.index import empty_index, write_index
from recon.data.job import Status, VolumeJob, VolumeResult, failure, prepare_volume
from recon.data.options import PrepareOptions
from recon.data.prepared import DATASET_FILE, FORMAT_VERSION, INDEX_FILE, PROBLEMS_FILE, Description, content_hash
from recon.data.readers import RawVolume
from recon.data.readers.raw import undersampling
from recon.data.splits import Member, build_index, folder_split, join_patients, split
from recon.data.volume_file import VOLUMES_FOLDER, VolumeRecord, read_record
from recon.errors import InputError
from recon.files import remove_parts, replace_file
from recon.mapping import Map


class Source(NamedTuple):
    """A raw file, and the folder names between the path that the caller gave and the file."""

    path: Path
    folders: tuple[str, ...]


@dataclass(frozen=True)
class PrepareReport:
    """The result of a preparation.

    Attributes:
        hash: content hash of the data set; None if no volume could be prepared, so that no data set was written.
        problems: table of findings, ``file, slice, severity, what``, errors first (``recon.data.checks.table``).
    """

    out: Path
    hash: str | None
    results: tuple[VolumeResult, ...]
    seconds: float
    problems: pd.DataFrame = field(repr=False)
    index: pd.DataFrame = field(repr=False, default_factory=empty_index)

    @property
    def prepared(self) -> tuple[str, ...]:
        """Number of volumes prepared in this run."""
        return self._volumes("prepared")

    @property
    def kept(self) -> tuple[str, ...]:
        """Number of volumes that were already prepared."""
        return self._volumes("kept")

    @property
    def duplicates(self) -> dict[str, str]:
        """Raw file → a sentence that names the file with the same samples."""
        return {str(one.raw): one.reason for one in self.results if one.status == "duplicate"}

    @property
    def failed(self) -> dict[str, str]:
        """Raw file → reason, for each broken file that was left out of the data set."""
        return {str(one.raw): one.reason for one in self.results if one.status == "failed"}

    @property
    def ok(self) -> bool:
        """Whether no file was broken."""
        return not self.failed

    @property
    def slices_left_out(self) -> int:
        """Number of slices that were left out of volumes that were prepared."""
        used = [one.record for one in self.results if one.record is not None and one.status != "duplicate"]
        return sum(one.raw_slices - one.slices for one in used)

    def _volumes(self, status: Status) -> tuple[str, ...]:
        return tuple(one.record.volume for one in self.results if one.status == status and one.record)


def prepare(
    raw: Sequence[str | Path] | str | Path,
    out: str | Path,
    options: PrepareOptions | None = None,
    *,
    reuse: Iterable[str | Path] = (),
    map: Map = builtins.map,
    progress: Callable[[int, int, VolumeResult], None] | None = None,
) -> PrepareReport:
    """Prepare raw volumes into the folder ``out``.

    The call is safe to interrupt: each volume appears whole or not at all, and the same call continues with the missing
    ones. A volume is prepared again only if its samples, or the options that shape it, have changed. It is calibrated
    again only if no volume file in ``out`` or ``reuse`` holds the maps of the same samples; the raw file's name does
    not matter. Only one run at a time may use a folder.

    Args:
        raw: files of raw volumes, and folders to search for them.
        out: the data set's folder; created if it does not exist.
        options: see ``PrepareOptions``.
        reuse: other prepared data sets whose maps may be reused.
        map: applies a module-level function to picklable jobs, in any order; by default one after another.
        progress: called with (done, all, result) after each volume.

    Returns:
        A report. ``report.ok`` is false if a file was left out; ``report.failed`` says why. ``report.problems`` lists
        all findings, which are also written beside the index.

    Raises:
        InputError: there is nothing to prepare, two volumes have one name, folders do not name a split, or a patient is
            on both sides of it. A broken file raises nothing: it is left out and reported.
    """
    begin = time.monotonic()
    out = Path(out)
    options = options or PrepareOptions()
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; the data set needs a folder")
    check_options_do_something(options)
    sources = [source for source in find(raw) if not source.path.resolve().is_relative_to(out.resolve())]
    check_globs_match(options, [source.path for source in sources])
    if options.hints.axes and not any(source.path.suffix.lower() == ".npy" for source in sources):
        raise InputError("--axes names the axes of .npy files, and there is none among the raw files")
    members: dict[str, Member] = {}
    paths: dict[str, Path] = {}
    results: list[VolumeResult] = []
    most_coils = 0
    for source, opened in _opened(sources, options, results):
        name = opened.name
        if name in members:
            raise InputError(f"{paths[name]} and {source.path} are both named {name}; a volume's file name is its own")
        patient = name if options.patients == "files" else opened.patient
        task = task_of(source.path, opened, options)
        members[name] = Member(name, str(source.path), task, patient, folder_split(source.folders))
        paths[name] = source.path
        most_coils = max(most_coils, opened.coils)
    if options.coils is not None and 0 < most_coils < options.coils:
        raise InputError(f"--coils is {options.coils}, and no volume has more than {most_coils}; leave it out")
    # Before the work, so that an impossible split is reported at once.
    split(list(members.values()), options)
    known = known_calibrations([out, *_folders(reuse)])
    # Absolute paths, because a cluster's workers run in folders of their own.
    jobs = [
        VolumeJob(paths[name].resolve(), one.task, one.patient, out.resolve(), options, known, name)
        for name, one in members.items()
    ]
    for done, result in enumerate(map(prepare_volume, jobs), start=1):
        results.append(result)
        if progress is not None:
            progress(done, len(jobs), result)
    results, same = _without_duplicates(sorted(results, key=lambda one: (one.raw.stem, str(one.raw))))
    records = [one.record for one in results if one.record is not None and one.status != "duplicate"]
    given = {str(source.path.resolve()): str(source.path) for source in sources}
    findings = [one._replace(file=given.get(one.file, one.file)) for result in results for one in result.findings]
    findings += checks.compare_scales(records, paths) + checks.compare_simulations(records, paths)
    problems = checks.table(findings)
    for name in (DATASET_FILE, INDEX_FILE, PROBLEMS_FILE):
        remove_parts(out / name)
    if findings or records:
        out.mkdir(parents=True, exist_ok=True)
        with replace_file(out / PROBLEMS_FILE) as fresh:
            problems.to_csv(fresh, index=False)
    index, identity = empty_index(), None
    if records:
        persons = join_patients(same)
        taken = [
            members[record.volume]._replace(patient=persons.get(record.patient, record.patient)) for record in records
        ]
        index = build_index(records, split(taken, options), options)
        identity = _write_description(out, index, records, options, results)
    return PrepareReport(out, identity, tuple(results), time.monotonic() - begin, problems, index)


def _opened(
    sources: Iterable[Source], options: PrepareOptions, results: list[VolumeResult]
) -> Iterator[tuple[Source, RawVolume]]:
    """The volumes of the raw files; one that cannot be a reference is a result already."""
    for source in sources:
        try:
            found = readers.read_volumes(source.path, options.hints)
        except Exception as error:
            results.append(failure(source.path, error, 0.0))
            continue
        for opened in found:
            try:
                _check_has_reference(opened)
            except InputError as error:
                results.append(failure(source.path, error, 0.0))
            else:
                yield source, opened


def check_options_do_something(options: PrepareOptions) -> None:
    """Raise an InputError for an option that was given and that the other options leave without effect."""
    useless: dict[str, str] = {}
    if options.coils is None:
        useless["compression"] = "without --coils"
    if options.maps == "own":
        fields = ("espirit", "calibration", "calibration_mask", "eigenvalue_crop", "maps_sets")
        useless |= dict.fromkeys(fields, "with --maps own")
        if options.coils is None:
            useless["calibration_width"] = "with --maps own"
    for name, why in useless.items():
        default = PrepareOptions.model_fields[name].default
        if name in options.model_fields_set and getattr(options, name) != default:
            raise InputError(f"--{name.replace('_', '-')} does nothing {why}; leave it out")


def check_globs_match(options: PrepareOptions, files: Sequence[Path]) -> None:
    """Raise an InputError for a glob of ``tasks`` that matches none of the raw files."""
    for pattern in options.tasks:
        if not any(_matches(file, pattern) for file in files):
            raise InputError(f"--task: no raw file matches {pattern!r} ({len(files)} files, such as {files[0]})")


def _matches(path: Path, pattern: str) -> bool:
    return fnmatch.fnmatch(str(path), pattern) or fnmatch.fnmatch(path.name, pattern)


def _folders(given: Iterable[str | Path]) -> list[Path]:
    """Folders as absolute paths.

    Raises:
        InputError: a folder is no prepared data set.
    """
    folders = [Path(one).resolve() for one in given]
    for folder in folders:
        if not (folder / VOLUMES_FOLDER).is_dir():
            raise InputError(f"{folder} holds no prepared volumes; --reuse takes prepared data sets")
    return folders


def known_calibrations(folders: Iterable[Path]) -> dict[str, Path]:
    """Calibration → volume file, for every volume in the folders of the data sets."""
    found: dict[str, Path] = {}
    for folder in folders:
        for file in sorted((folder.resolve() / VOLUMES_FOLDER).glob("*.h5")):
            # Another version wrote it, or it is not ours: its maps are of no use.
            with contextlib.suppress(InputError):
                found.setdefault(read_record(file).calibration, file)
    return found


def find(raw: Sequence[str | Path] | str | Path) -> list[Source]:
    """Raw files among the given files and folders, each once, in the order of their names.

    Raises:
        InputError: a path does not exist, or no raw file was found.
    """
    given = [Path(one) for one in ([raw] if isinstance(raw, str | Path) else raw)]
    found: dict[Path, Source] = {}
    for path in given:
        if path.is_dir():
            files = [file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in readers.suffixes()]
            shown = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
            for file in readers.volumes(shown):
                folders = file.relative_to(path).parts[:-1]
                found.setdefault(file.resolve(), Source(file, (path.resolve().name, *folders)))
        elif path.is_file():
            for file in readers.volumes([path]) or [path]:
                found.setdefault(file.resolve(), Source(file, (file.resolve().parent.name,)))
        else:
            raise InputError(f"{path} is neither a file nor a folder; give raw volumes or folders of them")
    if not found:
        endings = ", ".join(sorted(readers.suffixes()))
        raise InputError(f"there is no raw file ({endings}) in {', '.join(str(path) for path in given)}")
    return sorted(found.values(), key=lambda source: (source.path.name, str(source.path)))


def task_of(path: Path, raw: RawVolume, options: PrepareOptions) -> str:
    """The task of a raw file: the task of the first glob that matches it, else the task in its header."""
    for pattern, name in options.tasks.items():
        if _matches(path, pattern):
            return name
    return raw.task


def _check_has_reference(raw: RawVolume) -> None:
    if raw.mask is None:
        return
    inside = raw.mask[..., raw.pad_left : raw.columns - raw.pad_right]
    if inside.all():
        return
    if raw.mask.ndim == 2:
        said = undersampling(inside)
    else:
        said = f"undersampled (its mask keeps {int(raw.mask.sum())} of {raw.columns} columns)"
    raise InputError(f"{raw.path} is {said}, so it has no reference to train or test on")


def _without_duplicates(results: list[VolumeResult]) -> tuple[list[VolumeResult], list[tuple[str, str]]]:
    """Of volumes with the same samples keep the first: two names could put one volume on both sides of a split.

    Returns:
        The results, and the pairs of patients who share a volume, and so are one person.
    """
    first: dict[str, VolumeResult] = {}
    kept, same = [], []
    for result in results:
        if result.record is not None:
            other = first.setdefault(result.record.kspace_sha256, result)
            if other is not result:
                assert other.record is not None
                same.append((other.record.patient, result.record.patient))
                reason = f"it holds the same samples as {other.raw.name}; only that one is taken"
                result = VolumeResult(
                    result.raw,
                    "duplicate",
                    result.record,
                    f"{result.raw}: {reason}",
                    (*result.findings, Finding(str(result.raw), None, "warning", reason)),
                    seconds=result.seconds,
                )
        kept.append(result)
    return kept, same


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
    # Written last, because it makes the folder a data set; opening checks that it describes this index.
    with replace_file(out / DATASET_FILE) as fresh:
        fresh.write_text(description.model_dump_json(indent=2) + "\n")
    return description.hash
