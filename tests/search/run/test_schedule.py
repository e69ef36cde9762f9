"""Rungs: the same decisions as Ray's ASHA, and none forgotten in a restart."""

import json
import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, RayTaskError
from ray.train._internal.storage import StorageContext
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from search.run.schedule import Rungs, SuccessiveHalving, fault, reason, roots
from search.run.trial import LOST
from search.study.record import State

MILESTONES, REDUCTION, EPOCHS = (1, 3, 9), 3, 20
ignored = (lambda trial, why, fault: None, lambda trial, diverged: None)


@dataclass
class FakeRecord:
    number: int
    values: dict[int, float]
    continues: int | None = None
    state: State = State.PRUNED

    @property
    def epochs(self) -> int:
        return max(self.values, default=0)


@dataclass
class FakeTrial:
    trial_id: str
    config: dict = field(default_factory=dict)
    error_file: str | None = None


def trial(number: int, stage: str = "search") -> FakeTrial:
    return FakeTrial(str(number), {"stage": stage, "root": number, "epochs": EPOCHS})


def result(epoch: int, value: float, **more: Any) -> dict:
    return {"epoch": epoch, "objective": value, "training_iteration": epoch, **more}


@pytest.mark.parametrize("seed", range(5))
def test_it_stops_the_trials_that_rays_asha_stops(seed):
    rng = np.random.default_rng(seed)
    theirs = ASHAScheduler("epoch", "objective", "max", EPOCHS, MILESTONES[0], REDUCTION)
    ours = SuccessiveHalving(Rungs(MILESTONES, REDUCTION), *ignored)
    running = dict.fromkeys(range(12), 0)
    for number in running:
        theirs.on_trial_add(None, trial(number))
    decisions = {TrialScheduler.STOP: 0, TrialScheduler.CONTINUE: 0}
    while running:
        number = int(rng.choice(list(running)))
        running[number] += 1
        report = result(running[number], float(rng.normal() + 0.1 * number))
        expected = theirs.on_trial_result(None, trial(number), report)
        assert ours.on_trial_result(None, trial(number), report) == expected
        decisions[expected] += 1
        if expected == TrialScheduler.STOP:
            theirs.on_trial_complete(None, trial(number), report)
            del running[number]
    assert min(decisions.values()) > 3


def test_rungs_rebuilt_from_records_decide_as_those_that_were_never_lost():
    rng = np.random.default_rng(0)
    whole, records = Rungs(MILESTONES, REDUCTION), []
    for number in range(8):
        record = FakeRecord(number, {})
        for epoch in range(1, EPOCHS):
            value = float(rng.normal())
            record.values[epoch] = value
            if not whole.passes(number, epoch, value):
                break
        records.append(record)
    rebuilt = Rungs(MILESTONES, REDUCTION)
    rebuilt.rebuild(records)
    assert rebuilt.counts() == whole.counts()
    assert whole.counts()[1] == 8
    for value in rng.normal(size=20):
        for epoch in MILESTONES:
            number = int(rng.integers(100, 10**9))
            assert whole.passes(number, epoch, value) == rebuilt.passes(number, epoch, value)


def test_a_continued_trial_is_one_trial_at_a_rung():
    records = [
        FakeRecord(0, {1: 0.5}),
        FakeRecord(1, {1: 0.5, 2: 0.6}, continues=0),
        FakeRecord(2, {1: 0.1}, continues=1),
    ]
    assert roots(records) == {0: 0, 1: 0, 2: 0}
    rungs = Rungs((1,), 2)
    rungs.rebuild(records)
    assert rungs.counts() == {1: 1}
    assert rungs.passes(0, 2, -1.0), "it has passed this rung before"


@pytest.mark.parametrize("stage", ["baseline", "confirm"])
def test_fixed_jobs_are_never_stopped_before_their_last_epoch(stage):
    halving = SuccessiveHalving(Rungs(MILESTONES, REDUCTION), *ignored)
    for number in range(10):
        halving.on_trial_result(None, trial(number), result(1, 1.0))
    for epoch in range(1, EPOCHS):
        assert halving.on_trial_result(None, trial(99, stage), result(epoch, -9.0)) == TrialScheduler.CONTINUE
    assert halving.on_trial_result(None, trial(99, stage), result(EPOCHS, -9.0)) == TrialScheduler.STOP


