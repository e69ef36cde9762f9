"""What a run serves next: fixed jobs, then interrupted trials, then the space's known points, then points of a sampler.

Nothing that was tried is repeated, and nothing begins before the jobs that it starts from and is judged by are done.
``search.run.searcher`` begins what is served, and says how it ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from search.run.checkpoints import newest
from search.run.jobs import FixedJob, mtl_key, multi_task, start_key
from search.run.ledger import Half
from search.run.needs import Needs
from search.run.sampling import Mirror, PointSampler, make_sampler
from search.study.record import INTERRUPTED, Record, State, point_of
from spaces.point import Point
from spaces.space import Space


@dataclass(frozen=True)
class Work:
    """One trial to begin."""

    half: Half
    job: FixedJob
    point: Point | None
    """The searched point; None for a fixed job."""
    predecessor: Record | None
    """The interrupted trial that it continues."""


class Agenda:
    """What is left to do.

    Args:
        space: on its data.
        trials: Optuna's searched trials.
        searched: their records.
        referenced: the records of fixed jobs.
        fixed: fixed jobs to serve first; those that are complete are not served again.
        budget: searched trials that finish or are stopped early; without any, only fixed jobs are served.
        retry_failed: serve configurations again that failed because of the machine or took too long.
    """

    def __init__(
        self,
        space: Space,
        trials: Iterable[optuna.trial.FrozenTrial],
        searched: list[Record],
        referenced: list[Record],
        fixed: Iterable[FixedJob],
        budget: int,
        retry_failed: bool,
    ) -> None:
        self.space = space
        self.blocked: dict[str, str] = {}
        """Fixed jobs that cannot run, by key, and why."""
        self.exhausted = False
        """Whether every configuration of the space has been tried."""
        self.references: dict[str, Record] = {
            record.key: record for record in referenced if record.state is State.COMPLETE and not record.holes
        }
        """Complete fixed jobs, by key."""
        fixed = list(fixed)
        self.remarks: list[str] = []
        """What the user should hear of earlier runs."""
        starts = {start_key(space, space.start.init, count, space.seed) for count in space.scarce_counts}
        # Only what this run can train again.
        for key in sorted({job.key for job in fixed} & ({job.needs for job in fixed} | starts)):
            self._leave_out_if_damaged(key)
        self.needs = Needs(space, self.references, self.blocked)
        # Use another seed after each restart: the same seed would propose the same points again.
        seed = int(np.random.SeedSequence([space.sampler.seed, len(searched)]).generate_state(1)[0])
        self.mirror = Mirror(make_sampler(space.sampler, seed), trials)
        self._points = PointSampler(self.mirror.study, space, seed)
        self._drawn: Point | None = None
        """A drawn point that waits for the jobs that it starts from and is judged by."""
        waiting = _waiting(searched, retry_failed) if budget else []
        self._interrupted = deque(waiting)
        # A fault of the machine says nothing of the configuration.
        self._tried = {record.key for record in searched if record.fault is None or record.closed is not None}
        self._tried |= {record.key for record in waiting}
        known = space.known() if budget else []
        self._known = deque(point for point in known if mtl_key(point, space.seed) not in self._tried)
        self._fixed: deque[tuple[FixedJob, Record | None]] = deque()
        for job in fixed:
            done = self.references.get(job.key)
            if done is None or done.config != job.config:
                self.references.pop(job.key, None)
                self._fixed.append((job, _predecessor(job, referenced)))

    def _leave_out_if_damaged(self, key: str) -> None:
        """A job from whose network others start is done if its checkpoint is whole."""
        record = self.references.get(key)
        if record is None:
            return
        found, damage = newest([Path(record.checkpoint)] if record.checkpoint else [])
        if found is None:
            del self.references[record.key]
            self.remarks.append(f"trial {record.name} is trained again: {damage or 'it left no checkpoint'}")

    @property
    def fixed(self) -> list[FixedJob]:
        """Fixed jobs that have not begun."""
        return [job for job, _ in self._fixed]

    @property
    def interrupted(self) -> int:
        """Number of trials that were interrupted, or met a fault that is not their own, and wait to go on."""
        return len(self._interrupted) + sum(predecessor is not None for _, predecessor in self._fixed)

    def next_fixed(self) -> Work | None:
        """A fixed job whose start is done; None while there is none."""
        for _ in range(len(self._fixed)):
            job, predecessor = self._fixed.popleft()
            if job.needs is None or job.needs in self.references:
                return Work("references", job, None, predecessor)
            if job.needs in self.blocked:
                self.blocked[job.key] = f"it starts from {job.needs}, which failed"
            else:
                self._fixed.append((job, predecessor))
        return None

    def next_searched(self) -> Work | None:
        """A searched trial; None while it must wait for fixed jobs, or where none is left."""
        predecessor = _take(self._interrupted, lambda record: self.needs.ready(point_of(record)))
        if predecessor is not None:
            return self._searched(point_of(predecessor), predecessor)
        known = _take(self._known, self.needs.ready)
        if known is not None:
            return self._searched(known)
        if self._interrupted or self._known or self.exhausted:
            self._forget_hopeless()
            return None
        if self._drawn is not None and self.needs.hopeless(self._drawn):
            self._drawn = None
        if self._drawn is None:
            self._drawn = self._points.draw(self._wanted)
            self.exhausted = self._drawn is None
        if self._drawn is None or not self.needs.ready(self._drawn):
            return None
        drawn, self._drawn = self._drawn, None
        return self._searched(drawn)

    def _searched(self, point: Point, predecessor: Record | None = None) -> Work:
        job = multi_task(self.space, point, self.space.seed, "search")
        self._tried.add(job.key)
        return Work("search", job, point, predecessor)

    def _wanted(self, point: Point) -> bool:
        return mtl_key(point, self.space.seed) not in self._tried and not self.needs.hopeless(point)

    def _forget_hopeless(self) -> None:
        self._known = deque(point for point in self._known if not self.needs.hopeless(point))
        self._interrupted = deque(record for record in self._interrupted if not self.needs.hopeless(point_of(record)))


def _waiting(searched: Iterable[Record], retry_failed: bool) -> list[Record]:
    """The searched trials to go on with: of each configuration that has not ended, the last that was interrupted, or
    met a fault that is not its own and is to be tried again."""
    last = {record.key: record for record in searched if record.state is not State.RUNNING}
    ended = {record.key for record in searched if record.closed is None and record.fault is None}
    return [
        record
        for record in last.values()
        if record.key not in ended and (record.closed == INTERRUPTED or (retry_failed and record.fault is not None))
    ]


def _predecessor(job: FixedJob, records: Iterable[Record]) -> Record | None:
    """The trial of the same job that was interrupted, or met a fault that is not its own, and that nobody has
    continued."""
    records = list(records)
    continued = {record.continues for record in records}
    for record in reversed(records):
        same = record.key == job.key and record.config == job.config
        stopped = record.closed == INTERRUPTED or record.fault is not None
        if same and stopped and record.number not in continued:
            return record
    return None


def _take(waiting: deque[Any], ready: Callable[[Any], bool]) -> Any | None:
    """Remove and return the first item that is ready."""
    for one in waiting:
        if ready(one):
            waiting.remove(one)
            return one
    return None
