"""Launching: start, continue or extend one search, on a local Ray or on a cluster.

The study is the only state. After any interruption the same call continues: it closes the trials that the last driver
left open, continues them from their checkpoints, and runs what is still missing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from recon.errors import InputError
from recon.version import code_version
from search.run.cluster import Resources, cluster
from search.run.driver import Driver, driving
from search.run.facts import DataFacts
from search.run.jobs import FixedJob, launched
from search.run.ledger import Ledger
from search.run.progress import Display
from search.run.searcher import StudySearch
from search.run.trial import Trainer, train_on_prepared
from search.run.tuning import Watch, run_tune
from search.study.open import FORMAT, OpenStudy, create_study
from search.study.record import Record, State
from search.study.storage import quiet, shown
from spaces.reading import load_space
from spaces.space import Space


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
    """Number of trials that failed in this run."""
    blocked: Mapping[str, str]
    """Fixed jobs that failed, or could not run because another job failed, with the reason."""
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
        trainer: the function that trains; a test may pass another module-level function with the same signature.
        verbose: show Ray's messages.

    Raises:
        InputError: space and data do not fit, the study was made with another space or other data, another driver runs
            it, or the cluster lacks the resources.
        KeyboardInterrupt: after Ctrl-C; the study is left so that the same call continues it.
    """
    space = space if isinstance(space, Space) else load_space(space)
    facts = data if isinstance(data, DataFacts) else DataFacts.of(Path(data))
    space = space.on(facts.slices, str(facts.path))
    with quiet(), driving(create_study(study, storage, Path(runs_dir))) as driver:
        agree(driver.study, space, facts)
        return run(
            driver,
            space,
            facts,
            launched(space, facts.slices),
            space.trials,
            study,
            address,
            resources,
            trainer,
            verbose,
        )


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
    address: str | None,
    resources: Resources,
    trainer: Trainer,
    verbose: bool,
) -> Outcome:
    """Run fixed jobs and searched trials on Ray until nothing is left. Whatever happens, leave no trial open."""
    began = time.monotonic()
    study = driver.study
    ledger = Ledger(study, facts.slices, facts.hash, code_version())
    for half in (study.search, study.references):
        ledger.close_orphans(half)
    search = StudySearch(study, space, ledger, fixed, budget)
    if not search.idle:
        try:
            display = Display(title, space.objective.metric)
            display.say(f"{title}: {'starting a Ray on this machine' if address is None else f'joining {address}'}")
            with cluster(address, verbose), display:
                for record in study.searched():
                    display.remember(record)
                run_tune(search, space, facts, Watch(search, driver, display, resources), study, resources, trainer)
        finally:
            # Ctrl-C and errors do not tell the searcher, so trials may be left open that nobody runs any more.
            for half in (study.search, study.references):
                ledger.close_orphans(half)
        if not search.over:
            raise KeyboardInterrupt
    searched = study.searched()
    count = {state: sum(record.state is state for record in searched) for state in State}
    return Outcome(
        study,
        complete=count[State.COMPLETE],
        pruned=count[State.PRUNED],
        failed=sum(record.state is State.FAIL and record.closed is None for record in searched),
        references=len(search.references),
        failures=tuple(search.failed),
        blocked=search.blocked,
        exhausted=search.exhausted,
        seconds=time.monotonic() - began,
    )
