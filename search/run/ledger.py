"""Writing to a study: the only module that changes its trials, and the life of a trial in it.

begin → epoch, checkpoint, epoch, checkpoint … → finish, which tells Optuna what happened: COMPLETE at the last epoch,
PRUNED if the scheduler stopped it, FAIL with the reason, or FAIL and ``closed`` if it was interrupted; then a new trial
may continue it. A trial appears with its whole description at once. Everything after that is one fact an attribute,
which passes the outbox; so no fact is half written, and none waits for a storage that is away.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from recon.config import TrainConfig
from search.run.checkpoints import epoch_of
from search.run.outbox import TOKEN, End, Outbox
from search.run.trial import EPOCH, ERROR, FAULT, METRICS, NODE, OBJECTIVE, SLICES, TrialJob, reports_of
from search.study.open import OpenStudy
from search.study.record import (
    EPOCH_ATTRIBUTE,
    INTERRUPTED,
    SLICES_ATTRIBUTE,
    Kind,
    Record,
    Stage,
    record_of,
)
from search.study.storage import Fact

Half = Literal["search", "references"]
Parameters = Mapping[str, tuple[Any, BaseDistribution]]


@dataclass
class Live:
    """A running trial."""

    half: Half
    job: TrialJob
    trial: FrozenTrial
    """What the study holds of it, or will hold when the outbox is empty."""
    error: str | None = None
    fault: str | None = None
    """What its failure is to be blamed on, if it is not the trial: ``data``, ``machine``, ``timeout``."""
    stopped: bool = False
    """Whether the scheduler stopped it at a rung."""
    diverged: bool = False
    value: float | None = None
    """The objective at the last epoch."""
    node: str | None = None
    began: float = 0.0
    """When it began, and when it was last heard of, by ``time.monotonic``."""
    heard: float = 0.0
    gap: float | None = None
    """Seconds from the report before the last one to the last."""
    epochs: set[int] = field(default_factory=set)
    """Epochs that the study has."""
    outlived: set[Path] = field(default_factory=set)
    """Folders of interrupted trials that are not needed any more when this one has a checkpoint of its own."""

    @property
    def title(self) -> str:
        """``trial 12``, or ``trial r12`` of a reference, as users see it."""
        return f"trial {'' if self.half == 'search' else 'r'}{self.trial.number}"

    @property
    def key(self) -> str:
        """The configuration's key."""
        return str(self.trial.user_attrs["key"])

    @property
    def kind(self) -> Kind:
        """The kind of network."""
        kind: Kind = self.trial.user_attrs["kind"]
        return kind

    @property
    def epoch(self) -> int:
        """The last epoch that was reported; 0 before the first."""
        return max(self.epochs, default=0)


