"""The searcher: what Ray Tune runs next, and what Optuna is told of it.

One Tune run serves the fixed jobs first (baselines, confirmations), then continues interrupted trials, then tries the
space's known configurations, then asks the sampler. Ray's ``OptunaSearch`` tells Optuna that a stopped trial is
complete, loses its last report, leaves a failed one running for ever when its value is not a number, and repeats
configurations; this subclass tells the truth and repeats none. The study is its only state: there is nothing to save
beside it.
"""

from __future__ import annotations

import math
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from search.jobs import Fixed, mtl_key, multi_task, start_key, stl_key
from search.ledger import INTERRUPTED, Ledger, Live
from search.references import References
from search.schedule import roots
from search.study import REFERENCES, OpenStudy, Record, State
from search.trial import OBJECTIVE, Job
from spaces.layouts import Choice, Dimension, Integer, Value
from spaces.schema import Point, Sampler, Space

SAMPLER_DRAWS = 20
"""Proposals of the sampler that may be repeats before points are drawn at random."""
RANDOM_DRAWS = 2000
"""Random draws that may be repeats before the space counts as tried in full."""
FAILURES_IN_A_ROW = 8
"""So many searched trials failing one after the other are the search's failure, not theirs."""

Parameters = dict[str, tuple[Value, BaseDistribution]]


@dataclass(frozen=True)
class Runtime:
    """What all jobs of a run have in common."""

    data: Path
    trainer: str
    device: str
    threads: int


@dataclass(frozen=True)
class _Drawn:
    """A point that waits for what it starts from and is judged by.

    Its Optuna trial is open already, for samplers need one to draw.
    """

    trial: optuna.Trial
    point: Point


def make_sampler(config: Sampler, seed: int) -> BaseSampler:
    """The sampler that a space names."""
    samplers: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=config.startup, seed=seed
        ),
        "random": lambda: RandomSampler(seed=seed),
    }
    with warnings.catch_warnings():
        # Optuna calls ``group`` experimental since 2.8; conditional dimensions need it.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return samplers[config.kind]()


def distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension in Optuna's words."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    if isinstance(dimension, Integer):
        return IntDistribution(dimension.low, dimension.high, log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _not_sampled_here(trial: optuna.Trial) -> None:
    """Stands where OptunaSearch wants a space; a module-level function, for Tune would pickle it."""
    raise NotImplementedError


class StudySearch(OptunaSearch):
    """Tune's searcher over one study.

    Args:
        study: open for writing; its open trials were closed before.
        space: on its data.
        ledger: writes the study.
        fixed: fixed jobs to serve first; those that are complete in the study are not run again.
        budget: searched trials that finish or are stopped early, those of earlier runs included.
    """

    def __init__(self, study: OpenStudy, space: Space, ledger: Ledger, fixed: Iterable[Fixed], budget: int) -> None:
        searched, referenced = study.searched(), study.referenced()
        # Another seed after each restart: the same one would propose the same points again, and all would be repeats.
        seed = int(np.random.SeedSequence([space.sampler.seed, len(searched)]).generate_state(1)[0])
        super().__init__(
            space=_not_sampled_here,
            metric=OBJECTIVE,
            mode="max",
            sampler=make_sampler(space.sampler, seed),
            study_name=study.name,
            storage=study.storage,
        )
        self.space_searched = space
        self.budget = budget
        self.live: dict[str, Live] = {}
        self.blocked: dict[str, str] = {}
        """Fixed jobs that cannot run, by key, and why."""
        self.failed: list[Record] = []
        """Trials that failed in this run."""
        self.runtime: Runtime | None = None
        """Common to all jobs; to be set before the first is asked for."""
        self.over = False
        """Nothing is left to serve: the run has not been interrupted."""
        self.exhausted = False
        """Every configuration of the space has been tried."""
        self.on_ended: Callable[[Record], None] = lambda record: None
        """Told of each trial that ended."""
        self._ledger = ledger
        self._search_study = cast(optuna.Study, self._ot_study)
        self._references_study = optuna.load_study(
            study_name=study.name + REFERENCES, storage=study.storage, sampler=RandomSampler(seed=0)
        )
        self._rng = random.Random(seed)
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
        """Searched trials that finished or were stopped early, in this run and before."""
        self.epochs_searched = sum(record.epochs for record in ended)
        """Epochs of those."""
        known = space.known() if budget else []
        self._known = deque(point for point in known if mtl_key(point, space.seed) not in self._tried)
        self.references: dict[str, Record] = {
            record.key: record for record in referenced if record.state is State.COMPLETE
        }
        self._fixed: deque[tuple[Fixed, Record | None]] = deque()
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
        """The next trial's configuration; None while others must finish first; FINISHED at the end."""
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
        self._ot_trials[trial_id] = live.trial
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
        """Tell Optuna how a trial ended. The last report comes here only, where the scheduler stopped it there."""
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
        """Nothing is saved: the study is the state, and a pickle of the storage would hold its password."""

    def restore(self, checkpoint_path: str) -> None:
        """Not possible, nor needed: the same launch continues from the study."""
        raise NotImplementedError("a search continues from its study, not from Tune's files")

    # What the scheduler and the callback add

    def note_error(self, trial_id: str, reason: str) -> None:
        """Remember why a trial failed last; it counts if Tune does not retry."""
        self._noted[trial_id] = reason

    def note_checkpoint(self, trial_id: str, path: str) -> None:
        """Write where a trial's newest checkpoint lies."""
        if trial_id in self.live:
            self._ledger.checkpoint(self.live[trial_id], path)

    def reconcile(self, ended: Iterable[str]) -> None:
        """Close trials that Tune ended without telling the searcher (an actor that could not be reused)."""
        for trial_id in [one for one in ended if one in self.live]:
            self.on_trial_complete(trial_id, error=True)

    @property
    def fixed_epochs(self) -> int:
        """Epochs of the fixed jobs that were not begun yet."""
        return sum(job.config.epochs for job, _ in self._fixed)

    @property
    def idle(self) -> bool:
        """There is nothing to run: all was done before."""
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

    def _begin_fixed(self, job: Fixed, predecessor: Record | None) -> Live:
        trial = self._references_study.ask()
        name = f"reference-{trial.number:04d}"
        return self._begin(self._references_study, trial, job, name, predecessor=predecessor)

    # Searched trials

    def _next_searched(self) -> Live | None:
        running = sum(live.job.stage == "search" for live in self.live.values())
        if self.finished + running >= self.budget or self.failing:
            return None
        predecessor = _take(self._interrupted, lambda record: self._ready(_point(record)))
        if predecessor is not None:
            return self._begin_searched(self._search_study.ask(), _point(predecessor), predecessor)
        known = _take(self._known, self._ready)
        if known is not None:
            return self._begin_searched(self._search_study.ask(), known)
        if self._interrupted or self._known or self.exhausted:
            self._forget_hopeless()
            return None
        if self._drawn is not None and self._hopeless(self._drawn.point):
            self._give_up_drawn()
        if self._drawn is None:
            self._drawn = self._draw()
        if self._drawn is None or not self._ready(self._drawn.point):
            return None
        drawn, self._drawn = self._drawn, None
        return self._begin_searched(drawn.trial, drawn.point)

    @property
    def failing(self) -> bool:
        """So many searched trials failed in a row that no more are tried."""
        return self._failures_in_a_row >= FAILURES_IN_A_ROW

    def _start(self, point: Point) -> str | None:
        """Key of the job that a point starts from."""
        space = self.space_searched
        return start_key(space, point.init, point.scarce_slices, space.seed)

    def _stl(self, point: Point) -> dict[str, list[list[str]]]:
        """Keys of the STL networks that judging a point needs: by task, for each combination of hyperparameters those
        of all seeds."""
        space = self.space_searched
        if not space.needs_references:
            return {}
        return {
            task: [
                [stl_key(space, task, point.scarce_slices, seed, one) for seed in space.baseline_seeds()]
                for one in space.combinations
            ]
            for task in space.tasks
        }

    def _ready(self, point: Point) -> bool:
        if self._hopeless(point):
            return False
        start = self._start(point)
        waiting = (key for stl in self._stl(point).values() for keys in stl for key in keys if key not in self.blocked)
        return (start is None or start in self.references) and all(key in self.references for key in waiting)

    def _hopeless(self, point: Point) -> bool:
        """What it starts from failed, or a task has no STL at any combination that all seeds came through."""
        return self._start(point) in self.blocked or any(
            all(any(key in self.blocked for key in keys) for keys in stl) for stl in self._stl(point).values()
        )

    def _compared(self, job: Fixed, point: Point) -> dict[str, dict[int, float]]:
        """By task and epoch, the SSIM that a point's is compared with."""
        keys = [key for stl in self._stl(point).values() for keys in stl for key in keys]
        references = References(self.references[key] for key in keys if key in self.references)
        found = {}
        for task in self._stl(point):
            slices = self._ledger.slices_of(job.config)[task]
            at = {
                epoch: references.at(task, slices, epoch if point.init == "random" else None)
                for epoch in job.config.validated_epochs
            }
            found[task] = {epoch: one.mean for epoch, one in at.items() if one is not None}
        return found

    def _forget_hopeless(self) -> None:
        self._known = deque(point for point in self._known if not self._hopeless(point))
        self._interrupted = deque(record for record in self._interrupted if not self._hopeless(_point(record)))

    def _draw(self) -> _Drawn | None:
        """A point that was not tried, by the sampler or, where it keeps repeating itself, at random."""
        trial = self._search_study.ask()
        frozen = self._search_study._storage.get_trial(trial._trial_id)
        space = self.space_searched
        for attempt in range(SAMPLER_DRAWS + RANDOM_DRAWS):
            params = self._propose(frozen) if attempt < SAMPLER_DRAWS else self._at_random()
            point = space.decode(params, self._rng)
            if point and mtl_key(point, space.seed) not in self._tried and not self._hopeless(point):
                return _Drawn(trial, point)
        self.exhausted = True
        self._ledger.close(self._search_study, trial.number, "every configuration of the space was tried")
        return None

    def _propose(self, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        """Ask the sampler for the space's dimensions, those that depend on the weighting last."""
        study = self._search_study
        joint = study.sampler.infer_relative_search_space(study, trial)
        params = study.sampler.sample_relative(study, trial, joint)

        def choose(name: str, dimension: Dimension) -> Value:
            wanted = distribution(dimension)
            if wanted.single():
                return _only(dimension)
            if name in params:
                return cast(Value, params[name])
            return cast(Value, study.sampler.sample_independent(study, trial, name, wanted))

        return self._chosen(choose)

    def _at_random(self) -> dict[str, Any]:
        """Draw every dimension at random, without a look at the study."""
        rng = self._rng

        def choose(name: str, dimension: Dimension) -> Value:
            if isinstance(dimension, Choice):
                return rng.choice(dimension.values)
            whole = isinstance(dimension, Integer)
            low, high = (dimension.low - 0.5, dimension.high + 0.5) if whole else (dimension.low, dimension.high)
            drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if dimension.log else rng.uniform(low, high)
            return min(max(round(drawn), dimension.low), dimension.high) if whole else drawn

        return self._chosen(choose)

    def _chosen(self, choose: Callable[[str, Dimension], Value]) -> dict[str, Any]:
        chosen = {name: choose(name, dimension) for name, dimension in self.space_searched.dimensions().items()}
        for name, dimension in self.space_searched.dimensions(chosen["weighting"]).items():  # type: ignore[arg-type]
            if name not in chosen:
                chosen[name] = choose(name, dimension)
        return chosen

    def _give_up_drawn(self) -> None:
        if self._drawn is not None:
            self._ledger.close(self._search_study, self._drawn.trial.number, "what it needs failed")
            self._drawn = None

    def _begin_searched(self, trial: optuna.Trial, point: Point, predecessor: Record | None = None) -> Live:
        space = self.space_searched
        dimensions = space.dimensions(point.weighting)
        params: Parameters = {
            name: (value, distribution(dimensions[name])) for name, value in space.encode(point).items()
        }
        job = multi_task(space, point, space.seed, "search")
        self._tried.add(job.key)
        return self._begin(
            self._search_study,
            trial,
            job,
            f"search-{trial.number:04d}",
            params=params,
            references=self._compared(job, point),
            predecessor=predecessor,
        )

    # Both

    def _begin(
        self,
        study: optuna.Study,
        trial: optuna.Trial,
        job: Fixed,
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
        work = Job(
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
        """How far each task lies below its STL beyond epsilon, at the epoch where the trial stands."""
        epsilon = self.space_searched.objective.epsilon
        if epsilon is None or live.job.stage != "search" or live.error is not None or not live.epochs:
            return None
        record = self._ledger.record(live.trial)
        return {
            task: values[record.epochs] - epsilon - record.metrics[f"ssim/{task}"]
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


def _predecessor(job: Fixed, records: Iterable[Record]) -> Record | None:
    """The interrupted trial of the same job that nobody has continued."""
    records = list(records)
    continued = {record.continues for record in records}
    for record in reversed(records):
        same = record.key == job.key and record.config == job.config
        if same and record.closed == INTERRUPTED and record.number not in continued:
            return record
    return None


def _take(waiting: deque[Any], ready: Callable[[Any], bool]) -> Any | None:
    """Remove and return the first that is ready."""
    for one in waiting:
        if ready(one):
            waiting.remove(one)
            return one
    return None


def _point(record: Record) -> Point:
    assert record.point is not None
    return record.point


def _only(dimension: Dimension) -> Value:
    return dimension.values[0] if isinstance(dimension, Choice) else dimension.low
