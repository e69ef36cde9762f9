"""The searcher: it decides what Ray Tune runs next, and tells Optuna the results.

One Tune run serves the fixed jobs first (baselines, confirmations), then continues interrupted trials, then tries the
space's known configurations, then asks the sampler. Ray's own ``OptunaSearch`` tells Optuna that a stopped trial is
complete, loses its last report, leaves a failed one running for ever when its value is not a number, and repeats
configurations; this searcher reports the true outcome and repeats no configuration. The study is its only state, so
there is nothing else to save.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler
from ray.tune.search import Searcher

from recon.evaluation.definitions import Quantity
from search.run.jobs import FixedJob, mtl_key, multi_task
from search.run.ledger import INTERRUPTED, Ledger, Live
from search.run.needs import Needs
from search.run.sampling import Parameters, PointSampler, make_sampler, parameters
from search.run.schedule import roots
from search.run.trial import OBJECTIVE, TrialJob
from search.study.open import REFERENCES, OpenStudy
from search.study.record import Record, State, point_of
from spaces.point import Point
from spaces.space import Space

FAILURES_IN_A_ROW = 8
"""If this many searched trials fail one after the other, the search itself has failed."""


@dataclass(frozen=True)
class Runtime:
    """Settings that all jobs of a run have in common."""

    data: Path
    trainer: str
    device: str
    threads: int


@dataclass(frozen=True)
class _Drawn:
    """A drawn point that waits for the jobs that it starts from and is judged by.

    Its Optuna trial is already open, because samplers need one to draw.
    """

    trial: optuna.Trial
    point: Point


class StudySearch(Searcher):
    """Tune's searcher over one study.

    Args:
        study: open for writing; its open trials were closed before.
        space: on its data.
        ledger: writes the study.
        fixed: fixed jobs to serve first; those that are complete in the study are not run again.
        budget: searched trials that finish or are stopped early, those of earlier runs included.
    """

    def __init__(self, study: OpenStudy, space: Space, ledger: Ledger, fixed: Iterable[FixedJob], budget: int) -> None:
        searched, referenced = study.searched(), study.referenced()
        # Use another seed after each restart: the same seed would propose the same points again.
        seed = int(np.random.SeedSequence([space.sampler.seed, len(searched)]).generate_state(1)[0])
        super().__init__(metric=OBJECTIVE, mode="max")
        self.space_searched = space
        self.budget = budget
        self.live: dict[str, Live] = {}
        self.blocked: dict[str, str] = {}
        """Fixed jobs that cannot run, by key, and why."""
        self.failed: list[Record] = []
        """Trials that failed in this run."""
        self.runtime: Runtime | None = None
        """Settings common to all jobs; set them before the first job is asked for."""
        self.over = False
        """Whether nothing is left to serve; if so, the run was not interrupted."""
        self.exhausted = False
        """Whether every configuration of the space has been tried."""
        self.on_ended: Callable[[Record], None] = lambda record: None
        """Called with each trial that ended."""
        self._ledger = ledger
        self._search_study = optuna.load_study(
            study_name=study.name, storage=study.storage, sampler=make_sampler(space.sampler, seed)
        )
        self._points = PointSampler(self._search_study, space, seed)
        self._references_study = optuna.load_study(
            study_name=study.name + REFERENCES, storage=study.storage, sampler=RandomSampler(seed=0)
        )
        self._limit: int | None = None
        self._noted: dict[str, str] = {}
        self._failures_in_a_row = 0
        self._drawn: _Drawn | None = None

        self._roots = roots(searched)
        continued = {record.continues for record in searched}
        waiting = [record for record in searched if record.closed == INTERRUPTED and record.number not in continued]
        self._interrupted = deque(waiting if budget else [])
        self._tried = {record.key for record in searched}
        ended = [record for record in searched if record.state in (State.COMPLETE, State.PRUNED)]
        self.finished = len(ended)
        """Number of searched trials that finished or were stopped early, including earlier runs."""
        self.epochs_searched = sum(record.epochs for record in ended)
        """Epochs of those."""
        known = space.known() if budget else []
        self._known = deque(point for point in known if mtl_key(point, space.seed) not in self._tried)
        self.references: dict[str, Record] = {
            record.key: record for record in referenced if record.state is State.COMPLETE
        }
        self._needs = Needs(space, self.references, self.blocked)
        self._fixed: deque[tuple[FixedJob, Record | None]] = deque()
        for job in fixed:
            done = self.references.get(job.key)
            if done is None or done.config != job.config:
                self.references.pop(job.key, None)
                self._fixed.append((job, _predecessor(job, referenced)))
        self.fixed_total = len(self._fixed)

    # What Tune calls

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Take the limit over from Tune's ConcurrencyLimiter, which loses a place when an actor cannot be reused."""
        self._limit = max_concurrent
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration; None while other trials must finish first; FINISHED at the end."""
        if self._limit is not None and len(self.live) >= self._limit:
            return None
        live = self._next_fixed() or self._next_searched()
        if live is None:
            if self.live:
                return None
            self._give_up_drawn()
            self.over = True
            return str(Searcher.FINISHED)
        self.live[trial_id] = live
        return {
            "job": live.job.model_dump_json(),
            "name": live.job.name,
            "stage": live.job.stage,
            "root": live.job.root,
            "epochs": live.job.config.epochs,
        }

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Write an epoch; the same one may come again."""
        if trial_id in self.live:
            self._ledger.epoch(self.live[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended. If the scheduler stopped it, its last report comes only here."""
        live = self.live.get(trial_id)
        if live is None:
            return
        if result and OBJECTIVE in result:
            self._ledger.epoch(live, result)
        if error:
            live.error = self._noted.get(trial_id, "the worker was lost")
        record = self._ledger.finish(live, self._constraints(live))
        del self.live[trial_id]
        self._settle(record)
        self.on_ended(record)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is the state, and a pickle of the storage would contain its password."""

    def restore(self, checkpoint_path: str) -> None:
        """Not supported and not needed: the same launch continues from the study."""
        raise NotImplementedError("a search continues from its study, not from Tune's files")

    # What the scheduler and the callback add

    def note_error(self, trial_id: str, reason: str) -> None:
        """Remember a trial's last failure; it counts if Tune does not retry."""
        self._noted[trial_id] = reason

    def note_checkpoint(self, trial_id: str, path: str) -> None:
        """Write the path of a trial's newest checkpoint."""
        if trial_id in self.live:
            self._ledger.checkpoint(self.live[trial_id], path)

    def reconcile(self, ended: Iterable[str]) -> None:
        """Close trials that Tune ended without telling the searcher (an actor that could not be reused)."""
        for trial_id in [one for one in ended if one in self.live]:
            self.on_trial_complete(trial_id, error=True)

    @property
    def fixed_epochs(self) -> int:
        """Number of epochs of the fixed jobs that have not begun."""
        return sum(job.config.epochs for job, _ in self._fixed)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run because all was done before."""
        return not self._fixed and self.finished >= self.budget

    # Fixed jobs

    def _next_fixed(self) -> Live | None:
        for _ in range(len(self._fixed)):
            job, predecessor = self._fixed.popleft()
            if job.needs is None or job.needs in self.references:
                return self._begin_fixed(job, predecessor)
            if job.needs in self.blocked:
                self.blocked[job.key] = f"it starts from {job.needs}, which failed"
            else:
                self._fixed.append((job, predecessor))
        return None

    def _begin_fixed(self, job: FixedJob, predecessor: Record | None) -> Live:
        trial = self._references_study.ask()
        name = f"reference-{trial.number:04d}"
        return self._begin(self._references_study, trial, job, name, predecessor=predecessor)

    # Searched trials

    def _next_searched(self) -> Live | None:
        running = sum(live.job.stage == "search" for live in self.live.values())
        if self.finished + running >= self.budget or self.failing:
            return None
        predecessor = _take(self._interrupted, lambda record: self._needs.ready(point_of(record)))
        if predecessor is not None:
            return self._begin_searched(self._search_study.ask(), point_of(predecessor), predecessor)
        known = _take(self._known, self._needs.ready)
        if known is not None:
            return self._begin_searched(self._search_study.ask(), known)
        if self._interrupted or self._known or self.exhausted:
            self._forget_hopeless()
            return None
        if self._drawn is not None and self._needs.hopeless(self._drawn.point):
            self._give_up_drawn()
        if self._drawn is None:
            self._drawn = self._draw()
        if self._drawn is None or not self._needs.ready(self._drawn.point):
            return None
        drawn, self._drawn = self._drawn, None
        return self._begin_searched(drawn.trial, drawn.point)

    @property
    def failing(self) -> bool:
        """Whether too many searched trials failed in a row, so that no more are tried."""
        return self._failures_in_a_row >= FAILURES_IN_A_ROW

    def _forget_hopeless(self) -> None:
        self._known = deque(point for point in self._known if not self._needs.hopeless(point))
        self._interrupted = deque(record for record in self._interrupted if not self._needs.hopeless(point_of(record)))

    def _draw(self) -> _Drawn | None:
        """A point that has not been tried."""
        trial = self._search_study.ask()

        def wanted(one: Point) -> bool:
            return mtl_key(one, self.space_searched.seed) not in self._tried and not self._needs.hopeless(one)

        point = self._points.draw(trial, wanted)
        if point is not None:
            return _Drawn(trial, point)
        self.exhausted = True
        self._ledger.close(self._search_study, trial.number, "every configuration of the space was tried")
        return None

    def _give_up_drawn(self) -> None:
        if self._drawn is not None:
            self._ledger.close(self._search_study, self._drawn.trial.number, "what it needs failed")
            self._drawn = None

    def _begin_searched(self, trial: optuna.Trial, point: Point, predecessor: Record | None = None) -> Live:
        space = self.space_searched
        job = multi_task(space, point, space.seed, "search")
        self._tried.add(job.key)
        return self._begin(
            self._search_study,
            trial,
            job,
            f"search-{trial.number:04d}",
            params=parameters(space, point),
            references=self._needs.compared(point, job.config, self._ledger.slices_of(job.config)),
            predecessor=predecessor,
        )

    # Both

    def _begin(
        self,
        study: optuna.Study,
        trial: optuna.Trial,
        job: FixedJob,
        name: str,
        *,
        params: Parameters | None = None,
        references: dict[str, dict[int, float]] | None = None,
        predecessor: Record | None = None,
    ) -> Live:
        resume = predecessor.checkpoint if predecessor and predecessor.config == job.config else None
        if resume is not None and not Path(resume).is_dir():
            resume = None  # it was deleted since, or lay on a host's own disk: the trial begins anew
        root = trial.number
        if job.stage == "search":
            root = self._roots.get(predecessor.number, trial.number) if predecessor else trial.number
            self._roots[trial.number] = root
        epochs = self._ledger.describe(
            trial,
            key=job.key,
            kind=job.kind,
            stage=job.stage,
            config=job.config,
            weighting=job.weighting,
            scarce_slices=job.scarce_slices,
            params=params,
            continues=predecessor,
            resumed=resume is not None,
        )
        assert self.runtime is not None
        work = TrialJob(
            name=name,
            stage=job.stage,
            number=trial.number,
            root=root,
            config=job.config,
            data=str(self.runtime.data),
            trainer=self.runtime.trainer,
            init=self.references[job.needs].checkpoint if job.needs else None,
            resume=resume,
            metric=self.space_searched.objective.metric if job.stage == "search" else "ssim",
            references=references or {},
            slices_at=(*self.space_searched.fidelity.milestones, job.config.epochs),
            device=self.runtime.device,
            threads=self.runtime.threads,
        )
        return Live(study, trial, work, job.key, job.kind, epochs)

    def _constraints(self, live: Live) -> dict[str, float] | None:
        """How far each task lies below its STL, minus epsilon, at the trial's last epoch."""
        epsilon = self.space_searched.objective.epsilon
        if epsilon is None or live.job.stage != "search" or live.error is not None or not live.epochs:
            return None
        record = self._ledger.record(live.trial)
        return {
            task: values[record.epochs] - epsilon - record.metrics[Quantity.SSIM.of(task)]
            for task, values in live.job.references.items()
        }

    def _settle(self, record: Record) -> None:
        failed = record.state is State.FAIL
        if failed:
            self.failed.append(record)
        if record.stage == "search":
            self.finished += not failed
            self.epochs_searched += 0 if failed else record.epochs
            self._failures_in_a_row = self._failures_in_a_row + 1 if failed else 0
        elif failed:
            self.blocked[record.key] = record.error or "it failed"
        else:
            self.references[record.key] = record


def _predecessor(job: FixedJob, records: Iterable[Record]) -> Record | None:
    """The interrupted trial of the same job that nobody has continued."""
    records = list(records)
    continued = {record.continues for record in records}
    for record in reversed(records):
        same = record.key == job.key and record.config == job.config
        if same and record.closed == INTERRUPTED and record.number not in continued:
            return record
    return None


def _take(waiting: deque[Any], ready: Callable[[Any], bool]) -> Any | None:
    """Remove and return the first item that is ready."""
    for one in waiting:
        if ready(one):
            waiting.remove(one)
            return one
    return None
