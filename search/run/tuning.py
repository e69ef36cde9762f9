"""One run of Ray Tune over a study: trainable, searcher, scheduler and callbacks."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from search.errors import SearchError
from search.run.beginning import TRIALS_FOLDER, Runtime
from search.run.cluster import Resources, fit, places
from search.run.driver import Driver
from search.run.facts import DataFacts
from search.run.hostwatch import HostWatch
from search.run.leaving import Signals
from search.run.lifeline import Lifeline
from search.run.progress import Display
from search.run.schedule import Rungs, SuccessiveHalving
from search.run.scratch import scratch
from search.run.searcher import StudySearch
from search.run.trial import EPOCH, OBJECTIVE, Trainer, reports_of, run_trial, trainer_path
from spaces.space import Space

LOOK_SECONDS = 1.0
"""How often a run looks at its surroundings."""
COUNT_SECONDS = 10.0
"""How often it counts the trials that the cluster has room for."""
VERDICT_SECONDS = 8.0
"""How long a trial that lost its worker for the last time waits for the verdict that Ray is dead."""
SLOWEST_FIRST = 900.0
SILENT_EPOCHS = 10.0
"""Without a limit of its own, a trial is silent for too long after this many of the longest epochs that were seen, and
not before ``SLOWEST_FIRST`` seconds."""


@dataclass(frozen=True)
class Limits:
    """How long a trial may take.

    Attributes:
        trial: seconds of one attempt; then it fails.
        silence: seconds without a report; then its worker is ended, and it is tried again from its last checkpoint.
            Without it: ten times the longest epoch that was seen, and 15 minutes at least.
    """

    trial: float | None = None
    silence: float | None = None


def run_tune(
    search: StudySearch,
    space: Space,
    facts: DataFacts,
    watch: Watch,
    resources: Resources,
    trainer: Trainer,
) -> None:
    """Run the searcher's jobs until none is left."""
    cpus, gpus, concurrent = fit(resources)
    search.runtime = Runtime(facts.path, trainer_path(trainer), "cuda" if gpus else "cpu", max(1, int(cpus)))
    rungs = Rungs(space.fidelity.milestones, space.fidelity.reduction)
    rungs.rebuild(search.earlier)
    search.earlier.clear()
    scheduler = SuccessiveHalving(rungs, search.note_error, search.note_stop, lambda: search.leaving)
    # Tune's own state goes into a folder that nobody reads: the study is the state.
    # tune.run and not a Tuner: that one pickles the searcher, and with it the storage's password, into a file.
    with scratch("splitpoint-tune-") as folder, _gone_is_an_error():
        tune.run(
            tune.with_resources(run_trial, {"cpu": cpus, "gpu": gpus}),
            name=TRIALS_FOLDER,
            storage_path=str(folder),
            metric=OBJECTIVE,
            mode="max",
            search_alg=search,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=concurrent,
            max_failures=resources.max_failures,
            raise_on_failed_trial=False,
            reuse_actors=True,
            callbacks=[watch],
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
            verbose=0,
        )


class _RayIsGone(BaseException):
    """Ray is dead. No Exception, because Tune answers one by asking its workers to end, for which it waits."""


@contextlib.contextmanager
def _gone_is_an_error() -> Iterator[None]:
    try:
        yield
    except _RayIsGone as gone:
        raise SearchError(str(gone)) from None


def _trial_name(trial: Trial) -> str:
    return str(trial.config["name"])


