"""Stopping poor trials early: asynchronous successive halving whose rungs survive a restart.

Ray's ``ASHAScheduler`` keeps its rungs in memory only, draws brackets from an unseeded generator, never stops a trial
whose metric is not a number, and would stop baselines too. This one makes the same decisions (a test compares them)
from values that are in the study, with one bracket, for searched trials alone.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from recon.evaluation.definitions import Quantity
from search.run.trial import EPOCH, ERROR, LOST, METRICS, OBJECTIVE, reports_of
from search.study.record import Record, State


class Rungs:
    """The values that trials had when they reached each rung.

    Args:
        milestones: epochs of the rungs, ascending.
        reduction: about one in this many trials passes a rung (Li et al. 2020, "A system for massively parallel
            hyperparameter tuning").
    """

    def __init__(self, milestones: Iterable[int], reduction: float) -> None:
        self.reduction = reduction
        self._recorded: dict[int, dict[int, float]] = {milestone: {} for milestone in milestones}

    def rebuild(self, records: Iterable[Record]) -> None:
        """Take up what trials have reached before: their values at the rungs, under the numbers of their first runs."""
        records = list(records)
        root = roots(records)
        for record in records:
            for milestone, recorded in self._recorded.items():
                # Whether an interrupted trial's last report was decided on is not known: it is asked again.
                undecided = record.state is State.FAIL and milestone == record.epochs
                if milestone in record.values and not undecided:
                    recorded[root[record.number]] = record.values[milestone]

    def passes(self, trial: int, epoch: int, value: float) -> bool:
        """Whether a trial continues after this epoch. If it has reached a rung, its value is kept.

        It passes unless its value is below the (1 - 1/reduction) quantile of the trials that reached the rung before
        it.
        """
        reached = [milestone for milestone in self._recorded if milestone <= epoch]
        if not reached or trial in self._recorded[reached[-1]]:
            return True
        recorded = self._recorded[reached[-1]]
        others = list(recorded.values())
        recorded[trial] = value
        return not others or bool(value >= np.percentile(others, (1 - 1 / self.reduction) * 100))

    def at(self, epoch: int) -> bool:
        """Whether there is a rung at this epoch."""
        return epoch in self._recorded

    def counts(self) -> dict[int, int]:
        """How many trials have reached each rung."""
        return {milestone: len(recorded) for milestone, recorded in self._recorded.items()}


def roots(records: Iterable[Record]) -> dict[int, int]:
    """For each searched trial, the first of the chain of interrupted trials that it continues."""
    found: dict[int, int] = {}
    for record in sorted(records, key=lambda record: record.number):
        found[record.number] = (
            record.number if record.continues is None else found.get(record.continues, record.continues)
        )
    return found


class SuccessiveHalving(FIFOScheduler):
    """Tune's scheduler for a search: stops searched trials at rungs, and any trial at its last epoch or at an error.

    A searched trial that is worse at a rung than no network at all, the zero-filled images, is stopped as diverged.

    Args:
        rungs: the rungs, with the values of earlier trials.
        note_error: told each failure's trial and reason, and what it is to be blamed on if not the trial. Tune tells
            the scheduler of an error before it tells the searcher, and the searcher never gets the reason.
        note_stop: told each trial that is stopped at a rung, and whether it diverged.
        leaving: whether the run ends before its end, so that trials stop at their next report.
    """

    _supports_buffered_results = False

    def __init__(
        self,
        rungs: Rungs,
        note_error: Callable[[str, str, str | None], None],
        note_stop: Callable[[str, bool], None],
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self.rungs = rungs
        self._note_error, self._note_stop, self._leaving = note_error, note_stop, leaving

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:
        """Decide after an epoch."""
        value, epoch = result[OBJECTIVE], result[EPOCH]
        if ERROR in result or not math.isfinite(value) or epoch >= trial.config["epochs"]:
            return str(TrialScheduler.STOP)
        if trial.config["stage"] == "search":
            passes = self.rungs.passes(trial.config["root"], epoch, value)
            diverged = self.rungs.at(epoch) and worse_than_zero_filled(_metrics(result, epoch))
            if diverged or not passes:
                self._note_stop(trial.trial_id, diverged)
                return str(TrialScheduler.STOP)
        return str(TrialScheduler.STOP if self._leaving() else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> None:
        """A trial ended; those that ended before are forgotten."""
        forget(tune_controller, but=trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on why a trial failed (it may yet be retried)."""
        self._note_error(trial.trial_id, reason(trial), fault(trial))


def _metrics(result: Mapping[str, Any], epoch: int) -> Mapping[str, float]:
    """The metrics of an epoch in a result."""
    found: Mapping[str, float] = next((one[METRICS] for one in reports_of(result) if one[EPOCH] == epoch), {})
    return found


def forget(controller: Any, but: Trial) -> None:
    """Let Tune forget the trials that have ended. It would keep them all, and write them all to a file in the end."""
    ended = [one for one in controller._trials if one is not but and one.is_finished()]
    for trial in ended:
        controller._trials.remove(trial)
        controller._trial_metadata.pop(trial.trial_id, None)
        for among in (
            controller._stopped_trials,
            controller._failed_trials,
            controller._trials_to_cache,
            controller._live_trials,
        ):
            among.discard(trial)


def worse_than_zero_filled(metrics: Mapping[str, float]) -> bool:
    """Whether the mean SSIM over tasks is below that of the zero-filled images; False where that is not known."""
    zero = [value for name, value in metrics.items() if Quantity.of_column(name) is Quantity.ZERO_FILLED]
    return bool(zero) and metrics[Quantity.SSIM] < sum(zero) / len(zero)


def reason(trial: Trial) -> str:
    """The last failure of a Tune trial in one line."""
    # Ray's words on a worker that cannot be reached are of its connections.
    if trial.error_file is None or isinstance(_error(trial), ActorUnavailableError):
        return LOST
    with open(trial.error_file) as file:
        text = file.read()
    failure = text.rsplit("Failure # ", 1)[-1].strip().splitlines()[1:]
    lines = [line.strip() for line in failure if line.strip()]
    if not lines:
        return LOST
    # A traceback ends with the exception; Ray's own messages on dead workers begin with what matters.
    return lines[-1] if any("Traceback" in line or "ray::" in line for line in lines) else lines[0]


def fault(trial: Trial) -> str | None:
    """What the last failure of a Tune trial is to be blamed on: ``machine`` for a lost worker or an error of the
    system, None for the trial itself."""
    error = _error(trial)
    if isinstance(error, RayTaskError):
        error = error.cause
    return "machine" if error is None or isinstance(error, (RayError, OSError, MemoryError)) else None


def _error(trial: Trial) -> BaseException | None:
    """The last failure of a Tune trial; None where Tune kept none. Tune's own ``get_error`` looks into the trial's
    storage, where the failures of a running trial are not."""
    if trial.pickled_error_file is None:
        return None
    error: BaseException = pickle.loads(Path(trial.pickled_error_file).read_bytes())
    return error
