"""The searcher: it decides what Ray Tune runs next, and tells Optuna the results.

One Tune run serves the fixed jobs first (baselines, confirmations), then continues interrupted trials, then tries the
space's known configurations, then asks the sampler. Ray's own ``OptunaSearch`` tells Optuna that a stopped trial is
complete, loses its last report, leaves a failed one running for ever when its value is not a number, and repeats
configurations; this searcher reports the true outcome and repeats no configuration. The study is its only state, so
there is nothing else to save.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from recon.evaluation.definitions import Quantity
from search.errors import SearchError
from search.run.agenda import Agenda
from search.run.beginning import TRIALS_FOLDER, Beginning, Runtime, Starter
from search.run.checkpoints import keep_last
from search.run.jobs import FixedJob
from search.run.ledger import Ledger, Live
from search.run.outbox import Outbox
from search.run.schedule import roots, worse_than_zero_filled
from search.run.trial import CHECKPOINT, LOST, NOTE, OBJECTIVE
from search.study.open import OpenStudy
from search.study.record import EPOCH_ATTRIBUTE, Record, State
from spaces.space import Space

FAILURES_IN_A_ROW = 8
"""If this many searched trials fail one after the other, the search itself has failed."""
ANSWER_SECONDS = 0.5
"""How long Tune's loop waits for the storage to make a trial; other trials need the loop, too."""


@dataclass
class Tally:
    """Counts of searched trials."""

    states: Counter[State] = field(default_factory=Counter)
    """By state; a trial that was closed did not fail, and is not among them."""
    diverged: int = 0
    epochs: int = 0
    """Epochs of those that finished or were stopped early."""
    better: int = 0
    """Networks that finished and are not worse than the zero-filled images."""

    def add(self, record: Record) -> None:
        """Count one that has ended."""
        if record.closed is not None:
            return
        self.states[record.state] += 1
        self.diverged += record.diverged
        if record.state in (State.COMPLETE, State.PRUNED):
            self.epochs += record.epochs
        if record.state is State.COMPLETE:
            self.better += not worse_than_zero_filled(record.metrics)