@dataclass
class Watch(tune.Callback):
    """Look after a run between Tune's events: its trials, its Ray, its storage, signals, and the display.

    Attributes:
        search: the searcher.
        driver: the claim on the study, kept alive from here.
        display: shows what happens.
        resources: without a limit, the number of parallel trials follows the cluster's size.
        signals: what ends the run.
        lifeline: says when Ray is dead.
        hosts: says which hosts are lost or come.
        limits: how long trials may take.
    """

    search: StudySearch
    driver: Driver
    display: Display
    resources: Resources
    signals: Signals
    lifeline: Lifeline
    hosts: HostWatch
    limits: Limits = field(default_factory=Limits)
    _references: int = 0
    """Complete baselines and confirmations when the run is over, if none fails."""
    _looked: float = field(default_factory=time.monotonic)
    _counted: float = field(default_factory=time.monotonic)
    _running: dict[str, Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._references = len(self.search.references) + self.search.fixed_total
        self.search.on_ended = partial(self.display.ended, search=self.search)
        self.search.say = self.display.say
        self.search.tick = self.look
        self.search.ray_is_dead = self._ray_is_dead

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial has its worker; its time counts from here."""
        self._running[trial.trial_id] = trial
        live = self.search.live.get(trial.trial_id)
        if live is not None:
            live.began = live.heard = time.monotonic()
            self.search.placed(trial.trial_id, self.hosts.host_of(trial.temporary_state.ray_actor))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Write a report that the scheduler stopped at, too."""
        self.search.on_trial_result(trial.trial_id, result)
        live = self.search.live.get(trial.trial_id)
        if live is not None:
            if reports_of(result):
                trial.run_metadata.num_failures = 0  # retries count anew where it got on: hosts may come and go
            for report in reports_of(result):
                self.display.reported(live.job.config, report[EPOCH])

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial's worker failed, and it is tried again."""
        self._running.pop(trial.trial_id, None)
        live = self.search.live.get(trial.trial_id)
        if live is not None:
            self.hosts.left(live.node)
            live.node = None
        self.search.retried(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial failed."""
        self._running.pop(trial.trial_id, None)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial ended."""
        self._running.pop(trial.trial_id, None)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """After every event."""
        if self.search.live:
            self.search.reconcile(one.trial_id for one in self._running.values() if one.is_finished())
        self.look()
        self.display.refresh(self.search)

    def look(self) -> None:
        """Raise what ends the run, and look around every second."""
        search = self.search
        if search.ending is not None:
            raise search.ending
        failure = search.outbox.failure
        if failure is not None:
            raise failure
        self.signals.look(search.live.values())
        search.leaving = self.signals.leaving
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        if self.lifeline.dead is not None:
            raise _RayIsGone(self.lifeline.dead)
        self._end_those_that_hang()
        for sentence in self.hosts.said(Counter(live.node for live in search.live.values() if live.node is not None)):
            self.display.say(sentence)
        if self.resources.max_concurrent is None and time.monotonic() - self._counted > COUNT_SECONDS:
            self._counted = time.monotonic()
            search.set_max_concurrency(max(1, places(self.resources)))
        self.driver.beat(search.outbox, self._about)

    def _about(self) -> dict[str, Any]:
        """What ``search.results.status`` cannot tell from the trials."""
        search = self.search
        return {
            "waiting": search.outbox.waiting,
            "hosts": self.hosts.hosts,
            "budget": search.budget,
            "references": self._references,
            "fixed_epochs": search.fixed_epochs,
        }

    def _ray_is_dead(self) -> bool:
        """Whether a trial lost its worker for the last time because all of Ray ends: a raylet ends its workers seconds
        before itself."""
        end = time.monotonic() + VERDICT_SECONDS
        while self.lifeline.ask() is None and time.monotonic() < end:
            time.sleep(0.2)
        return self.lifeline.dead is not None

    def _end_those_that_hang(self) -> None:
        now = time.monotonic()
        silence = self.limits.silence
        if silence is None and self.search.longest_gap is not None:
            silence = max(SLOWEST_FIRST, SILENT_EPOCHS * self.search.longest_gap)
        for trial_id, live in self.search.live.items():
            trial = self._running.get(trial_id)
            worker = None if trial is None else trial.temporary_state.ray_actor
            if trial is None or worker is None or live.error is not None:
                continue
            if self.limits.trial is not None and now - live.began > self.limits.trial:
                self.search.note_timeout(trial_id, f"it took longer than {self.limits.trial:g} s (--trial-timeout)")
                trial.max_failures = 0
            elif silence is not None and now - live.heard > silence:
                self.search.note_timeout(trial_id, f"no report for {silence:.0f} s (--silence)")
            else:
                continue
            live.began = live.heard = now
            ray.kill(worker)
