"""The final test of a whole study: every trained network of its grid on the test split, slice by slice.

What a report's tables are made of. The test split is opened here and nowhere else in ``search``; a search never sees
it.
"""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from recon.config import MaskConfig
from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.evaluation import Method, evaluate, network_method, zero_filled
from recon.files import replace_file
from recon.training import CHECKPOINT, load_network
from search.study import OpenStudy, Record, State

TABLE = "trials.csv.gz"
"""In the study's ``test/``: a line a trial, task and slice; definition ``paper``. ``validation`` repeats the trial's
validation SSIM of the task, by which one may choose among trials without looking at the test."""
DEFINITION = "paper"
KEYS = ["trial", "kind", "layout", "weighting", "init", "scarce_slices", "seed"]
COLUMNS = [*KEYS, "task", "volume", "slice", "ssim", "psnr", "nrmse", "validation", "weights"]
ZERO_FILLED = "zero-filled"
"""The kind of the lines that no network made."""

Map = Callable[[Callable[["Job"], pd.DataFrame], Iterable["Job"]], Iterable[pd.DataFrame]]


@dataclass(frozen=True)
class Job:
    """The test of one trial; picklable. Without a checkpoint, of the zero-filled image."""

    labels: dict[str, Any]
    validation: dict[str, float]
    """SSIM on the validation split, by task."""
    tasks: tuple[str, ...]
    checkpoint: Path | None
    weights: str
    """Identity of the checkpoint's content."""
    data: Path
    mask: str
    """The test mask's configuration, as JSON."""


def study_test(
    study: OpenStudy,
    data: Path | None = None,
    *,
    map: Map = builtins.map,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Test every complete network of a study that is trained over seeds: its grid and confirmations, and baselines.

    What the study's table holds already, of the same checkpoint, is not tested again; the table is written after each
    trial, so that an interrupted test goes on.

    Args:
        study: the study.
        data: the prepared data, where they are no longer where the study was launched on them.
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
    records = [one for one in study.referenced() if one.state is State.COMPLETE and one.stage == "confirm"]
    if not records:
        raise InputError(f"study {study.name!r} has no complete network over seeds yet; launch or confirm it first")
    path = study.folder / "test" / TABLE
    table = read_table(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)
    jobs = list(_jobs(records, folder))
    # What is no longer in the study, or was trained anew, goes.
    wanted = {job.labels["trial"]: job.weights for job in jobs}
    table = table.loc[table["trial"].map(wanted).eq(table["weights"]).astype(bool)]
    tested = set(table["trial"])
    missing = [job for job in jobs if job.labels["trial"] not in tested]
    for done, found in enumerate(map(run_job, missing), start=1):
        table = pd.concat([table, found]) if len(table) else found
        # Stable, so that a trial's slices stay in their order.
        table = table.sort_values("trial", key=lambda names: names.str[1:].replace("", "-1").astype(int), kind="stable")
        _write(table, path)
        if progress is not None:
            progress(done, len(missing))
    if not missing:
        _write(table, path)
    return read_table(path)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of tested trials; text stays text, and an empty field an empty text."""
    numbers = {"seed": "Int64", "scarce_slices": "Int64", "slice": "int64"}
    numbers |= dict.fromkeys(("ssim", "psnr", "nrmse", "validation"), "float64")
    try:
        text = pd.read_csv(path, dtype="str", keep_default_na=False, compression="gzip")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); delete it, and the study is tested again") from error
    if list(text.columns) != COLUMNS:
        raise InputError(f"{path} has other columns than this version writes; delete it, and the study is tested again")
    for name in numbers:
        text[name] = pd.to_numeric(text[name].replace("", pd.NA))
    return text.astype(numbers)


def _write(table: pd.DataFrame, path: Path) -> None:
    with replace_file(path) as fresh:
        table.to_csv(fresh, index=False, float_format="%.6f", compression={"method": "gzip", "mtime": 0})


def _jobs(records: Sequence[Record], data: Path) -> Iterator[Job]:
    mask = records[0].config.masks.test.model_dump_json()
    tasks = tuple(dict.fromkeys(task for one in records for task in one.tasks))
    labels: dict[str, Any] = {**dict.fromkeys(KEYS, ""), "kind": ZERO_FILLED, "scarce_slices": None, "seed": None}
    yield Job(labels, {}, tasks, None, "", data.resolve(), mask)
    for one in records:
        if one.checkpoint is None or not (Path(one.checkpoint) / CHECKPOINT).is_file():
            raise InputError(f"the checkpoint of trial {one.name} is not at {one.checkpoint}; was it moved or deleted?")
        labels = {
            "trial": one.name,
            "kind": one.kind,
            "layout": one.layout,
            "weighting": one.weighting or "",
            "init": one.point.init if one.point else "",
            "scarce_slices": one.scarce_slices,
            "seed": one.seed,
        }
        checkpoint = Path(one.checkpoint)
        with (checkpoint / CHECKPOINT).open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        validation = {task: one.metrics[f"ssim/{task}"] for task in one.tasks}
        yield Job(labels, validation, one.tasks, checkpoint, weights, data.resolve(), mask)


def run_job(job: Job) -> pd.DataFrame:
    """Test one trial."""
    data = PreparedData(job.data, open_test=True)
    methods: dict[str, dict[str, Method]] = {task: {"": zero_filled} for task in job.tasks}
    if job.checkpoint is not None:
        network, _ = load_network(job.checkpoint)
        methods = {task: {"": network_method(network.for_task(task), task)} for task in job.tasks}
    mask = MaskConfig.model_validate_json(job.mask)
    parts = [part for _, part in evaluate(data, "test", methods, mask, (DEFINITION,))]
    found = pd.concat(parts, ignore_index=True)
    for name, value in job.labels.items():
        found[name] = value
    found["validation"] = found["task"].map(job.validation).astype(float)
    found["weights"] = job.weights
    return found[COLUMNS]
