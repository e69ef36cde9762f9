"""Gains: no value is ever read at another epoch than the one that is asked for."""

import math
from types import SimpleNamespace

import pytest

from search.run.trial import compare
from search.study.gains import References, counting
from tests.search.study.written import made, metrics, multi_task, stl

TASKS = ("PDw", "PDw-FS")
CURVE = {1: 0.5, 2: 0.6, 3: 0.7, 4: 0.8}


def history(task: str, *epochs: int, above: float = 0.0) -> dict[int, dict[str, float]]:
    return {epoch: metrics(CURVE[epoch] + above, (task,)) for epoch in epochs}


@pytest.fixture
def study(tmp_path):
    return made(tmp_path)


def references(study) -> References:
    return References(study.referenced())


def test_a_hole_in_an_stl_is_no_value_at_that_epoch_and_leaves_the_others_as_they_are(study):
    stl(study.references, "PDw", history("PDw", 1, 3, 4))
    found = references(study)
    assert found.at("PDw", 12, 2) is None
    assert [found.at("PDw", 12, epoch).mean for epoch in (1, 3, 4)] == [0.5, 0.7, 0.8]
    assert found.at("PDw", 12).mean == 0.8


def test_a_hole_in_one_seed_is_no_mean_over_the_others(study):
    stl(study.references, "PDw", history("PDw", 1, 2, 3, 4), seed=0)
    stl(study.references, "PDw", history("PDw", 1, 3, 4, above=0.1), seed=1)
    found = references(study)
    assert found.at("PDw", 12, 2) is None
    assert found.at("PDw", 12, 3).mean == pytest.approx(0.75)


def test_an_stl_without_its_last_epoch_has_no_end(study):
    """59 of 60 epochs are no training: the gain of whoever is compared with its end is missing, not another's."""
    stl(study.references, "PDw", history("PDw", 1, 2, 3, 4), seed=0)
    stl(study.references, "PDw", history("PDw", 1, 2, 3), seed=1)
    assert references(study).at("PDw", 12) is None
    assert references(study).at("PDw", 12, 4) is None
    assert references(study).at("PDw", 12, 3).mean == pytest.approx(0.7)


def test_baselines_of_which_none_reached_its_end_do_not_count_and_break_nothing(study):
    stl(study.references, "PDw", history("PDw", 1, 2))
    records = study.referenced()
    assert counting(records) == []
    assert References(records).at("PDw", 12, 1) is None


def test_a_trial_whose_epoch_the_stl_lacks_has_no_gain_there(study):
    for task in TASKS:
        stl(study.references, task, history(task, 1, 3, 4) if task == "PDw" else history(task, 1, 2, 3, 4))
    slices = {"PDw": 12, "PDw-FS": 12}
    multi_task(study.search, {1: metrics(0.5), 2: metrics(0.65)}, slices=slices)
    multi_task(study.search, {1: metrics(0.5), 2: metrics(0.65), 3: metrics(0.75)}, slices=slices)
    at_two, at_three = study.searched()
    found = references(study)
    assert set(found.gains(at_two)) == {"PDw-FS"}
    assert found.gain(at_two) is None
    assert found.gains(at_three)["PDw"].mean == pytest.approx(0.05)
    assert math.isnan(found.gain(at_three).error)


def test_a_trial_with_a_hole_of_its_own_is_compared_at_the_epoch_that_its_value_is_from(study):
    for task in TASKS:
        stl(study.references, task, history(task, 1, 2, 3, 4))
    multi_task(study.search, {1: metrics(0.5), 4: metrics(0.9)}, slices={"PDw": 12, "PDw-FS": 12})
    (record,) = study.searched()
    assert references(study).gains(record)["PDw"].mean == pytest.approx(0.1)


def test_metrics_that_an_stl_lacks_are_no_error(study):
    stl(study.references, "PDw", {4: {"ssim": 0.8, "loss": 0.2}})
    assert references(study).at("PDw", 12, 4) is None
    assert references(study).at("PDw", 12) is None


def test_a_gain_at_an_epoch_that_the_reference_lacks_is_said_with_the_epochs_that_it_has():
    with pytest.raises(
        ValueError, match="not validated after epoch 2, where the trial's gain is asked for, but after 1, 3"
    ):
        compare({"ssim/PDw": 0.5}, 2, {"PDw": {1: 0.4, 3: 0.6}})
    with pytest.raises(ValueError, match="not validated after epoch 2"):
        compare({"ssim/PDw": 0.5}, 2, {"PDw": {}})


def test_a_training_that_was_repeated_counts_once_and_its_last_whole_curve_does():
    def stl(key: str, ssim: float, holes: tuple[int, ...] = ()) -> SimpleNamespace:
        end = {"ssim": ssim}
        return SimpleNamespace(
            key=key,
            kind="stl",
            tasks=("PDw",),
            scarce_slices=None,
            configuration=key.rsplit("/seed=")[0],
            end=end,
            holes=holes,
        )

    first, again, other = stl("stl/PDw/seed=0", 0.5, (2,)), stl("stl/PDw/seed=0", 0.6), stl("stl/PDw/seed=1", 0.7)
    assert counting([first, other, again]) == [again, other]
    assert counting([again, other, first]) == [again, other]
