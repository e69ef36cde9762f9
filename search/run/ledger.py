"""Writing to a study: the only module that changes a storage, and the life of a trial in it.

begin → epoch, checkpoint, epoch, checkpoint … → finish, which tells Optuna what happened: COMPLETE at the last epoch,
PRUNED if the scheduler stopped it, FAIL with the reason. A trial whose driver died is closed later (``close``), and a
new trial may continue it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import TrialState

from recon.config import TrainConfig
from search.run.trial import EPOCH, ERROR, OBJECTIVE, SLICES, TrialJob, metrics_of
from search.study.open import OpenStudy
from search.study.record import EPOCH_ATTRIBUTE, SLICES_ATTRIBUTE, Kind, Record, Stage, record_of

INTERRUPTED = "interrupted"
CHECKPOINT_EPOCH = "checkpoint_epoch"


@dataclass
class Live:
    """A running trial."""

    study: optuna.Study
    trial: optuna.Trial
    job: TrialJob
    key: str
    kind: Kind
    epochs: set[int] = field(default_factory=set)
    """Epochs that are in the storage."""
    error: str | None = None
    value: float | None = None
    """The objective at the last epoch."""
    node: str | None = None


class Ledger:
    """Writes the records of one study.

    Args:
        study: open for writing.
        slices: training slices of each task in the data.
        data_hash: the data's content hash.
        code_version: the version of the code.
    """

    def __init__(self, study: OpenStudy, slices: Mapping[str, int], data_hash: str, code_version: str) -> None:
        self._storage = study.storage
        self._slices = slices
        self._data_hash = data_hash
        self._code_version = code_version

    def describe(
        self,
        trial: optuna.Trial,
        *,
        key: str,
        kind: Kind,
        stage: Stage,
        config: TrainConfig,
        weighting: str | None,
        scarce_slices: int | None,
        params: Mapping[str, tuple[Any, optuna.distributions.BaseDistribution]] | None = None,
        continues: Record | None = None,
        resumed: bool = False,
    ) -> set[int]:
        """Write the description of a new trial. If it resumes another trial's checkpoint, also write that trial's
        epochs.

        Returns:
            The epochs with which it begins.
        """
        for name, (value, distribution) in (params or {}).items():
            self._storage.set_trial_param(trial._trial_id, name, distribution.to_internal_repr(value), distribution)
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
        epochs: set[int] = set()
        if continues is not None:
            attributes["continues"] = continues.number
        if continues is not None and resumed:
            # Until it has a checkpoint of its own, a restart resumes from the earlier one again.
            attributes |= {"checkpoint": continues.checkpoint, CHECKPOINT_EPOCH: continues.checkpoint_epoch}
            epochs = {epoch for epoch in continues.history if epoch <= continues.checkpoint_epoch}
            for epoch in sorted(epochs):
                attributes[f"{EPOCH_ATTRIBUTE}{epoch}"] = continues.history[epoch]
                if epoch in continues.packed_slices:
                    attributes[f"{SLICES_ATTRIBUTE}{epoch}"] = continues.packed_slices[epoch]
                trial.report(continues.values[epoch], epoch)
        # The configuration is written last: a trial that has one is described in full.
        attributes["config"] = config.model_dump(mode="json")
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        return epochs

    def slices_of(self, config: TrainConfig) -> dict[str, int]:
        """Training slices of each task that a training sees."""
        return {task: config.slices.get(task, self._slices[task]) for task in config.tasks}

    def epoch(self, live: Live, result: Mapping[str, Any]) -> None:
        """Write an epoch's metrics and value once, and its metrics by slice if they were reported.

        A result with an error, or with a value that is not finite, is kept as the error.
        """
        value, epoch = float(result[OBJECTIVE]), int(result[EPOCH])
        if ERROR in result:
            live.error = str(result[ERROR])
        elif not math.isfinite(value):
            live.error = f"{OBJECTIVE} is {value} after epoch {epoch}"
        elif epoch not in live.epochs:
            if result["node"] != live.node:
                live.node = result["node"]
                live.trial.set_user_attr("node", live.node)
            if SLICES in result:
                live.trial.set_user_attr(f"{SLICES_ATTRIBUTE}{epoch}", result[SLICES])
            live.trial.set_user_attr(f"{EPOCH_ATTRIBUTE}{epoch}", metrics_of(result))
            live.trial.report(value, epoch)
            live.epochs.add(epoch)
            live.value = value

    def checkpoint(self, live: Live, path: str) -> None:
        """Write the path of the newest checkpoint, which belongs to the newest epoch."""
        live.trial.set_user_attr("checkpoint", path)
        live.trial.set_user_attr(CHECKPOINT_EPOCH, max(live.epochs))

    def finish(self, live: Live, constraints: Mapping[str, float] | None = None) -> Record:
        """Tell Optuna how a trial ended."""
        if live.error is not None:
            live.trial.set_user_attr("error", live.error)
            live.study.tell(live.trial, state=TrialState.FAIL)
        else:
            for name, value in (constraints or {}).items():
                live.trial.set_constraint(name, value)
            if max(live.epochs, default=0) >= live.job.config.epochs:
                live.study.tell(live.trial, live.value, state=TrialState.COMPLETE)
            else:
                live.study.tell(live.trial, state=TrialState.PRUNED)
        return self.record(live.trial)

    def close(self, study: optuna.Study, number: int, why: str) -> None:
        """Close a trial that will not finish, with state FAIL."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        self._storage.set_trial_user_attr(trial_id, "closed", why)
        study.tell(number, state=TrialState.FAIL)

    def close_orphans(self, study: optuna.Study) -> int:
        """Close every open trial that nobody runs any more. Otherwise Optuna would count it as running for ever.

        Returns:
            The number of closed trials.
        """
        orphans = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for orphan in orphans:
            self.close(study, orphan.number, INTERRUPTED)
        return len(orphans)

    def record(self, trial: optuna.Trial) -> Record:
        """The trial's record in the storage."""
        return record_of(self._storage.get_trial(trial._trial_id))
