"""Launching: start, continue or extend one search, on a local Ray or on a cluster.

The study is the only state. After any interruption the same call continues: it closes the trials that the last driver
left open, continues them from their checkpoints, and runs what is still missing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from recon.errors import InputError
from recon.version import code_version
from search.run.beginning import TRIALS_FOLDER
from search.run.checkpoints import sweep_all
from search.run.cluster import Resources, cluster
from search.run.driver import Driver, driving
from search.run.facts import DataFacts
from search.run.hosts import complaint, look, remarks
from search.run.hostwatch import HostWatch
from search.run.jobs import FixedJob, launched
from search.run.leaving import GRACE_SECONDS, Signals
from search.run.ledger import Half, Ledger
from search.run.lifeline import Lifeline
from search.run.outbox import Outbox
from search.run.progress import Display
from search.run.searcher import StudySearch
from search.run.trial import Trainer, train_on_prepared
from search.run.tuning import Limits, Watch, run_tune
from search.study.open import FORMAT, OpenStudy, create_study, orphaned_trials
from search.study.record import Record, State
from search.study.storage import quiet, shown
from spaces.reading import load_space
from spaces.space import Space

CLOSING_SECONDS = 30.0
"""How long a run that ends before its end waits for its storage to take what is left."""
HALVES: tuple[Half, ...] = ("search", "references")


@dataclass(frozen=True)
class How:
    """How a run is made, whatever it runs; ``launch`` says what each means."""

    address: str | None = None
    resources: Resources = field(default_factory=Resources)
    limits: Limits = field(default_factory=Limits)
    retry_failed: bool = False
    grace: float = GRACE_SECONDS
    trainer: Trainer = train_on_prepared
    verbose: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    study: OpenStudy
    complete: int
    """Number of searched trials in the study by state, including earlier runs."""
    pruned: int
    failed: int
    references: int
    """Number of complete baselines and confirmations."""
    failures: tuple[Record, ...]
    """Trials that failed in this run."""
    blocked: Mapping[str, str]
    """Fixed jobs that failed, or could not run because another job failed, with the reason."""
    diverged: int
    """Number of searched trials that were stopped because they were worse than the zero-filled images."""
    hopeless: bool
    """Whether no network that finished is better than the zero-filled images."""
    exhausted: bool
    """Whether fewer trials ran than wanted because the space has no further configuration."""
    seconds: float

    @property
    def complaint(self) -> str | None:
        """Why the run did not do all that was asked, in a sentence; None if it did."""
        if self.blocked:
            key, why = next(iter(self.blocked.items()))
            return f"{len(self.blocked)} of the fixed jobs did not finish, first {key}: {why}"
        wanted = self.study.space.trials
        if self.complete + self.pruned < wanted and not self.exhausted and self.failures:
            return f"the last trials all failed, so no more were tried; the last one: {self.failures[-1].error}"
        if self.hopeless:
            return (
                f"none of the {self.complete} finished networks is better than the zero-filled images, and "
                f"{self.diverged} were stopped for that: look at training.learning_rate, fidelity.epochs and the data"
            )
        return None


def launch(
    space: Space | str | Path,
    data: str | Path | DataFacts,
    study: str,
    *,
    storage: str | None = None,
    runs_dir: str | Path = "runs",
    address: str | None = None,
    resources: Resources = Resources(),  # noqa: B008
    limits: Limits = Limits(),  # noqa: B008
    retry_failed: bool = False,
    grace: float = GRACE_SECONDS,
    trainer: Trainer = train_on_prepared,
    verbose: bool = False,
) -> Outcome:
    """Search a space: first its baselines, then its known configurations, then configurations from the sampler.

    The same call again continues what is unfinished; a larger ``space.trials`` extends a finished search.

    Args:
        space: the space, its YAML file, or the name of a shipped space such as ``quickstart.yaml``.
        data: prepared data, on a path that every host sees.
        study: the study's name; its files are in ``runs_dir/study``.
        storage: an Optuna URL, or ``journal://PATH``; without it, an SQLite file in the study's folder.
        runs_dir: the folder of all studies; on a cluster, a folder that every host sees.
        address: address of a Ray cluster (``auto`` on one of its hosts); without it, a local Ray is started.
        resources: CPUs and GPUs of a trial.
        limits: how long trials may take.
        retry_failed: try configurations again that failed because of the machine or took too long.
        grace: seconds that running trials have for their next checkpoint after SIGTERM.
        trainer: the function that trains; a test may pass another module-level function with the same signature.
        verbose: show Ray's messages.

    Raises:
        InputError: space and data do not fit, the study was made with another space or other data, another driver runs
            it, or the cluster lacks the resources.
        SearchError: the storage was away for too long, Ray died, or the data broke.
        KeyboardInterrupt: after Ctrl-C.
        Terminated: after SIGTERM. Whatever is raised, the study is left so that the same call continues it.
    """
    space = space if isinstance(space, Space) else load_space(space)
    facts = data if isinstance(data, DataFacts) else DataFacts.of(Path(data))
    space = space.on(facts.slices, str(facts.path))
    how = How(address, resources, limits, retry_failed, grace, trainer, verbose)
    with quiet(), Signals(grace) as signals, driving(create_study(study, storage, Path(runs_dir))) as driver:
        lost = 0 if driver.study.attributes.get("space") else orphaned_trials(driver.study.folder)
        if lost:
            raise InputError(
                f"{driver.study.folder / TRIALS_FOLDER} holds the folders of {lost} trials, and "
                f"{shown(driver.study.url)} has no study {study!r}: give the --storage that it is in, or choose "
                "another --study"
            )
        agree(driver.study, space, facts)
        return run(driver, space, facts, launched(space, facts.slices), space.trials, study, how, signals)


def agree(study: OpenStudy, space: Space, facts: DataFacts) -> None:
    """Check that a study was made with this space and these data; store them if the study is new.

    Raises InputError if it was made with others, because its trials could not be compared.
    """
    stored = study.attributes
    where = f"study {study.name!r} in {shown(study.url)}"
    if "space" in stored:
        difference = study.space.difference(space)
        if difference is not None:
            raise InputError(f"{where} was made with another space: {difference}; choose another --study")
    if stored.get("data_hash", facts.hash) != facts.hash:
        raise InputError(
            f"{where} was made with other data (hash {stored['data_hash'][:12]}, {facts.path} has {facts.hash[:12]}); "
            "choose another --study"
        )
    attributes = {
        "format": FORMAT,
        "data_hash": facts.hash,
        "data": str(facts.path),
        "prepared": dict(facts.prepared),
        "space_hash": space.hash,
        "space": space.model_dump(mode="json"),
    }
    for name, value in attributes.items():
        if stored.get(name) != value:
            study.search.set_user_attr(name, value)


def run(
    driver: Driver,
    space: Space,
    facts: DataFacts,
    fixed: Iterable[FixedJob],
    budget: int,
    title: str,
    how: How,
    signals: Signals,
) -> Outcome:
    """Run fixed jobs and searched trials on Ray until nothing is left. Whatever happens, leave no trial open."""
    began = time.monotonic()
    study = driver.study
    display = Display(title, space.objective.metric)
    outbox = Outbox(study.storage, f"study {study.name!r} in {shown(study.url)}", display.say, driver.look)
    try:
        ledger = Ledger(study, facts.slices, facts.hash, code_version(), outbox)
        for half in HALVES:
            ledger.close_orphans(half)
        sweep_all(study.folder / TRIALS_FOLDER)
        search = StudySearch(study, space, ledger, fixed, budget, how.retry_failed)
        if not search.idle:
            _search(search, driver, space, facts, display, outbox, how, signals)
    finally:
        outbox.close(0)
    tally = search.tally
    complete = tally.states[State.COMPLETE]
    return Outcome(
        study,
        complete=complete,
        pruned=tally.states[State.PRUNED],
        failed=tally.states[State.FAIL],
        references=len(search.references),
        failures=tuple(search.failed),
        blocked=search.blocked,
        diverged=tally.diverged,
        hopeless=bool(complete or tally.diverged) and not tally.better,
        exhausted=search.exhausted,
        seconds=time.monotonic() - began,
    )


def _search(
    search: StudySearch,
    driver: Driver,
    space: Space,
    facts: DataFacts,
    display: Display,
    outbox: Outbox,
    how: How,
    signals: Signals,
) -> None:
    """Start Ray or join it, run the searcher's jobs, and close what is open in the end."""
    study = driver.study

    def close(seconds: float) -> None:
        search.interrupt_all()
        outbox.drain(seconds)

    def last_words(sentence: str) -> None:
        """The driver is stuck in a dead Ray: the thread that noticed it does what the driver would."""
        print(f"splitpoint: {sentence}", file=sys.stderr, flush=True)
        close(CLOSING_SECONDS)

    where = "starting a Ray on this machine" if how.address is None else f"joining {how.address}"
    display.say(f"{display.title}: {where}")
    for remark in search.remarks:
        display.say(remark)
    if search.interrupted:
        waiting = "1 trial goes" if search.interrupted == 1 else f"{search.interrupted} trials go"
        display.say(f"{waiting} on from where the last run was interrupted")
    signals.patient = True  # Ray does not bear an exception while it starts
    with cluster(how.address, how.verbose), Lifeline(last_words) as lifeline:
        signals.take()  # Ray's C++ has taken SIGTERM
        signals.look(())
        find = partial(look, facts.path, facts.hash, study.folder.resolve(), code_version(), how.resources)
        found = find()
        lacking = complaint(found)
        if lacking is not None:
            raise InputError(lacking)
        for remark in remarks(found):
            display.say(remark)
        try:
            signals.look(())
            with HostWatch(found, lambda nodes: find(only=nodes)) as hosts, display:
                for record in search.earlier:
                    display.remember(record)
                watch = Watch(search, driver, display, how.resources, signals, lifeline, hosts, how.limits)
                run_tune(search, space, facts, watch, how.resources, how.trainer)
            if not search.over:
                raise KeyboardInterrupt
            while not outbox.drain(0.5) and outbox.failure is None:
                signals.look(())
        finally:
            # Whatever ends the run does not tell the searcher, so trials may be left open that nobody runs any more.
            close(CLOSING_SECONDS)
    if outbox.failure is not None:
        raise outbox.failure
