"""The final test of a whole study: every trained network of its grid on the test split, slice by slice.

The result is a folder of results (``search.results.folder``), from which a report is made. Within ``search``, the test
split is opened only here; a search never sees it.
"""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recon.config import MaskConfig, MasksConfig
from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.evaluation.compare import Method, evaluate
from recon.evaluation.definitions import DEFINITIONS, L1_WAVELET, REPORTED, TRUTH, ZERO_FILLED, Quantity
from recon.evaluation.methods import l1_wavelet, network_method, noise_free_truth, tune_l1_wavelet, zero_filled
from recon.mapping import Map
from recon.training.checkpoint import CHECKPOINT, load_network
from search.results.folder import (
    COLUMNS,
    KEYS,
    REFERENCE,
    TABLE,
    About,
    Counts,
    Images,
    images_path,
    read_images,
    read_table,
    write_about,
    write_images,
    write_table,
)
from search.study.open import OpenStudy
from search.study.record import Record
from spaces.space import Space


def tuned_wavelet(data: PreparedData, task: str, mask: MaskConfig) -> Method:
    """The ℓ1-wavelet, λ tuned on the task's validation slices under this mask."""
    return l1_wavelet(tune_l1_wavelet(data, task, mask).regularisation)


UNTRAINED_METHODS: Mapping[str, Callable[[PreparedData, str, MaskConfig], Method]] = {
    ZERO_FILLED: lambda data, task, mask: zero_filled,
    L1_WAVELET: tuned_wavelet,
    TRUTH: lambda data, task, mask: noise_free_truth,
}
"""What makes the images that no network makes, by kind: of the data, a task and the mask of validation."""


class TrialTest(NamedTuple):
    """The result of testing one trial."""

    table: pd.DataFrame
    images: dict[str, Images]
    """By name: the trial's own; with the zero-filled ones, the reference's too."""


@dataclass(frozen=True)
class NetworkTest:
    """The test of one trial; picklable. Without a checkpoint, of the method of its kind in ``UNTRAINED_METHODS``."""

    labels: dict[str, Any]
    validation: dict[str, float]
    """SSIM on the validation split, by task."""
    tasks: tuple[str, ...]
    checkpoint: Path | None
    weights: str
    """Identity of the checkpoint's content."""
    data: Path
    masks: str
    """The masks' configuration, as JSON."""
    device: str

    @property
    def images(self) -> tuple[str, ...]:
        """The names of the images that the test makes."""
        if self.checkpoint is not None:
            return (self.labels["trial"],)
        kind = self.labels["kind"]
        return (kind, REFERENCE) if kind == ZERO_FILLED else (kind,)

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others: the trial, and the kind where there is no trial."""
        return self.labels["trial"], self.labels["kind"]


def study_test(
    study: OpenStudy,
    data: Path | None = None,
    *,
    device: str = "cpu",
    map: Map = builtins.map,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Test every complete network of a study that is trained over seeds: its grid and confirmations, and baselines.

    What the study's table holds already, of the same checkpoint and with its pictures, is not tested again; the table
    is written after each trial, so that an interrupted test goes on. Tables of other tools in the folder stay.

    Args:
        study: the study.
        data: the prepared data, where they are no longer where the study was launched on them.
        device: where the networks run.
        map: applies a module-level function to picklable jobs, in any order.
        progress: called with (done, all).

    Returns:
        The table, in the order of trials: ``COLUMNS``.

    Raises:
        InputError: nothing complete, a checkpoint that is gone, other data, or data without a test split.
    """
    folder = Path(data or study.data)
    opened = PreparedData(folder, open_test=True)
    if opened.hash != study.attributes["data_hash"]:
        raise InputError(
            f"{folder} has hash {opened.hash[:12]}, where study {study.name!r} was trained on "
            f"{study.attributes['data_hash'][:12]}"
        )
    for task in study.space.tasks:
        if not opened.subset(task, split="test"):
            raise InputError(f"{folder} has no test slices of {task}")
    records = study.over_seeds()
    if not records:
        raise InputError(f"study {study.name!r} has no complete network over seeds yet; launch or confirm it first")
    results = study.folder / "test"
    path = results / TABLE
    try:
        table = read_table(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)
    except InputError as error:
        raise InputError(f"{error}; delete it, and the study is tested again") from error
    jobs = list(_jobs(records, opened, study.space, device))
    write_about(_about(study, records, opened), results)
    # What is no longer in the study, was trained anew, or lacks its pictures, goes.
    wanted = {job.key: job.weights for job in jobs if _has_images(job, results)}
    table = table.loc[[wanted.get(key) == weights for key, weights in zip(_keys(table), table["weights"], strict=True)]]
    tested = set(_keys(table))
    missing = [job for job in jobs if job.key not in tested]
    for done, found in enumerate(map(run_job, missing), start=1):
        for name, images in found.images.items():
            write_images(images_path(results, name), images, found.table["weights"].iloc[0])
        table = pd.concat([table, found.table]) if len(table) else found.table
        # Stable, so that a trial's slices stay in their order.
        places = {job.key: place for place, job in enumerate(jobs)}
        table = table.iloc[np.argsort([places[key] for key in _keys(table)], kind="stable")]
        write_table(table, path)
        if progress is not None:
            progress(done, len(missing))
    if not missing:
        write_table(table, path)
    return read_table(path)


