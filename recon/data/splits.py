"""The split of a data set by patient, and the order in which a scarce task's training slices are cut.

Split by patient, never by slice: as folders say or by a seeded draw. Every draw is keyed by names, so that adding a
volume leaves the places of the others.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from recon.data.index import INDEX_DTYPES, SPLITS, Split
from recon.data.options import PrepareOptions
from recon.data.volume_file import VolumeRecord, volume_file
from recon.errors import InputError

FOLDER_SPLIT = re.compile(r"(?:(?:multicoil|singlecoil)_)?(train|val|test)", re.IGNORECASE)


class Member(NamedTuple):
    """The facts about a volume that a split needs."""

    volume: str
    path: str
    task: str
    patient: str
    folder: Split | None
    """The split that its folder names."""


def folder_split(folders: Iterable[str]) -> Split | None:
    """The split that the nearest of the folders (outermost first) names, or None."""
    for folder in reversed(list(folders)):
        match = FOLDER_SPLIT.fullmatch(folder)
        if match is not None:
            side = match[1].lower()
            return next(split for split in SPLITS if split == side)
    return None


def join_patients(same: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Patients who turned out to be the same person: each → one name for all of them.

    Args:
        same: pairs of patients who share a volume.
    """
    name: dict[str, str] = {}

    def root(patient: str) -> str:
        while name.get(patient, patient) != patient:
            patient = name[patient]
        return patient

    for one, other in same:
        first, second = sorted((root(one), root(other)))
        name[second] = first
    return {patient: root(patient) for patient in name}


def split(members: Sequence[Member], options: PrepareOptions) -> dict[str, Split]:
    """Volume → its split.

    Raises:
        InputError: folders that do not say a split where they should, or a patient on both sides of it.
    """
    unnamed = [one for one in members if one.folder is None]
    if options.split == "random" or (options.split == "auto" and len(unnamed) == len(members)):
        tasks_of: dict[str, frozenset[str]] = defaultdict(frozenset)
        for one in members:
            tasks_of[one.patient] |= {one.task}
        sides = split_patients(tasks_of, options)
        return {one.volume: sides[one.patient] for one in members}
    if unnamed:
        first = min(unnamed)
        raise InputError(
            f"{first.path} lies in no folder named train, val or test (multicoil_train, …) "
            f"({len(unnamed)} such in all); move it, or ask for split: random"
        )
    first_of: dict[str, Member] = {}
    for one in members:
        first = first_of.setdefault(one.patient, one)
        if first.folder != one.folder:
            raise InputError(
                f"patient {one.patient} is on both sides of the split: {first.path} is in {first.folder}, {one.path} "
                f"in {one.folder}; move one, or ask for split: random"
            )
    return {one.volume: one.folder for one in members if one.folder is not None}


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
        ordered = sorted(patients, key=lambda one: (seeded_number(options.split_seed, "split", one), one))
        enough = len(ordered) >= 3
        n_val = max(int(enough or len(ordered) == 2), round(val * len(ordered))) if val else 0
        n_test = max(int(enough), round(test * len(ordered))) if test else 0
        n_val = min(n_val, len(ordered) - 1)
        n_test = min(n_test, len(ordered) - 1 - n_val)
        for place, patient in enumerate(ordered):
            sides[patient] = "val" if place < n_val else "test" if place < n_val + n_test else "train"
    return sides


def build_index(records: Sequence[VolumeRecord], splits: Mapping[str, Split], options: PrepareOptions) -> pd.DataFrame:
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
                        seeded_number(seed, "volumes", record.volume),
                        record.volume,
                        seeded_number(seed, record.volume, position),
                    ),
                    "_by_slices": (seeded_number(seed, "slices", record.volume, position), record.volume, position),
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


def seeded_number(seed: int, *names: str | int) -> int:
    """A random 64-bit number that depends on the seed and the names alone."""
    words = [
        name if isinstance(name, int) else int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) for name in names
    ]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0])
