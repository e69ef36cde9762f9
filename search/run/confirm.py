"""Confirming: retrain the leaders of a search and all baselines over several seeds, and pick among those.

The best of many noisy trials is better than it would be again, by more than what separates the first few. So the
leaders are trained anew, with seeds that the search has not seen, and the pick is the best mean of those alone.
"""

from __future__ import annotations

from pathlib import Path

from recon.errors import InputError
from search.run.cluster import Resources
from search.run.driver import driving
from search.run.facts import DataFacts
from search.run.jobs import confirmations
from search.run.launch import Outcome, agree, run
from search.run.trial import Trainer, train_on_prepared
from search.study.open import OpenStudy, open_study
from search.study.record import Record, State, point_of
from search.study.storage import quiet
from spaces.space import Space


def leaders(study: OpenStudy, top: int) -> list[Record]:
    """The best complete searched trials, best first; infeasible ones only where there are too few others.

    Raises InputError where no trial is complete.
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
    trainer: Trainer = train_on_prepared,
    verbose: bool = False,
) -> Outcome:
    """Retrain the leaders, what the space confirms beside them, and the baselines at their N over seeds; what is done
    already is not done again.

    Args:
        study: its name.
        top: how many leaders; without it, what the space says.
        seeds: how many seeds, from the one after the search's; without it, what the space says.
        data: where the prepared data are, if no longer where the study was launched on them.
        storage: as for ``launch``, like the rest.
        runs_dir: where studies live.
        address: of a Ray cluster.
        resources: of a trial.
        trainer: what trains.
        verbose: let Ray speak.

    Raises:
        InputError: no such study, no complete trial, other data, or another driver runs it.
        KeyboardInterrupt: after Ctrl-C, when the study has been left so that the same call continues it.
    """
    with quiet(), driving(open_study(study, storage, runs_dir)) as driver:
        opened = driver.study
        space = opened.space
        facts = data if isinstance(data, DataFacts) else DataFacts.of(Path(data or opened.data))
        agree(opened, space, facts)
        points = [point_of(record) for record in leaders(opened, top or space.confirm.top)]
        points = list(dict.fromkeys([*points, *space.beside(point.scarce_slices for point in points)]))
        jobs = confirmations(space, points, _seeds(space, seeds or space.confirm.seeds), facts.slices)
        return run(driver, space, facts, jobs, 0, f"{study}, confirming", address, resources, trainer, verbose)


def _seeds(space: Space, count: int) -> range:
    # The search's own seed is left out: its values are what made these configurations leaders.
    return range(space.seed + 1, space.seed + 1 + count)
