"""Records: each trial of a study as typed values. Reading works while a search writes.

``search.run.ledger`` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from optuna.trial import FrozenTrial, TrialState

from recon.config import TrainConfig
from recon.errors import InputError
from recon.evaluation.definitions import Quantity
from search.study.names import CHECKPOINT_NAME as CHECKPOINT_NAME
from search.study.slices import unpacked
from spaces.point import Init, Point

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["mtl", "joint", "stl", "stl-steps", "joint-stl", "joint-tuned", "transfer"]
Stage = Literal["search", "baseline", "confirm"]
Fault = Literal["machine", "timeout"]
Objective = Literal["ssim", "gain"]
EPOCH_ATTRIBUTE = "epoch/"
SLICES_ATTRIBUTE = "slices/"
INTERRUPTED = "interrupted"
"""Why a trial was closed whose driver or host went away; another trial may continue it."""


class State(StrEnum):
    """The state of a trial. Names and meanings are Optuna's."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    """Stopped early at a rung; its values up to there are valid."""
    FAIL = "fail"
    """It raised an error, had a value that was not finite, or was interrupted (then ``closed`` says so)."""


STATES = {
    TrialState.RUNNING: State.RUNNING,
    TrialState.WAITING: State.RUNNING,
    TrialState.COMPLETE: State.COMPLETE,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAIL: State.FAIL,
}
"""Optuna's states as a record has them."""


class Named:
    """What a trial's number, kind and key say."""

    number: int
    kind: Kind
    stage: Stage
    key: str

    @property
    def name(self) -> str:
        """The number as users see it: ``12`` for a searched trial, ``r12`` for a reference."""
        return f"{self.number}" if self.stage == "search" else f"r{self.number}"

    @property
    def configuration(self) -> str:
        """The key without its seed: trials with equal keys form one mean over seeds."""
        return self.key.rsplit("/seed=", 1)[0]

    @property
    def point(self) -> Point | None:
        """The point of the space that a multi-task trial stands for; None for baselines."""
        return Point.parse(self.configuration.removeprefix("mtl/")) if self.kind == "mtl" else None

    @property
    def init(self) -> Init | None:
        """What a multi-task trial starts from; None for baselines."""
        if self.kind != "mtl" or "/init=" not in self.key:
            return "random" if self.kind == "mtl" else None  # as most do: no need to read the point
        return Point.parse(self.configuration.removeprefix("mtl/")).init


@dataclass(frozen=True)
class Record(Named):
    """One whole trial, as stored."""

    number: int
    """The number in its Optuna study; ``name`` is unique in both studies."""
    state: State
    kind: Kind
    stage: Stage
    layout: str
    weighting: str | None
    """None for networks of one task, which have nothing to weight."""
    scarce_slices: int | None
    """N: training slices of the scarce task that the trial, or what it starts from, sees; else None."""
    slices: dict[str, int]
    """Number of training slices of each task that the trial sees."""
    seed: int
    config: TrainConfig
    history: dict[int, dict[str, float]]
    """The metrics by epoch, ascending, as ``recon.training.loop`` reports them (and ``gain`` where it is the
    objective). Epochs without validation are missing, so look an epoch up; never count entries."""
    value: float | None
    """The objective at the last epoch, or at the epoch where the trial was stopped; None for a running or failed
    trial."""
    values: dict[int, float]
    """The objective by epoch, read from the metrics. Optuna's intermediate values are a copy for its samplers; they
    count only at epochs whose metrics do not hold the objective, as in older studies."""
    constraints: dict[str, float]
    """Feasible where none is above zero; by task: how far the task lies below its STL beyond epsilon."""
    gpu_seconds: float
    parameters: int | None
    peak_memory_bytes: int | None
    node: str | None
    checkpoint: str | None
    """The newest checkpoint's folder."""
    checkpoint_epoch: int
    """The epoch after which the checkpoint was written, as its path's name says; in older studies a fact of its own. 0
    without a checkpoint."""
    data_hash: str
    code_version: str
    error: str | None
    fault: Fault | None
    """What failed where it was not the configuration: the machine, or the time that a trial may take."""
    diverged: bool
    """Whether the trial was stopped at a rung because it was worse than the zero-filled images."""
    started: datetime | None
    """Begin and end in local time, without a time zone."""
    ended: datetime | None
    continues: int | None
    """The number of the interrupted trial whose checkpoint this trial resumed."""
    closed: str | None
    """Why the trial was closed without finishing, such as ``interrupted``."""
    key: str
    """Identifies the configuration within the study. Equal keys are the same work (for references, with the same
    seed)."""
    packed_slices: dict[int, str] = field(repr=False)
    """By epoch, what ``slice_metrics`` reads."""

    @property
    def epochs(self) -> int:
        """The last epoch that was finished and validated; 0 before the first."""
        return max(self.history, default=0)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last epoch; empty if none was finished."""
        return self.history.get(self.epochs, {})

    @property
    def end(self) -> dict[str, float]:
        """The metrics at the end of the whole training; empty before it, or where that epoch is missing."""
        return self.history.get(self.config.epochs, {})

    @property
    def holes(self) -> tuple[int, ...]:
        """The epochs up to the last one that were validated and are not recorded, ascending."""
        last = self.epochs
        return tuple(one for one in self.config.validated_epochs if one < last and one not in self.history)

    def slice_metrics(self, epoch: int | None = None) -> pd.DataFrame:
        """The metrics of each validation slice after an epoch: columns task, slice_id, ssim, psnr (dB), nrmse.

        Six significant digits, definition ``paper``; kept at rungs and at the last epoch. Without an epoch, the latest
        that is kept.

        Raises InputError where there are none.
        """
        kept = ", ".join(map(str, self.packed_slices)) or "none"
        epoch = max(self.packed_slices, default=0) if epoch is None else epoch
        if epoch not in self.packed_slices:
            raise InputError(f"trial {self.name} has no metrics by slice at epoch {epoch}; it has those at: {kept}")
        return unpacked(self.packed_slices[epoch])

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the trial trains."""
        return self.config.tasks

    @property
    def feasible(self) -> bool:
        """No task lies further below its STL than epsilon allows."""
        return all(value <= 0 for value in self.constraints.values())


