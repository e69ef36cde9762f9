"""A whole simulated data set: who is examined, from which knee, and in which split."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from recon.errors import InputError
from recon.mapping import Map
from recon.simulate import settings
from recon.simulate.formats import Format
from recon.simulate.geometry import Geometry
from recon.simulate.write import Examination, Split, examine
from recon.simulate.write import contrasts as known_contrasts

SUBJECTS: Mapping[str, int] = {"train": 8, "val": 2, "test": 2}
KNEES: Mapping[Split, str] = {"train": "ab", "val": "ab", "test": "c"}
"""The knees that a split's subjects are made from: no test subject shares one with training."""
FIRST: Mapping[Split, int] = {"train": 0, "val": 6000, "test": 8000}
"""The number of a split's first subject, so that more subjects of one split leave those of the others as they are."""
LAST = 9999
CONTRASTS = ("PDw", "PDw-FS")
"""What is simulated unless someone asks for other contrasts: fastMRI's."""

SPLITS: tuple[Split, ...] = get_args(Split)
Progress = Callable[[int, int], Any]


def simulate(
    out: str | Path,
    *,
    subjects: Mapping[str, int] = SUBJECTS,
    matrix: int = 320,
    slices: int = 30,
    coils: int = 15,
    field_of_view_mm: float = 160.0,
    phase_lines: int | None = None,
    snr: float = 30.0,
    seed: int = 0,
    contrasts: Sequence[str] = CONTRASTS,
    format: Format = "fastmri",
    refuse_others: bool = False,
    map: Map = map,
    progress: Progress | None = None,
) -> list[Path]:
    """Simulate knees and write one file per volume: `out/train`, `out/val` and `out/test`.

    subjects: how many of each split; a subject has a volume per contrast, such as `kneeNNNN_CORPD_FBK.h5` and
    `kneeNNNN_CORPDFS_FBK.h5`. contrasts: PDw, PDw-FS and T2w, or some of them; adding one leaves the volumes of the
    others as they are. matrix: rows and columns of the reconstructed image; k-space has twice the rows
    (readout oversampling) and 1.15 times the columns, of which `phase_lines` are acquired (fastMRI's 332 of 368 at 320,
    in proportion, where None) and the others zero. Slices are 3 mm thick and spread over the joint. snr: of muscle in
    the proton-density scan, coils combined at best; infinite means no noise, and 0 noise alone, without a knee.
    format: of the files (``recon.simulate.formats``); fastMRI's HDF5 by default.
    refuse_others: whether a folder that holds raw volumes of other settings is an error, before any work; the command
    line says yes.
    map: like the built-in; it may run the examinations anywhere and in any order but must return them in order.
    progress: called with the volumes done and all.

    Returns the paths of all volumes. The same arguments give the same bytes; more subjects or contrasts may be added to
    a folder later. Raises InputError for arguments out of range, and for a folder that is refused.
    """
    out = Path(out)
    _check(subjects, matrix, slices, coils, field_of_view_mm, phase_lines, snr, seed, contrasts, format)
    lines = phase_lines if phase_lines is not None else 2 * round(matrix * 332 / 640)
    columns = max(2 * round(matrix * 368 / 640), lines + lines % 2)
    geometry = Geometry(
        matrix=matrix,
        columns=columns,
        lines=lines,
        slices=slices,
        field_of_view_mm=float(field_of_view_mm),
        spacing_mm=min(7.0, max(3.0, 102.0 / slices)),
        thickness_mm=3.0,
    )
    examinations = [
        Examination(
            out=Path(out),
            split=split,
            number=FIRST[split] + index,
            seed=seed,
            knee=KNEES[split][index % len(KNEES[split])],
            geometry=geometry,
            coils=coils,
            snr=float(snr),
            contrasts=tuple(contrasts),
            format=format,
        )
        for split in SPLITS
        for index in range(subjects.get(split, 0))
    ]
    if refuse_others:
        settings.refuse_others(out, examinations[0].settings, format)
    paths: list[Path] = []
    total = len(examinations) * len(examinations[0].protocols)
    for written in map(examine, examinations):
        paths.extend(written)
        if progress is not None:
            progress(len(paths), total)
    return paths


def _check(
    subjects: Mapping[str, int],
    matrix: int,
    slices: int,
    coils: int,
    field_of_view_mm: float,
    phase_lines: int | None,
    snr: float,
    seed: int,
    contrasts: Sequence[str],
    format: str,
) -> None:
    for split, count in subjects.items():
        if split not in SPLITS:
            raise InputError(f"subjects names the split {split!r}, where {', '.join(SPLITS)} are known")
        start = FIRST[split]
        ends = [first for first in FIRST.values() if first > start] + [LAST + 1]
        room = min(ends) - start
        if not 0 <= count <= room:
            raise InputError(f"subjects: {split} is {count}, where a number from 0 to {room} is wanted")
    if sum(subjects.values()) < 1:
        raise InputError("subjects are 0 in every split, where at least one is wanted")
    if matrix < 32 or matrix > 640 or matrix % 2:
        raise InputError(f"matrix is {matrix}, where an even number from 32 to 640 is wanted")
    if not 1 <= slices <= 200:
        raise InputError(f"slices is {slices}, where a number from 1 to 200 is wanted")
    if not 1 <= coils <= 128:
        raise InputError(f"coils is {coils}, where a number from 1 to 128 is wanted")
    if not 100 <= field_of_view_mm <= 300:
        raise InputError(f"field_of_view_mm is {field_of_view_mm:g}, where a length from 100 to 300 mm is wanted")
    if phase_lines is not None and not 16 <= phase_lines <= 2 * matrix:
        raise InputError(f"phase_lines is {phase_lines}, where a number from 16 to {2 * matrix} is wanted")
    if not snr >= 0:
        raise InputError(f"snr is {snr:g}, where a number from 0 is wanted")
    if seed < 0:
        raise InputError(f"seed is {seed}, where a number from 0 is wanted")
    known = known_contrasts()
    if not contrasts or len({*contrasts}) < len(contrasts) or not {*known} >= {*contrasts}:
        said = ", ".join(contrasts) or "empty"
        raise InputError(f"contrasts is {said}, where some of {', '.join(known)} are wanted, each once")
    if format not in get_args(Format):
        raise InputError(f"format is {format!r}, where {', '.join(get_args(Format))} is wanted")
