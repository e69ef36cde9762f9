"""Confirming: retrain the leaders of a search and all baselines over several seeds, and pick among these.

The best of many noisy trials would score lower in a second training, by more than the distance between the first few.
So the leaders are trained again with seeds that the search has not seen. The pick is the best mean over these seeds
alone.
"""

from __future__ import annotations

from pathlib import Path

from recon.errors import InputError
from search.run.cluster import Resources
from search.run.driver import driving
from search.run.facts import DataFacts
from search.run.jobs import confirmations
from search.run.launch import How, Outcome, agree, run
from search.run.leaving import GRACE_SECONDS, Signals
from search.run.trial import Trainer, train_on_prepared
from search.run.tuning import Limits
from search.study.open import OpenStudy, create_study, open_study
from search.study.record import Record, State, point_of
from search.study.storage import quiet
from spaces.space import Space


def leaders(study: OpenStudy, top: int) -> list[Record]:
    """The best complete searched trials, best first; infeasible trials only if there are too few others.

    Raises InputError if no trial is complete.
    """
    complete = [record for record in study.searched() if record.state is State.COMPLETE and record.value is not None]
    if not complete:
        raise InputError(f"study {study.name!r} has no complete trial yet; launch it first")
    return sorted(complete, key=_rank)[:top]


def _rank(record: Record) -> tuple[bool, float]:
    assert record.value is not None
    return not record.feasible, -record.value


def confirm(
    study: str,
    top: int | None = None,
    seeds: int | None = None,
    *,
    data: str | Path | DataFacts | None = None,
    storage: str | None = None,
    runs_dir: str | Path = "runs",
    address: str | None = None,
    resources: Resources = Resources(),  # noqa: B008
    limits: Limits = Limits(),  # noqa: B008
    grace: float = GRACE_SECONDS,
    trainer: Trainer = train_on_prepared,
    verbose: bool = False,
) -> Outcome:
    """Retrain over seeds: the leaders, the configurations that the space confirms beside them, and the baselines at
    their N. Completed trainings are not repeated.

    Args:
        study: the study's name.
        top: number of leaders; without it, the space's number.
        seeds: number of seeds, from the seed after the search's; without it, the space's number.
        data: folder of the prepared data, if they have moved since the launch.
        storage: as for ``launch``.
        runs_dir: the folder of all studies.
        address: address of a Ray cluster.
        resources: CPUs and GPUs of a trial.
        limits: how long trials may take.
        grace: seconds that running trials have for their next checkpoint after SIGTERM.
        trainer: the function that trains.
        verbose: show Ray's messages.

    Raises:
        InputError: there is no such study or no complete trial, the data are others, or another driver runs the study.
        SearchError: the storage was away for too long, Ray died, or the data broke.
        KeyboardInterrupt: after Ctrl-C.
        Terminated: after SIGTERM. Whatever is raised, the study is left so that the same call continues it.
    """
    how = How(address, resources, limits, False, grace, trainer, verbose)
    open_study(study, storage, runs_dir)  # it must exist; what follows would make it
    with quiet(), Signals(grace) as signals, driving(create_study(study, storage, Path(runs_dir))) as driver:
        opened = driver.study
        space = opened.space
        facts = data if isinstance(data, DataFacts) else DataFacts.of(Path(data or opened.data))
        agree(opened, space, facts)
        points = [point_of(record) for record in leaders(opened, top or space.confirm.top)]
        points = list(dict.fromkeys([*points, *space.beside(point.scarce_slices for point in points)]))
        jobs = confirmations(space, points, _seeds(space, seeds or space.confirm.seeds), facts.slices)
        return run(driver, space, facts, jobs, 0, f"{study}, confirming", how, signals)


def _seeds(space: Space, count: int) -> range:
    # The search's own seed is left out, because its values made these configurations leaders.
    return range(space.seed + 1, space.seed + 1 + count)
