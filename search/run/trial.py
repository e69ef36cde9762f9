"""The code inside a trial's actor: one training that reports to Ray Tune after each validation, with a checkpoint.

A ``TrialJob`` holds everything that the actor needs, as JSON in the trial's configuration. The driver
(``search.run.searcher``) decides what to train next and evaluates the reports.
"""

from __future__ import annotations

import errno
import gc
import importlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import ray.util
from ray import tune

from recon.config import Config, TrainConfig
from recon.errors import DamagedError, DataError, InputError
from recon.evaluation.definitions import Quantity
from search.run.checkpoints import Report, checkpoints, newest, write
from search.study.slices import packed

if TYPE_CHECKING:
    from recon.training.loop import EpochReport

OBJECTIVE = "objective"
EPOCH = "epoch"
REPORTS = "reports"
"""In a result, the reports since the last one, as JSON: for each number in a result Tune would keep statistics."""
METRICS = "metrics"
SLICES = "slices"
CHECKPOINT = "checkpoint"
NODE = "node"
NOTE = "note"
"""What the user should hear of a trial that goes on."""
ERROR = "error"
FAULT = "fault"
"""What an error is to be blamed on, if it is not the trial: ``data`` or ``disk``."""
GATHER_SECONDS = 0.5
"""Epochs that follow each other faster are told in one result, with one checkpoint, but for those at rungs."""
LOST = "the worker was lost"
_THREAD_TIMEOUT = "TUNE_FUNCTION_THREAD_TIMEOUT_S"


class Trainer(Protocol):
    """The function that trains: ``train_on_prepared``, or a test's replacement. It is at module level, so that an actor
    can import it."""

    __module__: str
    __qualname__: str

    def __call__(
        self,
        config: TrainConfig,
        data: Path,
        *,
        init: Path | None,
        resume: Path | None,
        device: str,
        report: Callable[[EpochReport], None],
    ) -> object:
        """Train on the data in a folder and report each of ``config.validated_epochs``."""


class TrialJob(Config):
    """One trial's work."""

    name: str
    """Name of the trial's folder: ``search-0012`` or ``reference-0003``."""
    stage: Literal["search", "baseline", "confirm"]
    number: int
    """Number of the Optuna trial."""
    root: int
    """Number of the first trial in the chain of interrupted trials that this one continues; its own number if there is
    none."""
    config: TrainConfig
    data: str
    """Folder of the prepared data, on a path that every host sees."""
    trainer: str
    """``module:function``."""
    init: str | None = None
    """The checkpoint whose weights the training starts from."""
    folder: str
    """The trial's folder, for its checkpoints; every host sees it."""
    token: str | None = None
    """Tells the trial from another study's of the same number."""
    resume: str | None = None
    """The checkpoint of an interrupted predecessor, to start from while the folder has none."""
    recorded: tuple[int, ...] = ()
    """Epochs that need not be reported: the study has them, and what follows from them was decided."""
    metric: Literal["ssim", "gain"] = "ssim"
    references: dict[str, dict[int, float]] = {}  # noqa: RUF012
    """By task and epoch, the STL's SSIM (a mean over seeds) with which the trial's SSIM is compared."""
    slices_at: tuple[int, ...] = ()
    """Epochs whose metrics are kept slice by slice: the rungs, and the last."""
    device: str = "cpu"
    threads: int = 1


def train_on_prepared(
    config: TrainConfig,
    data: Path,
    *,
    init: Path | None,
    resume: Path | None,
    device: str,
    report: Callable[[EpochReport], None],
) -> object:
    """``recon.training.train`` on a prepared data set; a reused actor opens the data once."""
    from recon.training.loop import train

    return train(config, _prepared(data), init=init, resume=resume, device=device, report=report)


@lru_cache(maxsize=1)
def _prepared(path: Path) -> Any:
    from recon.data.prepared import PreparedData

    return PreparedData(path)


def trainer_path(trainer: Trainer) -> str:
    """``module:function``, by which an actor finds the trainer."""
    if "<" in trainer.__qualname__ or "." in trainer.__qualname__:
        raise ValueError(f"a trainer is a module-level function, which {trainer.__qualname__} is not")
    return f"{trainer.__module__}:{trainer.__qualname__}"