def _about(study: OpenStudy, records: Sequence[Record], data: PreparedData) -> About:
    space = study.space
    mask = records[0].config.masks.test
    index = data.index
    epochs: dict[str, set[int]] = {}
    for one in records:
        epochs.setdefault(one.kind, set()).add(one.epochs)
    return About(
        study=study.name,
        definition=REPORTED,
        definition_text=DEFINITIONS[REPORTED],
        mask=mask if mask.path is None else mask.model_copy(update={"path": Path(mask.path).name}),
        data_hash=data.hash,
        tasks=space.tasks,
        scarce=space.scarce.task if space.scarce else None,
        test={
            task: Counts(volumes=part["volume"].nunique(), slices=len(part))
            for task in space.tasks
            for part in [index[index["slice_id"].isin(data.subset(task, split="test"))]]
        },
        epochs={kind: tuple(sorted(found)) for kind, found in epochs.items()},
        code_versions=tuple(sorted({one.code_version for one in records})),
    )


def _has_images(job: NetworkTest, results: Path) -> bool:
    try:
        found = [read_images(images_path(results, name)) for name in job.images]
    except InputError:
        return False
    return all(weights == job.weights for _, weights in found)


def _keys(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(table["trial"], table["kind"], strict=True))


def _jobs(records: Sequence[Record], data: PreparedData, space: Space, device: str) -> Iterator[NetworkTest]:
    masks = records[0].config.masks.model_dump_json()
    tasks = tuple(dict.fromkeys(task for one in records for task in one.tasks))
    folder = data.path.resolve()
    truth = tuple(task for task in tasks if data.knows_truth(task, "test"))
    for kind, served in {ZERO_FILLED: tasks, L1_WAVELET: tasks, TRUTH: truth}.items():
        if served:
            labels: dict[str, Any] = {**dict.fromkeys(KEYS, ""), "kind": kind, "scarce_slices": None, "seed": None}
            yield NetworkTest(labels, {}, served, None, "", folder, masks, device)
    for one in records:
        if one.checkpoint is None or not (Path(one.checkpoint) / CHECKPOINT).is_file():
            raise InputError(f"the checkpoint of trial {one.name} is not at {one.checkpoint}; was it moved or deleted?")
        labels = {
            "trial": one.name,
            "kind": one.kind,
            "layout": one.layout,
            "weighting": one.weighting or "",
            "init": one.point.init if one.point else "",
            "hyperparameters": _hyperparameters(one, space),
            "scarce_slices": one.scarce_slices,
            "seed": one.seed,
        }
        checkpoint = Path(one.checkpoint)
        with (checkpoint / CHECKPOINT).open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        validation = {task: one.metrics[Quantity.SSIM.of(task)] for task in one.tasks}
        yield NetworkTest(labels, validation, one.tasks, checkpoint, weights, folder, masks, device)


def _hyperparameters(record: Record, space: Space) -> str:
    """What is searched or changed, by name; as its row of the grid calls it where that has a label."""
    searched = record.point.hyperparameters if record.point else ()
    label = space.label(searched)
    if label is not None:
        return label
    return " ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in searched)


def run_job(job: NetworkTest) -> TrialTest:
    """Test one trial."""
    data = PreparedData(job.data, open_test=True)
    masks = MasksConfig.model_validate_json(job.masks)
    if job.checkpoint is None:
        make = UNTRAINED_METHODS[job.labels["kind"]]
        methods = {task: make(data, task, masks.val) for task in job.tasks}
    else:
        network, _ = load_network(job.checkpoint, job.device)
        methods = {task: network_method(network.for_task(task), task, job.device) for task in job.tasks}
    return test_methods(data, methods, masks.test, job.labels, job.validation, job.weights, job.images)


def test_methods(
    data: PreparedData,
    methods: Mapping[str, Method],
    mask: MaskConfig,
    labels: Mapping[str, Any],
    validation: Mapping[str, float],
    weights: str,
    images: Sequence[str],
) -> TrialTest:
    """The lines and images of one trial, in the form of ``search.results.folder``; a peer's, too.

    Args:
        data: opened for testing.
        methods: one for each task that the trial reconstructs.
        mask: of every test slice.
        labels: one value for each of ``KEYS``.
        validation: SSIM on the validation split, by task.
        weights: identity of what made the images.
        images: names to keep the images under; under ``REFERENCE`` the reference's are kept.
    """
    parts = []
    kept: dict[str, Images] = {name: {} for name in images}
    for pictures, part in evaluate(data, "test", {task: {"": one} for task, one in methods.items()}, mask, (REPORTED,)):
        parts.append(part)
        middle = len(pictures.reference) // 2
        reference = pictures.reference[middle]
        scale = float(reference.max()) or 1.0
        for name, found in kept.items():
            image = reference if name == REFERENCE else pictures.images[""][middle]
            found[f"{pictures.task}/{pictures.volume}"] = (image / scale).astype(np.float16)
    table = pd.concat(parts, ignore_index=True)
    for name, value in labels.items():
        table[name] = value
    table["validation"] = table["task"].map(dict(validation)).astype(float)
    table["weights"] = weights
    return TrialTest(table[COLUMNS], kept)