class StudySearch(Searcher):
    """Tune's searcher over one study.

    Args:
        study: open for writing; its open trials were closed before.
        space: on its data.
        ledger: writes the study.
        fixed: fixed jobs to serve first; those that are complete in the study are not run again.
        budget: searched trials that finish or are stopped early, those of earlier runs included.
        retry_failed: try configurations again that failed because of the machine or took too long.
    """

    def __init__(
        self,
        study: OpenStudy,
        space: Space,
        ledger: Ledger,
        fixed: Iterable[FixedJob],
        budget: int,
        retry_failed: bool = False,
    ) -> None:
        searched = study.searched()
        super().__init__(metric=OBJECTIVE, mode="max")
        self.space_searched = space
        self.budget = budget
        self.live: dict[str, Live] = {}
        self.failed: list[Record] = []
        """Trials that failed in this run."""
        self.over = False
        """Whether nothing is left to serve; if so, the run was not interrupted."""
        self.leaving = False
        """Whether the run ends before its end: trials that stop now are interrupted, and none begins."""
        self.ending: SearchError | None = None
        """A fault that every trial would meet, so that the search ends."""
        self.on_ended: Callable[[Record], None] = lambda record: None
        """Called with each trial that ended."""
        self.say: Callable[[str], None] = lambda text: None
        """Called with what the user should hear of a trial."""
        self.tick: Callable[[], None] = lambda: None
        """Called whenever Tune asks for a trial; what it raises ends the run."""
        self.ray_is_dead: Callable[[], bool] = lambda: False
        """Asked when a worker is lost."""
        self.longest_gap: float | None = None
        """Seconds of the longest epoch of this run."""
        self._ledger = ledger
        trials = study.search.get_trials(deepcopy=False)
        self._agenda = Agenda(space, trials, searched, study.referenced(), fixed, budget, retry_failed)
        self.fixed_total = len(self._agenda.fixed)
        self._limit: int | None = None
        self._noted: dict[str, tuple[str, str | None]] = {}
        self._timeouts: dict[str, str] = {}
        self._failures_in_a_row = 0
        self._beginning: Beginning | None = None
        self._starter = Starter(
            study.folder.resolve() / TRIALS_FOLDER, self._agenda, ledger, roots(searched), self._pass_on
        )
        self.earlier = searched
        """Searched trials of earlier runs; whoever needs them no more may clear the list."""
        self.tally = Tally()
        """Searched trials, including earlier runs."""
        for record in searched:
            self.tally.add(record)

    # What Tune calls

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Take the limit over from Tune's ConcurrencyLimiter, which loses a place when an actor cannot be reused."""
        self._limit = max_concurrent
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration; None while other trials must finish first, or while the storage is away;
        FINISHED at the end."""
        self.tick()
        if self.leaving or (self._limit is not None and len(self.live) >= self._limit):
            return None
        if self._beginning is None:
            self._beginning = self._next()
        if self._beginning is None:
            if self.live:
                return None
            self.over = True
            return str(Searcher.FINISHED)
        try:
            trial_number = self._beginning.made.result(timeout=0 if self.outbox.away else ANSWER_SECONDS)
        except TimeoutError:
            return None
        beginning, self._beginning = self._beginning, None
        live = self._starter.started(beginning, *trial_number)
        self.live[trial_id] = live
        return {
            "job": live.job.model_dump_json(),
            "name": live.job.name,
            "stage": live.job.stage,
            "root": live.job.root,
            "epochs": live.job.config.epochs,
        }

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Write an epoch and its checkpoint; the same one may come again."""
        live = self.live.get(trial_id)
        if live is None:
            return
        now = time.monotonic()
        before = len(live.epochs)
        self._ledger.reports(live, result)
        if len(live.epochs) > before:
            live.gap = now - live.heard
            self.longest_gap = max(live.gap, self.longest_gap or 0.0)
        live.heard = now
        if result.get(CHECKPOINT):
            self._ledger.checkpoint(live, result[CHECKPOINT])
            if live.outlived and Path(result[CHECKPOINT]).parent == Path(live.job.folder):
                self.outbox.then(partial(_remove, live.outlived - {Path(live.job.folder)}))
                live.outlived = set()
        if NOTE in result:
            self.say(f"{live.title}: {result[NOTE]}")

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended. If the scheduler stopped it, its last report comes only here."""
        live = self.live.get(trial_id)
        if live is None:
            return
        if result and OBJECTIVE in result:
            self.on_trial_result(trial_id, result)
        if error:
            live.error, live.fault = self._noted.get(trial_id, (LOST, "machine"))
        if live.fault in ("data", "disk"):
            self.ending = SearchError(f"{live.error}; when that is mended, the same command goes on from here")
        # Where all of Ray is gone, the trial is not to blame.
        lost = live.fault == "machine" and self.ray_is_dead()
        ended_by_itself = live.error is not None or live.epoch >= live.job.config.epochs or live.stopped
        interrupted = lost or live.fault in ("data", "disk") or (self.leaving and not ended_by_itself)
        record = self._ledger.interrupt(live) if interrupted else self._ledger.finish(live, self._constraints(live))
        self._agenda.mirror.ended(live.trial)
        del self.live[trial_id]
        keep_last(Path(live.job.folder))
        if not interrupted:
            self._settle(record)
            self.on_ended(record)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is the state, and a pickle of the storage would contain its password."""

    def restore(self, checkpoint_path: str) -> None:
        """Not supported and not needed: the same launch continues from the study."""
        raise NotImplementedError("a search continues from its study, not from Tune's files")

    # What the scheduler and the callback add

    def note_error(self, trial_id: str, reason: str, fault: str | None) -> None:
        """Remember a trial's last failure; it counts if Tune does not retry."""
        timeout = self._timeouts.pop(trial_id, None)
        self._noted[trial_id] = (reason, fault) if timeout is None else (timeout, "timeout")

    def note_timeout(self, trial_id: str, reason: str) -> None:
        """Remember that a trial's worker is ended because it took too long."""
        self._timeouts[trial_id] = reason

    def placed(self, trial_id: str, node: str | None) -> None:
        """Write the host that a trial begins on, if that is known."""
        live = self.live.get(trial_id)
        if live is not None and node is not None:
            self._ledger.place(live, node)

    def retried(self, trial_id: str) -> None:
        """Say that a trial is tried again."""
        live = self.live.get(trial_id)
        if live is not None:
            reason, _ = self._noted.get(trial_id, (LOST, None))
            from_where = f"from epoch {live.epoch}" if live.epoch else "from its beginning"
            self.say(f"{live.title}: {reason.rstrip('.')}; it is tried again {from_where}")

    def note_stop(self, trial_id: str, diverged: bool) -> None:
        """Remember that the scheduler stops a trial at a rung."""
        if trial_id in self.live:
            self.live[trial_id].stopped, self.live[trial_id].diverged = True, diverged

    def interrupt_all(self) -> None:
        """Close all running trials so that the next launch continues them."""
        if self._beginning is not None:
            self._ledger.drop(self._beginning.made)
            self._beginning = None
        for live in list(self.live.values()):
            self._ledger.interrupt(live)
        self.live.clear()

    def reconcile(self, ended: Iterable[str]) -> None:
        """Close trials that Tune ended without telling the searcher (an actor that could not be reused)."""
        for trial_id in [one for one in ended if one in self.live]:
            self.on_trial_complete(trial_id, error=True)

    @property
    def runtime(self) -> Runtime | None:
        """Settings common to all jobs; set them before the first job is asked for."""
        return self._starter.runtime

    @runtime.setter
    def runtime(self, runtime: Runtime) -> None:
        self._starter.runtime = runtime

    def _pass_on(self, text: str) -> None:
        self.say(text)

    @property
    def finished(self) -> int:
        """Number of searched trials that finished or were stopped early, including earlier runs."""
        return self.tally.states[State.COMPLETE] + self.tally.states[State.PRUNED]

    @property
    def epochs_searched(self) -> int:
        """Epochs of those."""
        return self.tally.epochs

    @property
    def blocked(self) -> dict[str, str]:
        """Fixed jobs that cannot run, by key, and why."""
        return self._agenda.blocked

    @property
    def remarks(self) -> list[str]:
        """What the user should hear of earlier runs."""
        return self._agenda.remarks

    @property
    def references(self) -> dict[str, Record]:
        """Complete fixed jobs, by key."""
        return self._agenda.references

    @property
    def exhausted(self) -> bool:
        """Whether every configuration of the space has been tried."""
        return self._agenda.exhausted

    @property
    def outbox(self) -> Outbox:
        """Where what is written waits."""
        return self._ledger.outbox

    @property
    def fixed_epochs(self) -> int:
        """Number of epochs of the fixed jobs that have not begun."""
        return sum(job.config.epochs for job in self._agenda.fixed)

    @property
    def interrupted(self) -> int:
        """Number of trials of earlier runs that wait to go on."""
        return self._agenda.interrupted

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run because all was done before."""
        return not self._agenda.fixed and self.finished >= self.budget

    def _next(self) -> Beginning | None:
        """Begin what comes next; None where nothing can begin now."""
        work = self._agenda.next_fixed()
        running = sum(live.job.stage == "search" for live in self.live.values())
        if work is None and self.finished + running < self.budget and not self.failing:
            work = self._agenda.next_searched()
        return None if work is None else self._starter.begin(work)

    @property
    def failing(self) -> bool:
        """Whether too many searched trials failed in a row, so that no more are tried."""
        return self._failures_in_a_row >= FAILURES_IN_A_ROW

    def _constraints(self, live: Live) -> dict[str, float] | None:
        """How far each task lies below its STL, minus epsilon, at the trial's last epoch."""
        epsilon = self.space_searched.objective.epsilon
        if epsilon is None or live.job.stage != "search" or live.error is not None or not live.epochs:
            return None
        metrics = live.trial.user_attrs[f"{EPOCH_ATTRIBUTE}{live.epoch}"]
        return {
            task: values[live.epoch] - epsilon - metrics[Quantity.SSIM.of(task)]
            for task, values in live.job.references.items()
        }

    def _settle(self, record: Record) -> None:
        failed = record.state is State.FAIL
        if failed:
            self.failed.append(record)
        if record.stage == "search":
            self.tally.add(record)
            self._failures_in_a_row = self._failures_in_a_row + 1 if failed else 0
        elif failed:
            self.blocked[record.key] = record.error or "it failed"
        else:
            self.references[record.key] = record


def _remove(folders: Iterable[Path]) -> None:
    """Remove the folders of interrupted trials that another has outlived."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