def run_trial(config: Mapping[str, str]) -> None:
    """The trainable: train ``config['job']`` and report each epoch that is validated.

    Each report has a checkpoint of its own by then, in the trial's folder. A training that is tried again goes on from
    the newest that is whole, and first reports the epochs that the study does not have yet.

    A failure that a retry cannot mend (a loss that is not finite, a configuration that does not fit the data, data that
    cannot be read) is reported as ``error``, and the training ends. Any other exception is raised, so that Tune tries
    again.
    """
    _load()
    import torch

    from recon.device import release_memory
    from recon.training.loop import TrainingError

    job = TrialJob.model_validate_json(config["job"])
    # An actor is reused once the stopped training's thread has ended, which may take as long as its cleaning up.
    os.environ.setdefault(_THREAD_TIMEOUT, "60")
    torch.set_num_threads(job.threads)
    release_memory()  # not at the end, where a stopped training's frames still hold it
    reset_peak_memory()
    node = f"{platform.node()} ({ray.util.get_node_ip_address()})"
    found, damage = newest(checkpoints(Path(job.folder)), job.token)
    if found is None and job.resume:
        found, lost = newest([Path(job.resume)])
        damage = damage or lost
    reports = dict(found.reports) if found else {}
    reached = found.epoch if found else 0
    waiting: list[Report] = []
    sent = time.monotonic()

    def tell(**more: Any) -> None:
        """Send the reports that wait to the driver, in one result."""
        nonlocal damage, sent
        if damage is not None:
            more[NOTE], damage = f"{damage}, so it begins anew" if found is None else damage, None
        last = waiting[-1] if waiting else {EPOCH: reached, OBJECTIVE: math.nan}
        result = {EPOCH: last[EPOCH], OBJECTIVE: last[OBJECTIVE], NODE: node, REPORTS: json.dumps(waiting)}
        waiting.clear()
        tune.report({**result, **more})
        sent = time.monotonic()

    def report(epoch: EpochReport) -> None:
        nonlocal reached
        metrics = compare(epoch.metrics, epoch.epoch, job.references)
        for name in (job.metric, "loss"):
            if not math.isfinite(metrics[name]):
                raise TrainingError(f"{name} is {metrics[name]} after epoch {epoch.epoch}")
        reached = epoch.epoch
        one: Report = {EPOCH: epoch.epoch, OBJECTIVE: float(metrics[job.metric])}
        one[METRICS] = {name: float(value) for name, value in metrics.items()}
        slices = getattr(epoch, "slices", None)
        if slices is not None and epoch.epoch in job.slices_at:
            one[SLICES] = packed(slices)
        reports[epoch.epoch] = one
        waiting.append(one)
        # Epochs of milliseconds are told together: a result costs the driver more than such an epoch the trial.
        if epoch.epoch in job.slices_at or time.monotonic() - sent >= GATHER_SECONDS:
            tell(**{CHECKPOINT: str(write(Path(job.folder), epoch.epoch, epoch.save, reports, job.token))})

    def fail(error: str, fault: str | None = None) -> None:
        tell(**{ERROR: error, OBJECTIVE: math.nan}, **({FAULT: fault} if fault else {}))

    module, function = job.trainer.split(":")
    trainer: Trainer = getattr(importlib.import_module(module), function)
    init = Path(job.init) if job.init else None
    resume = found.path if found else None
    try:
        for epoch in sorted(set(reports) - set(job.recorded)):
            waiting.append(reports[epoch])
            if epoch in job.slices_at:
                tell(**{CHECKPOINT: str(resume)})
        trainer(job.config, Path(job.data), init=init, resume=resume, device=job.device, report=report)
    except (TrainingError, InputError) as error:
        # A checkpoint that it starts from and that is damaged is no fault of the configuration either.
        fail(str(error), "data" if isinstance(error, (DataError, DamagedError)) else None)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fail(f"{job.folder}: {error.strerror}", "disk")


def _load() -> None:
    """Import the trainer once per worker. Its million objects are kept out of garbage collection, during the import and
    later."""
    if "torch" in sys.modules:
        return
    gc.disable()
    import recon.training  # noqa: F401

    gc.freeze()
    gc.enable()


def compare(
    metrics: Mapping[str, float], epoch: int, references: Mapping[str, Mapping[int, float]]
) -> dict[str, float]:
    """The metrics of an epoch. If references are given, also ``gain/<task>`` and ``gain``: the SSIM minus the STL's at
    that epoch.

    Raises InputError if a reference lacks that epoch, because another epoch would give another gain.
    """
    result = dict(metrics)
    for task, values in references.items():
        if epoch not in values:
            raise InputError(
                f"the STL of {task} was not validated after epoch {epoch}, where the trial's gain is asked for, but "
                f"after {', '.join(map(str, values))}"
            )
        result[Quantity.GAIN.of(task)] = metrics[Quantity.SSIM.of(task)] - values[epoch]
    if references:
        result[Quantity.GAIN.value] = sum(result[Quantity.GAIN.of(task)] for task in references) / len(references)
    return result


def reports_of(result: Mapping[str, Any]) -> list[Report]:
    """The reports in a Tune result, in order: each with ``epoch``, ``objective``, ``metrics``, perhaps ``slices``."""
    found: list[Report] = json.loads(result.get(REPORTS, "[]"))
    return found


def reset_peak_memory() -> None:
    """Reset peak memory, so that a trial in a reused actor does not report an earlier trial's peak."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")
