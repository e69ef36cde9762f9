"""One training outside of a search, exactly as a search trains it: the training of a trial, or of a layout in a
space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recon.config import TrainConfig, WeightingKind
from recon.errors import InputError
from recon.network.layout import Layout
from search.run.facts import DataFacts
from search.run.jobs import baselines, joint_networks, multi_task, needs_of
from search.study.open import OpenStudy
from search.study.record import State
from spaces.checks import check_length
from spaces.point import Point
from spaces.space import Space


@dataclass(frozen=True)
class Single:
    """A training and its start."""

    config: TrainConfig
    data: Path
    init: Path | None = None
    """The checkpoint that it starts from, if it already exists."""
    start: TrainConfig | None = None
    """The training that makes this checkpoint, if it does not exist yet."""


def like_trial(study: OpenStudy, trial: str, data: Path | None = None) -> Single:
    """The training of a trial. With as many threads on the same kind of CPU, it repeats the trial's curve to the last
    digit.

    Args:
        study: the trial's study.
        trial: its name in the leaderboard: ``12``, or ``r3`` for a reference.
        data: folder of the prepared data, if they have moved since the launch.

    Raises:
        InputError: no such trial, or other data.
    """
    record = study.record(trial)
    facts = DataFacts.of(data or study.data)
    if facts.hash != record.data_hash:
        raise InputError(
            f"{facts.path} has hash {facts.hash[:12]}, where trial {trial} of study {study.name!r} was trained on "
            f"{record.data_hash[:12]}"
        )
    needs = needs_of(study.space, record)
    if needs is None:
        return Single(record.config, facts.path)
    done = next((one for one in study.referenced() if one.key == needs and one.state is State.COMPLETE), None)
    if done is None:
        raise InputError(f"trial {trial} starts from {needs}, which is not complete in study {study.name!r}")
    kept = Path(done.checkpoint) if done.checkpoint else None
    if kept is not None and kept.is_dir():
        return Single(record.config, facts.path, init=kept)
    return Single(record.config, facts.path, start=done.config)


def of_space(
    space: Space,
    data: Path,
    layout: str,
    weighting: WeightingKind | None = None,
    scarce_slices: int | None = None,
    seed: int | None = None,
) -> Single:
    """The training that a search of a space gives a layout.

    Args:
        space: the space; its searched hyperparameters take the values of ``training``.
        data: prepared data.
        layout: a layout with as many blocks as the space's networks.
        weighting: one of the space's; without it the first.
        scarce_slices: N; without it the space's first.
        seed: without it, the space's.

    Raises:
        InputError: space, data, layout, weighting and N do not fit together.
    """
    facts = DataFacts.of(data)
    space = space.on(facts.slices, str(facts.path))
    try:
        name = str(check_length(str(Layout.parse(layout)), space.unroll.blocks, "--layout"))
    except ValueError as error:
        raise InputError(str(error)) from None
    if weighting is not None and weighting not in space.weightings:
        raise InputError(f"--weighting {weighting} is not among the space's weightings: {', '.join(space.weightings)}")
    count = space.scarce_counts[0] if scarce_slices is None else scarce_slices
    if count not in space.scarce_counts:
        known = ", ".join(str(one) for one in space.scarce_counts if one is not None) or "none"
        raise InputError(f"--n {count} is not among the space's N: {known}")
    point = Point(name, weighting or space.weightings[0], count, (), space.start.init)
    seed = space.seed if seed is None else seed
    job = multi_task(space, point, seed, "search")
    if job.needs is None:
        return Single(job.config, facts.path)
    beside = [
        *joint_networks(space, seed, [count], "baseline"),
        *baselines(space, seed, [count], "baseline", facts.slices),
    ]
    start = next(one.config for one in beside if one.key == job.needs)
    return Single(job.config, facts.path, start=start)
