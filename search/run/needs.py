"""The jobs that a searched point waits for: the network that it starts from, and the STL networks that it is judged
by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recon.config import TrainConfig
from search.run.jobs import start_key, stl_key
from search.study.gains import References
from search.study.record import Record
from spaces.point import Point
from spaces.space import Space


class Needs:
    """Which fixed jobs the points of a space need.

    Args:
        space: on its data.
        done: complete fixed jobs by key; whoever holds the mapping keeps it true.
        blocked: fixed jobs that cannot run, by key, and why; the same.
    """

    def __init__(self, space: Space, done: Mapping[str, Record], blocked: Mapping[str, str]) -> None:
        self._space, self._done, self._blocked = space, done, blocked

    def ready(self, point: Point) -> bool:
        """Whether every job that a point needs is done, or was given up and is not needed to judge it."""
        if self.hopeless(point):
            return False
        start = self._start(point)
        waiting = (key for stl in self._stl(point).values() for keys in stl for key in keys if key not in self._blocked)
        return (start is None or start in self._done) and all(key in self._done for key in waiting)

    def hopeless(self, point: Point) -> bool:
        """What it starts from failed, or a task has no STL at any combination that all seeds came through."""
        return self._start(point) in self._blocked or any(
            all(any(key in self._blocked for key in keys) for keys in stl) for stl in self._stl(point).values()
        )

    def compared(self, point: Point, config: TrainConfig, slices: Mapping[str, int]) -> dict[str, dict[int, float]]:
        """By task and validated epoch, the SSIM that a point's is compared with.

        Args:
            point: the point.
            config: its training.
            slices: training slices of each task that it sees.
        """
        keys = [key for stl in self._stl(point).values() for keys in stl for key in keys]
        references = References(self._done[key] for key in keys if key in self._done)
        found = {}
        for task in self._stl(point):
            at = {
                epoch: references.at(task, slices[task], epoch if point.init == "random" else None)
                for epoch in config.validated_epochs
            }
            found[task] = {epoch: one.mean for epoch, one in at.items() if one is not None}
        return found

    def _start(self, point: Point) -> str | None:
        """Key of the job that a point starts from."""
        return start_key(self._space, point.init, point.scarce_slices, self._space.seed)

    def _stl(self, point: Point) -> dict[str, Sequence[Sequence[str]]]:
        """Keys of the STL networks that judging a point needs: by task, for each combination of hyperparameters those
        of all seeds."""
        space = self._space
        if not space.needs_references:
            return {}
        return {
            task: [
                [stl_key(space, task, point.scarce_slices, seed, one) for seed in space.baseline_seeds()]
                for one in space.combinations
            ]
            for task in space.tasks
        }