def record_of(trial: FrozenTrial, objective: Objective | None = None) -> Record:
    """The typed record of an Optuna trial that carries one.

    Args:
        trial: the trial.
        objective: what the study's searched trials are judged by; without it, the values are Optuna's copies.
    """
    attrs = trial.user_attrs
    history: dict[int, dict[str, float]] = _by_epoch(attrs, EPOCH_ATTRIBUTE)
    last = history[max(history)] if history else {}
    values = _values(trial, history, objective)
    state = STATES[trial.state]

    def count(name: str) -> int | None:
        return int(last[name]) if name in last else None

    return Record(
        number=trial.number,
        state=state,
        kind=attrs["kind"],
        stage=attrs["stage"],
        layout=attrs["layout"],
        weighting=attrs["weighting"],
        scarce_slices=attrs["scarce_slices"],
        slices=attrs["slices"],
        seed=attrs["seed"],
        config=TrainConfig.model_validate(attrs["config"]),
        history=history,
        value=values.get(max(history, default=0), trial.value) if state in (State.COMPLETE, State.PRUNED) else None,
        values=values,
        constraints=trial.constraints,
        gpu_seconds=last.get("gpu_seconds", 0.0),
        parameters=count("parameters"),
        peak_memory_bytes=count("peak_memory_bytes"),
        node=attrs.get("node"),
        checkpoint=attrs.get("checkpoint"),
        checkpoint_epoch=checkpoint_epoch(attrs),
        data_hash=attrs["data_hash"],
        code_version=attrs["code_version"],
        error=attrs.get("error"),
        fault=attrs.get("fault"),
        diverged=bool(attrs.get("diverged", False)),
        started=trial.datetime_start,
        ended=trial.datetime_complete,
        continues=attrs.get("continues"),
        closed=attrs.get("closed"),
        key=attrs["key"],
        packed_slices=_by_epoch(attrs, SLICES_ATTRIBUTE),
    )


def checkpoint_epoch(attributes: Mapping[str, Any]) -> int:
    """The epoch of a trial's newest checkpoint; 0 without one.

    The path's name says it (``epoch-00003``), so that path and epoch are one fact. Older studies stored the epoch as an
    attribute of its own.
    """
    path = attributes.get("checkpoint")
    if path is None:
        return 0
    named = CHECKPOINT_NAME.fullmatch(PurePath(path).name)
    return int(named[1]) if named else int(attributes.get("checkpoint_epoch", 0))


def _values(
    trial: FrozenTrial, history: Mapping[int, Mapping[str, float]], objective: Objective | None
) -> dict[int, float]:
    """The objective by epoch, ascending; references are judged by their SSIM. An epoch whose metrics are not recorded
    is not recorded."""
    copies = trial.intermediate_values
    if objective is None:
        return dict(sorted(copies.items()))
    gain = objective == Quantity.GAIN and trial.user_attrs["stage"] == "search"
    name = Quantity.GAIN.value if gain else Quantity.SSIM.value
    found = {epoch: metrics.get(name, copies.get(epoch)) for epoch, metrics in history.items()}
    return {epoch: value for epoch, value in found.items() if value is not None}


def point_of(record: Record) -> Point:
    """The point of a multi-task trial."""
    assert record.point is not None
    return record.point


def _by_epoch(attributes: Mapping[str, Any], prefix: str) -> dict[int, Any]:
    """The attributes with a prefix, by the epoch that follows it, ascending."""
    found = {int(name.removeprefix(prefix)): attributes[name] for name in attributes if name.startswith(prefix)}
    return dict(sorted(found.items()))