class Ledger:
    """Writes the records of one study.

    Args:
        study: open for writing.
        slices: training slices of each task in the data.
        data_hash: the data's content hash.
        code_version: the version of the code.
        outbox: takes what is written; without it nothing can be begun, and orphans can be closed.
    """

    def __init__(
        self,
        study: OpenStudy,
        slices: Mapping[str, int],
        data_hash: str,
        code_version: str,
        outbox: Outbox | None = None,
    ) -> None:
        self._study = study
        self._storage = study.storage
        self._slices = slices
        self._data_hash = data_hash
        self._code_version = code_version
        self._outbox = outbox

    @property
    def outbox(self) -> Outbox:
        """Where facts go."""
        assert self._outbox is not None
        return self._outbox

    def slices_of(self, config: TrainConfig) -> dict[str, int]:
        """Training slices of each task that a training sees."""
        return {task: config.slices.get(task, self._slices[task]) for task in config.tasks}

    def description(
        self,
        *,
        key: str,
        kind: Kind,
        stage: Stage,
        config: TrainConfig,
        weighting: str | None,
        scarce_slices: int | None,
        continues: Record | None = None,
        checkpoint: str | None = None,
        upto: int = 0,
    ) -> dict[str, Any]:
        """The attributes of a new trial.

        Args:
            key: the configuration's key.
            kind: the kind of network.
            stage: what it is trained for.
            config: the training.
            weighting: the weighting's name; None for one task.
            scarce_slices: N.
            continues: the interrupted trial that it continues.
            checkpoint: the checkpoint that it resumes, if there is one.
            upto: the epoch of that checkpoint. The epochs up to it are the new trial's, too.
        """
        attributes: dict[str, Any] = {
            "key": key,
            "kind": kind,
            "stage": stage,
            "layout": config.network.layout,
            "weighting": weighting,
            "scarce_slices": scarce_slices,
            "slices": self.slices_of(config),
            "seed": config.seed,
            "data_hash": self._data_hash,
            "code_version": self._code_version,
        }
        if continues is not None:
            attributes["continues"] = continues.number
            for epoch, metrics in continues.history.items():
                if epoch <= upto:
                    if epoch in continues.packed_slices:
                        attributes[f"{SLICES_ATTRIBUTE}{epoch}"] = continues.packed_slices[epoch]
                    attributes[f"{EPOCH_ATTRIBUTE}{epoch}"] = metrics
        if checkpoint is not None:
            # Until it has a checkpoint of its own, a restart resumes from this one again.
            attributes |= {"checkpoint": checkpoint, "checkpoint_epoch": upto}
        return attributes | {"config": config.model_dump(mode="json")}

    def begin(
        self, half: Half, attributes: Mapping[str, Any], values: Mapping[int, float], params: Parameters
    ) -> tuple[FrozenTrial, Future[tuple[int, int]]]:
        """Make a trial with all of its attributes.

        Args:
            half: the study's half.
            attributes: its ``description``.
            values: the objective by epoch, for epochs that it takes over.
            params: by name, Optuna's parameters and their distributions.

        Returns:
            The trial, and its id and number when the storage has it.
        """
        template = FrozenTrial(
            number=-1,
            trial_id=-1,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.now(),
            datetime_complete=None,
            params={name: value for name, (value, _) in params.items()},
            distributions={name: distribution for name, (_, distribution) in params.items()},
            user_attrs={**attributes, TOKEN: secrets.token_hex(8)},
            system_attrs={},
            intermediate_values=dict(values),
        )
        return template, self.outbox.create(self._half(half)._study_id, template)

    def place(self, live: Live, node: str) -> None:
        """Write the host that a trial runs on."""
        if node != live.node:
            live.node = node
            self._note(live, "node", node)

    def reports(self, live: Live, result: Mapping[str, Any]) -> None:
        """Write the epochs in a result: each one's metrics and value once, and its metrics by slice if there are any.

        An error, or a value that is not finite, is kept as the error.
        """
        for report in reports_of(result):
            value, epoch = float(report[OBJECTIVE]), int(report[EPOCH])
            if epoch in live.epochs:
                continue
            self.place(live, result[NODE])
            # The order matters where a storage takes facts one by one: an epoch is there when its metrics are.
            if SLICES in report:
                self._note(live, f"{SLICES_ATTRIBUTE}{epoch}", report[SLICES])
            self._note(live, f"{EPOCH_ATTRIBUTE}{epoch}", report[METRICS])
            live.trial.intermediate_values[epoch] = value
            self.outbox.tell(Fact(live.trial._trial_id, "value", epoch, value))
            live.epochs.add(epoch)
            if epoch == live.epoch:
                live.value = value
        if ERROR in result:
            live.error, live.fault = str(result[ERROR]), result.get(FAULT)
        elif not math.isfinite(result[OBJECTIVE]):
            live.error = f"{OBJECTIVE} is {result[OBJECTIVE]} after epoch {result[EPOCH]}"

    def checkpoint(self, live: Live, path: str) -> None:
        """Write the path of the newest checkpoint; its name says the epoch."""
        if path != live.trial.user_attrs.get("checkpoint"):
            self._note(live, "checkpoint", path)
            # For readers of the storage; our own take the epoch from the path, so that the two cannot disagree.
            self._note(live, "checkpoint_epoch", epoch_of(Path(path)) or 0)

    def finish(self, live: Live, constraints: Mapping[str, float] | None = None) -> Record:
        """Tell Optuna how a trial ended."""
        if live.error is not None:
            self._note(live, "error", live.error)
            if live.fault is not None:
                self._note(live, "fault", live.fault)
            return self._end(live, TrialState.FAIL)
        for name, value in (constraints or {}).items():
            live.trial.set_constraint(name, value)
        for name, value in live.trial.system_attrs.items():
            self.outbox.tell(Fact(live.trial._trial_id, "system", name, value))
        if live.epoch >= live.job.config.epochs:
            return self._end(live, TrialState.COMPLETE, live.value)
        if live.diverged:
            self._note(live, "diverged", True)
        return self._end(live, TrialState.PRUNED, live.value)

    def interrupt(self, live: Live) -> Record:
        """Close a running trial so that another continues it."""
        if live.error is not None:
            self._note(live, "error", live.error)
        self._note(live, "closed", INTERRUPTED)
        return self._end(live, TrialState.FAIL)

    def drop(self, made: Future[tuple[int, int]]) -> None:
        """Have a trial not made that will not begin; close it if the storage has it already."""
        self.outbox.drop(
            made,
            lambda trial_id: Fact(trial_id, "attribute", "closed", INTERRUPTED),
            lambda trial_id: End(trial_id, TrialState.FAIL),
        )

    def close_orphans(self, half: Half) -> int:
        """Close every open trial that nobody runs any more. Otherwise Optuna would count it as running for ever.

        Args:
            half: the study's half.

        Returns:
            The number of closed trials.
        """
        orphans = self._storage.get_all_trials(
            self._half(half)._study_id, deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)
        )
        for orphan in orphans:
            self._storage.set_trial_user_attr(orphan._trial_id, "closed", INTERRUPTED)
            self._storage.set_trial_state_values(orphan._trial_id, TrialState.FAIL)
        return len(orphans)

    def _half(self, half: Half) -> optuna.Study:
        return self._study.search if half == "search" else self._study.references

    def _note(self, live: Live, name: str, value: Any) -> None:
        live.trial.user_attrs[name] = value
        self.outbox.tell(Fact(live.trial._trial_id, "attribute", name, value))

    def _end(self, live: Live, state: TrialState, value: float | None = None) -> Record:
        values = None if value is None else (value,)
        self.outbox.tell(End(live.trial._trial_id, state, values))
        live.trial.state = state
        live.trial.values = None if values is None else list(values)
        live.trial.datetime_complete = datetime.now()
        return record_of(live.trial, live.job.metric)
