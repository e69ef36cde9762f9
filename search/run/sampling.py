"""Sampling: choose the next point of a space for an Optuna study.

Optuna samples the space's dimensions one by one, and ``Space.decode`` makes a point of them. A sampler may repeat
itself, so points that are not wanted are drawn again, in the end at random. Whether a point is wanted, and what is then
done with it, is left to ``search.run.searcher``.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterable
from typing import Any, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

from spaces.layouts import Choice, Dimension, Integer, Value
from spaces.parts import Sampler
from spaces.point import Point
from spaces.space import Space

SAMPLER_DRAWS = 20
"""Proposals of the sampler that may be unwanted before points are drawn at random."""
RANDOM_DRAWS = 2000
"""Random draws that may be unwanted before the space counts as tried in full."""

Parameters = dict[str, tuple[Value, BaseDistribution]]


def make_sampler(config: Sampler, seed: int) -> BaseSampler:
    """The sampler that a space names."""
    samplers: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=config.startup, seed=seed
        ),
        "random": lambda: RandomSampler(seed=seed),
    }
    with warnings.catch_warnings():
        # Optuna calls ``group`` experimental since 2.8; conditional dimensions need it.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return samplers[config.kind]()


def distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension in Optuna's words."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    if isinstance(dimension, Integer):
        return IntDistribution(dimension.low, dimension.high, log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def parameters(space: Space, point: Point) -> Parameters:
    """A point as Optuna's trial carries it: each dimension's value and distribution."""
    dimensions = space.dimensions(point.weighting)
    return {name: (value, distribution(dimensions[name])) for name, value in space.encode(point).items()}


class Mirror:
    """The searched trials in memory, as far as a sampler reads them.

    A sampler reads all trials for each proposal. Here it finds them at once, also while the storage is away, and
    without the metrics that it does not need. The driver is the only writer of a study, so the mirror is true.

    Args:
        sampler: proposes.
        trials: the study's searched trials.
    """

    def __init__(self, sampler: BaseSampler, trials: Iterable[FrozenTrial]) -> None:
        self.study = optuna.create_study(storage=InMemoryStorage(), sampler=sampler, direction="maximize")
        self._ids: dict[int, int] = {}
        for trial in trials:
            self.began(trial)

    def began(self, trial: FrozenTrial) -> None:
        """Take up a trial of the study."""
        last = trial.last_step
        slim = FrozenTrial(
            number=trial.number,
            trial_id=trial._trial_id,
            state=trial.state,
            value=trial.value,
            datetime_start=trial.datetime_start,
            datetime_complete=trial.datetime_complete,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={},
            system_attrs=trial.system_attrs,
            intermediate_values={} if last is None else {last: trial.intermediate_values[last]},
        )
        storage = self.study._storage
        self._ids[trial._trial_id] = storage.create_new_trial(self.study._study_id, template_trial=slim)

    def ended(self, trial: FrozenTrial) -> None:
        """Take up how a trial ended."""
        mine = self._ids.get(trial._trial_id)
        if mine is None:
            return
        storage = self.study._storage
        for name, value in trial.system_attrs.items():
            storage.set_trial_system_attr(mine, name, value)
        if trial.last_step is not None:
            storage.set_trial_intermediate_value(mine, trial.last_step, trial.intermediate_values[trial.last_step])
        storage.set_trial_state_values(mine, trial.state, trial.values)


class PointSampler:
    """Draws points of a space for the trials of an Optuna study.

    Args:
        study: with its sampler; a trial is added to it that never ends.
        space: on its data.
        seed: seed of random draws and of repairs.
    """

    def __init__(self, study: optuna.Study, space: Space, seed: int) -> None:
        self._study = study
        self._space = space
        self._rng = random.Random(seed)
        # Samplers draw for a trial, and note things in it. This one stands for all, and leaves itself out of what it
        # learns from.
        self._pen = study._storage.create_new_trial(study._study_id)

    def draw(self, wanted: Callable[[Point], bool]) -> Point | None:
        """A wanted point from the sampler; a random one if the sampler keeps proposing others; None if none is
        found."""
        # As ``Study.ask`` does: otherwise samplers would go on with the trials that they saw at the first draw.
        self._study._thread_local.cached_all_trials = None
        trial = self._study._storage.get_trial(self._pen)
        for attempt in range(SAMPLER_DRAWS + RANDOM_DRAWS):
            params = self._propose(trial) if attempt < SAMPLER_DRAWS else self._at_random()
            point = self._space.decode(params, self._rng)
            if point and wanted(point):
                return point
        return None

    def _propose(self, trial: FrozenTrial) -> dict[str, Any]:
        """Ask the sampler for the space's dimensions, those that depend on the weighting last."""
        study = self._study
        joint = study.sampler.infer_relative_search_space(study, trial)
        params = study.sampler.sample_relative(study, trial, joint)

        def choose(name: str, dimension: Dimension) -> Value:
            wanted = distribution(dimension)
            if wanted.single():
                return dimension.values[0] if isinstance(dimension, Choice) else dimension.low
            if name in params:
                return cast(Value, params[name])
            return cast(Value, study.sampler.sample_independent(study, trial, name, wanted))

        return self._chosen(choose)

    def _at_random(self) -> dict[str, Any]:
        """Draw every dimension at random, without using the study."""
        rng = self._rng

        def choose(name: str, dimension: Dimension) -> Value:
            if isinstance(dimension, Choice):
                return rng.choice(dimension.values)
            whole = isinstance(dimension, Integer)
            low, high = (dimension.low - 0.5, dimension.high + 0.5) if whole else (dimension.low, dimension.high)
            drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if dimension.log else rng.uniform(low, high)
            return min(max(round(drawn), dimension.low), dimension.high) if whole else drawn

        return self._chosen(choose)

    def _chosen(self, choose: Callable[[str, Dimension], Value]) -> dict[str, Any]:
        chosen = {name: choose(name, dimension) for name, dimension in self._space.dimensions().items()}
        for name, dimension in self._space.dimensions(chosen["weighting"]).items():  # type: ignore[arg-type]
            if name not in chosen:
                chosen[name] = choose(name, dimension)
        return chosen
