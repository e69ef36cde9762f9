"""The sampler learns from the trials in the mirror."""

from optuna.trial import FrozenTrial, TrialState, create_trial

from recon.network.layout import Layout
from search.run.sampling import Mirror, PointSampler, make_sampler, parameters
from spaces.parts import Sampler
from spaces.point import Point
from spaces.space import Space

SPACE = Space.model_validate(
    {
        "tasks": ["a", "b"],
        "unroll": {"blocks": 12},
        "layouts": {"kind": "free"},
        "fidelity": {"epochs": 1, "rungs": []},
        "baselines": {"kinds": []},
        "trials": 100,
    }
)


def score(point: Point) -> int:
    """The number of split blocks."""
    return Layout.parse(point.layout).kinds.count("V")


def trial(number: int, point: Point) -> FrozenTrial:
    """A running trial of a point."""
    chosen = parameters(SPACE, point)
    made = create_trial(
        state=TrialState.RUNNING,
        params={name: value for name, (value, _) in chosen.items()},
        distributions={name: distribution for name, (_, distribution) in chosen.items()},
    )
    made.number = made._trial_id = number
    return made


def test_each_draw_learns_from_the_trials_that_ended_since_the_last_one():
    mirror = Mirror(make_sampler(Sampler(kind="tpe", startup=10), 0), [])
    sampler = PointSampler(mirror.study, SPACE, 0)
    scores = []
    for number in range(60):
        point = sampler.draw(lambda point: True)
        scores.append(score(point))
        running = trial(number, point)
        mirror.began(running)
        running.state, running.values = TrialState.COMPLETE, [float(score(point))]
        mirror.ended(running)
    # At random, a third of the twelve blocks is split: 4 of 12.
    assert sum(scores[-20:]) / 20 > sum(scores[:10]) / 10 + 2