def test_a_value_that_is_no_number_and_an_error_stop_a_trial_and_leave_no_mark_on_the_rungs():
    rungs = Rungs(MILESTONES, REDUCTION)
    halving = SuccessiveHalving(rungs, *ignored)
    assert halving.on_trial_result(None, trial(1), result(1, math.nan)) == TrialScheduler.STOP
    assert halving.on_trial_result(None, trial(2), result(1, 0.5, error="no")) == TrialScheduler.STOP
    assert rungs.counts()[1] == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "Failure # 1 (occurred at x)\nray::f() (pid=1)\n  File 'a'\nOSError: old\n"
            "Failure # 2 (occurred at y)\nray::f() (pid=2)\n  File 'a'\nOSError: the disk is gone\n",
            "OSError: the disk is gone",
        ),
        (
            "Failure # 1 (occurred at x)\nThe actor died unexpectedly before finishing this task.\n\tclass_name: F\n",
            "The actor died unexpectedly before finishing this task.",
        ),
    ],
)
def test_the_reason_of_a_failure_is_one_line_of_the_last(tmp_path, text, reason):
    (tmp_path / "error.txt").write_text(text)
    noted = []
    halving = SuccessiveHalving(Rungs((), 2), lambda *what: noted.append(what), print)
    failed = SimpleNamespace(trial_id="t", error_file=str(tmp_path / "error.txt"), pickled_error_file=None)
    halving.on_trial_error(None, failed)
    assert noted == [("t", reason, "machine")]


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """A trial of Tune's, which keeps its errors in Tune's own files."""
    monkeypatch.setattr(StorageContext, "_get_session_path", lambda self: str(tmp_path / "session"))
    storage = StorageContext(storage_path=str(tmp_path / "storage"), experiment_dir_name="e", trial_dir_name="t")
    made = Trial("any", stub=True, storage=storage)
    made.init_local_path()
    return made


def test_a_worker_that_cannot_be_reached_is_lost_and_not_a_matter_of_connections(failing):
    failing.handle_error(ActorUnavailableError("RpcError: Socket closed", None))
    assert reason(failing) == LOST


@pytest.mark.parametrize(
    ("error", "blamed"),
    [
        (ActorDiedError(), "machine"),
        (ActorUnavailableError("no route", None), "machine"),
        (RayTaskError("f", "", NodeDiedError("its node is dead")), "machine"),
        (RayTaskError("f", "", OSError("Stale file handle")), "machine"),
        (RayTaskError("f", "", MemoryError()), "machine"),
        (RayTaskError("f", "", ValueError("a bug")), None),
        (None, "machine"),
    ],
)
def test_a_lost_worker_and_an_error_of_the_system_are_the_machines_and_not_the_trials(failing, error, blamed):
    if error is not None:
        failing.handle_error(error)
    assert fault(failing) == blamed


def judged(epoch: int, ssim: float, zero_filled: float) -> dict:
    metrics = {"ssim": ssim, "zero_filled/PDw": zero_filled + 0.1, "zero_filled/PDw-FS": zero_filled - 0.1}
    return result(epoch, ssim, reports=json.dumps([{"epoch": epoch, "objective": ssim, "metrics": metrics}]))


def test_a_network_that_is_worse_than_the_zero_filled_images_at_a_rung_is_stopped_as_diverged():
    stopped = []
    halving = SuccessiveHalving(Rungs(MILESTONES, REDUCTION), ignored[0], lambda *what: stopped.append(what))
    assert halving.on_trial_result(None, trial(1), judged(1, 0.61, 0.6)) == TrialScheduler.CONTINUE
    assert halving.on_trial_result(None, trial(1), judged(2, 0.1, 0.6)) == TrialScheduler.CONTINUE, "no rung"
    assert halving.on_trial_result(None, trial(1), judged(3, 0.59, 0.6)) == TrialScheduler.STOP
    assert halving.on_trial_result(None, trial(2), judged(1, 0.605, 0.6)) == TrialScheduler.STOP
    assert stopped == [("1", True), ("2", False)]
    assert halving.on_trial_result(None, trial(3, "baseline"), judged(1, 0.1, 0.6)) == TrialScheduler.CONTINUE


def test_a_rung_at_which_a_trial_was_interrupted_is_decided_when_it_goes_on():
    records = [FakeRecord(0, {1: 0.5}, state=State.COMPLETE), FakeRecord(1, {1: 0.1}, state=State.FAIL)]
    rungs = Rungs((1,), 2)
    rungs.rebuild(records)
    assert rungs.counts() == {1: 1}
    assert not rungs.passes(1, 1, 0.1)


def test_trials_stop_at_their_next_report_when_the_run_is_left():
    halving = SuccessiveHalving(Rungs(MILESTONES, REDUCTION), *ignored, leaving=lambda: True)
    assert halving.on_trial_result(None, trial(1), result(2, 0.5)) == TrialScheduler.STOP
