"""Fixed jobs: the baselines of a space, and the retrainings that confirm its leaders.

They are configurations that nobody chose by looking at results, so they are never stopped early and no sampler learns
from them. This module lists them; ``search.searcher`` serves them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recon.config import TrainConfig
from search.study import Kind, Stage
from spaces.schema import Point, Space


@dataclass(frozen=True)
class Fixed:
    """One fixed job."""

    key: str
    kind: Kind
    stage: Stage
    config: TrainConfig
    scarce_slices: int | None
    weighting: str | None
    needs: str | None = None
    """Key of the job whose checkpoint this one starts from."""


def mtl_key(point: Point, seed: int) -> str:
    """The key of a multi-task training."""
    return f"mtl/{point.key}/seed={seed}"


def stl_key(space: Space, task: str, scarce_slices: int | None, seed: int) -> str:
    """The key of a task's single-task training; only the scarce task's depends on N."""
    cut = f"/n={scarce_slices}" if space.scarce and task == space.scarce.task else ""
    return f"stl/{task}{cut}/seed={seed}"


def baselines(
    space: Space, seed: int, counts: Iterable[int | None], stage: Stage, available: Mapping[str, int]
) -> list[Fixed]:
    """The baselines at each N, for one seed, in an order in which none waits for a later one.

    Args:
        space: on its data, so that every N is a number.
        seed: of the trainings.
        counts: the N; (None,) without a scarce task.
        stage: ``baseline`` beside a search, ``confirm`` beside its confirmations.
        available: training slices of each task in the data.
    """
    counts = list(counts)
    scarce = space.scarce.task if space.scarce else None
    jobs: dict[str, Fixed] = {}

    def add(job: Fixed) -> None:
        jobs.setdefault(job.key, job)

    if "stl" in space.baselines.kinds:
        for task in sorted(space.tasks, key=lambda task: task == scarce):
            for count in counts if task == scarce else (None,):
                key = stl_key(space, task, count, seed)
                add(Fixed(key, "stl", stage, space.reference_config("stl", task, count, seed), count, None))
    if "stl-steps" in space.baselines.kinds:
        for count in counts:
            assert count is not None  # the space refuses stl-steps without a scarce task
            key = f"stl-steps{_cut(count)}/seed={seed}"
            passes = space.steps_passes(count, available)
            config = space.reference_config("stl-steps", scarce, count, seed, passes)
            add(Fixed(key, "stl-steps", stage, config, count, None))
    if "joint-stl" in space.baselines.kinds:
        for count in counts:
            key = f"joint-stl{_cut(count)}/seed={seed}"
            config = space.reference_config("joint-stl", None, count, seed)
            add(Fixed(key, "joint-stl", stage, config, count, config.weighting.kind))
    if "transfer" in space.baselines.kinds:
        source = stl_key(space, space.source, None, seed)
        for count in counts:
            key = f"transfer{_cut(count)}/seed={seed}"
            add(
                Fixed(
                    key, "transfer", stage, space.reference_config("transfer", None, count, seed), count, None, source
                )
            )
    return list(jobs.values())


def confirmations(
    space: Space, points: Iterable[Point], seeds: Iterable[int], available: Mapping[str, int]
) -> list[Fixed]:
    """The retrainings of points over seeds, with all baselines at their N beside them, seed by seed.

    Args:
        space: on its data.
        points: the configurations.
        seeds: of the trainings.
        available: training slices of each task in the data.
    """
    points = list(points)
    counts = list(dict.fromkeys(point.scarce_slices for point in points))
    jobs = []
    for seed in seeds:
        jobs += baselines(space, seed, counts, "confirm", available)
        for point in points:
            needs = stl_key(space, space.source, None, seed) if point.init == "transfer" else None
            config = space.train_config(point, seed)
            jobs.append(
                Fixed(mtl_key(point, seed), "mtl", "confirm", config, point.scarce_slices, point.weighting, needs)
            )
    return jobs


def launched(space: Space, available: Mapping[str, int]) -> list[Fixed]:
    """What a launch runs beside the search: its baselines, and the space's grid over its seeds."""
    beside = baselines(space, space.seed, space.scarce_counts, "baseline", available) if space.trials else []
    jobs = {job.key: job for job in beside}
    # A baseline that serves both belongs to the grid, whose means are over seeds.
    jobs |= {job.key: job for job in confirmations(space, space.grid_points(), space.grid_seeds(), available)}
    return list(jobs.values())


def _cut(count: int | None) -> str:
    return "" if count is None else f"/n={count}"
