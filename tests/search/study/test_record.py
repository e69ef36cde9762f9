"""Records: each fact of a trial read from where it is true."""

from datetime import datetime

import pytest
from optuna.trial import TrialState

from search.study.open import open_study
from search.study.record import State, checkpoint_epoch
from tests.search.study.written import made, metrics, multi_task

HISTORY = {epoch: metrics(0.6 + 0.01 * epoch, gain=0.001 * epoch) for epoch in (1, 2, 3, 4)}


@pytest.mark.parametrize(
    ("attributes", "epoch"),
    [
        ({}, 0),
        ({"checkpoint": "/runs/one/trials/search-0012/epoch-00003"}, 3),
        ({"checkpoint": "/runs/one/trials/search-0012/epoch-00003", "checkpoint_epoch": 2}, 3),
        ({"checkpoint": "/runs/one/trials/search-0012/checkpoint_000007", "checkpoint_epoch": 8}, 8),
        ({"checkpoint": "/runs/epoch-00003/trials/search-0012/checkpoint_000007"}, 0),
        ({"checkpoint_epoch": 5}, 0),
    ],
)
def test_the_epoch_of_a_checkpoint_is_in_its_name_or_in_older_studies_beside_it(attributes, epoch):
    assert checkpoint_epoch(attributes) == epoch


@pytest.mark.parametrize("objective", ["ssim", "gain"])
def test_the_objective_is_read_from_the_metrics_and_not_from_optunas_copy(tmp_path, objective):
    study = made(tmp_path, objective={"metric": objective})
    multi_task(study.search, HISTORY, values={1: 9.0, 3: 9.0}, value=9.0)
    (record,) = study.searched()
    assert record.values == {epoch: HISTORY[epoch][objective] for epoch in (1, 2, 3, 4)}
    assert record.value == HISTORY[4][objective]


def test_a_reference_is_judged_by_its_ssim_whatever_the_objective(tmp_path):
    study = made(tmp_path, objective={"metric": "gain"})
    multi_task(study.references, HISTORY, stage="confirm", values={4: 9.0})
    (record,) = study.referenced()
    assert (record.value, record.values[2]) == (HISTORY[4]["ssim"], HISTORY[2]["ssim"])


def test_where_an_older_study_has_no_gain_among_its_metrics_optunas_copy_counts(tmp_path):
    study = made(tmp_path, objective={"metric": "gain"})
    plain = {epoch: metrics(0.6) for epoch in (1, 2)}
    multi_task(study.search, plain, epochs=2, values={1: 0.01, 2: 0.02})
    (record,) = study.searched()
    assert (record.values, record.value) == ({1: 0.01, 2: 0.02}, 0.02)


def test_an_epoch_is_recorded_where_its_metrics_are_and_nowhere_else(tmp_path):
    study = made(tmp_path)
    multi_task(study.search, {1: HISTORY[1], 3: HISTORY[3]}, values={1: 1.0, 2: 2.0}, state=TrialState.RUNNING)
    (record,) = study.searched()
    assert record.values == {1: HISTORY[1]["ssim"], 3: HISTORY[3]["ssim"]}
    assert (record.epochs, record.holes, record.end, record.value) == (3, (2,), {}, None)


@pytest.mark.parametrize(
    ("epochs", "history", "holes"), [(4, (), ()), (4, (1, 2), ()), (4, (4,), (1, 2, 3)), (6, (1, 2, 4, 6), (3, 5))]
)
def test_holes_are_the_validated_epochs_before_the_last_that_are_missing(tmp_path, epochs, history, holes):
    study = made(tmp_path)
    multi_task(study.search, {epoch: metrics(0.6) for epoch in history}, epochs=epochs, state=TrialState.RUNNING)
    assert study.searched()[0].holes == holes


def test_an_epoch_that_is_not_validated_is_no_hole(tmp_path):
    study = made(tmp_path)
    multi_task(study.search, {2: metrics(0.6), 4: metrics(0.7)}, state=TrialState.RUNNING)
    (trial,) = study.search.trials
    config = trial.user_attrs["config"] | {"validate_at": [2, 4]}
    study.storage.set_trial_user_attr(trial._trial_id, "config", config)
    assert study.searched()[0].holes == ()


def test_why_and_when_a_trial_ended_is_read(tmp_path):
    study = made(tmp_path)
    multi_task(study.search, {1: metrics(0.2)}, state=TrialState.PRUNED, diverged=True)
    multi_task(study.search, {}, state=TrialState.FAIL, error="volume 3 is cut", fault="data")
    multi_task(study.search, {}, state=TrialState.RUNNING)
    before = datetime.now()
    diverged, failed, running = open_study("one", None, tmp_path / "runs").searched()
    assert (diverged.state, diverged.diverged, diverged.fault) == (State.PRUNED, True, None)
    assert (failed.state, failed.diverged, failed.fault, failed.error) == (State.FAIL, False, "data", "volume 3 is cut")
    assert (running.diverged, running.fault, running.ended) == (False, None, None)
    for one in (diverged, failed):
        assert one.started is not None
        assert one.ended is not None
        assert one.started <= one.ended <= before
        assert (before - one.started).total_seconds() < 60
