"""Fixed jobs: the baselines of a space, the joint networks that others start from, and the retrainings that confirm
leaders.

They are fixed before there is any result. So they are never stopped early, and no sampler learns from them. This module
lists them; ``search.run.searcher`` serves them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recon.config import TrainConfig
from search.study.record import Kind, Record, Stage, point_of
from spaces.point import BaselineKind, Combination, Init, Point
from spaces.space import Space


@dataclass(frozen=True)
class FixedJob:
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


def stl_key(space: Space, task: str, scarce_slices: int | None, seed: int, hyperparameters: Combination = ()) -> str:
    """The key of a task's single-task training. Only the scarce task's key depends on N."""
    depends = space.scarce is not None and task == space.scarce.task
    return _key(f"stl/{task}", scarce_slices if depends else None, seed, hyperparameters)


def joint_key(space: Space, scarce_slices: int | None, seed: int) -> str:
    """The key of the joint network; the key of the joint STL if that is the same training."""
    if "joint-stl" in space.baselines.kinds:
        wanted = space.joint_config(scarce_slices, seed)
        for one in space.combinations:
            if space.reference_config("joint-stl", None, scarce_slices, seed, hyperparameters=one) == wanted:
                return _key("joint-stl", scarce_slices, seed, one)
    return _key("joint", scarce_slices, seed)


def start_key(space: Space, init: Init, scarce_slices: int | None, seed: int) -> str | None:
    """The key of the job whose weights a multi-task network starts from; None if it starts from random weights."""
    if init == "joint":
        return joint_key(space, scarce_slices, seed)
    if init == "transfer":
        return stl_key(space, space.source, None, seed, space.combinations[0])
    return None


def needs_of(space: Space, record: Record) -> str | None:
    """The key of the job whose weights a trial of a study started from; None if it started from random weights."""
    if record.kind == "mtl":
        return start_key(space, point_of(record).init, record.scarce_slices, record.seed)
    if record.kind == "joint-tuned":
        return joint_key(space, record.scarce_slices, record.seed)
    if record.kind == "transfer":
        for one in space.combinations:
            if record.key == _key("transfer", record.scarce_slices, record.seed, one):
                return stl_key(space, space.source, None, record.seed, one)
    return None


def _key(name: str, scarce_slices: int | None, seed: int, hyperparameters: Combination = ()) -> str:
    cut = [] if scarce_slices is None else [f"n={scarce_slices}"]
    return "/".join([name, *cut, *(f"{field}={json.dumps(value)}" for field, value in hyperparameters), f"seed={seed}"])


def joint_networks(space: Space, seed: int, counts: Iterable[int | None], stage: Stage) -> list[FixedJob]:
    """The joint network at each N, for one seed, without those for which a joint STL serves."""
    return [
        FixedJob(key, "joint", stage, config, count, config.weighting.kind)
        for count in counts
        if (key := joint_key(space, count, seed)).startswith("joint/")
        for config in [space.joint_config(count, seed)]
    ]


def baselines(
    space: Space, seed: int, counts: Iterable[int | None], stage: Stage, available: Mapping[str, int]
) -> list[FixedJob]:
    """The baselines at each N and combination of their hyperparameters, for one seed, with the jobs that they start
    from. The order is such that no job waits for a later one.

    Args:
        space: the space on its data, so that every N is a number.
        seed: seed of the trainings.
        counts: every N; (None,) without a scarce task.
        stage: ``baseline`` beside a search, ``confirm`` beside its confirmations.
        available: training slices of each task in the data.
    """
    counts = list(counts)
    scarce = space.scarce.task if space.scarce else None
    tasks = sorted(space.tasks, key=lambda task: task == scarce)
    kinds = space.baselines.kinds
    found: list[FixedJob] = []

    def config(
        kind: BaselineKind, task: str | None, count: int | None, one: Combination, passes: int = 1
    ) -> TrainConfig:
        return space.reference_config(kind, task, count, seed, passes, one)

    if "joint-tuned" in kinds:
        found += joint_networks(space, seed, counts, stage)
    if "stl" in kinds:
        for one in space.combinations:
            for task in tasks:
                for count in counts if task == scarce else (None,):
                    key = stl_key(space, task, count, seed, one)
                    found.append(FixedJob(key, "stl", stage, config("stl", task, count, one), count, None))
    if "stl-steps" in kinds:
        for one in space.combinations:
            for count in counts:
                assert count is not None  # the space refuses stl-steps without a scarce task
                key = _key("stl-steps", count, seed, one)
                passes = space.steps_passes(count, available, one)
                long = config("stl-steps", scarce, count, one, passes)
                found.append(FixedJob(key, "stl-steps", stage, long, count, None))
    if "joint-stl" in kinds:
        for one in space.combinations:
            for count in counts:
                key, joint = _key("joint-stl", count, seed, one), config("joint-stl", None, count, one)
                found.append(FixedJob(key, "joint-stl", stage, joint, count, joint.weighting.kind))
    if "joint-tuned" in kinds:
        for one in space.combinations:
            for task in tasks:
                # The abundant task's job also depends on N, because its start does.
                for count in counts:
                    key = _key(f"joint-tuned/{task}", count, seed, one)
                    tuned, needs = config("joint-tuned", task, count, one), joint_key(space, count, seed)
                    found.append(FixedJob(key, "joint-tuned", stage, tuned, count, None, needs))
    if "transfer" in kinds:
        for one in space.combinations:
            for count in counts:
                key, needs = _key("transfer", count, seed, one), stl_key(space, space.source, None, seed, one)
                found.append(FixedJob(key, "transfer", stage, config("transfer", None, count, one), count, None, needs))
    return found


def confirmations(
    space: Space, points: Iterable[Point], seeds: Iterable[int], available: Mapping[str, int]
) -> list[FixedJob]:
    """The retrainings of points over seeds, with all baselines at their N and the jobs that they start from, seed by
    seed.

    Args:
        space: on its data.
        points: the configurations.
        seeds: seeds of the trainings.
        available: training slices of each task in the data.
    """
    points = list(points)
    counts = list(dict.fromkeys(point.scarce_slices for point in points))
    joint = list(dict.fromkeys(point.scarce_slices for point in points if point.init == "joint"))
    found: list[FixedJob] = []
    for seed in seeds:
        found += joint_networks(space, seed, joint, "confirm")
        found += baselines(space, seed, counts, "confirm", available)
        found += [multi_task(space, point, seed, "confirm") for point in points]
    return list({job.key: job for job in found}.values())


def multi_task(space: Space, point: Point, seed: int, stage: Stage) -> FixedJob:
    """The job that trains a point."""
    needs = start_key(space, point.init, point.scarce_slices, seed)
    config = space.train_config(point, seed)
    return FixedJob(mtl_key(point, seed), "mtl", stage, config, point.scarce_slices, point.weighting, needs)


def launched(space: Space, available: Mapping[str, int]) -> list[FixedJob]:
    """The fixed jobs of a launch: the networks that trials start from, the baselines, and the space's grid over its
    seeds."""
    beside: list[FixedJob] = []
    if space.trials and space.start.init == "joint":
        beside += joint_networks(space, space.seed, space.scarce_counts, "baseline")
    for seed in space.baseline_seeds() if space.trials else ():
        beside += baselines(space, seed, space.scarce_counts, "baseline", available)
    jobs = {job.key: job for job in beside}
    # A baseline that serves both belongs to the grid, whose means are over seeds.
    jobs |= {job.key: job for job in confirmations(space, space.grid_points(), space.grid_seeds(), available)}
    return list(jobs.values())
