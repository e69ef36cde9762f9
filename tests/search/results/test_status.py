"""The status of a study says what its storage knows: the driver, what runs and how far, what ended, the end."""

import json
import os
import platform
import time

import pytest
from optuna.trial import TrialState

from recon.errors import InputError
from search.results.status import sentences, status, text
from search.study.open import open_study
from tests.search.stored import Stored

COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING


@pytest.fixture
def made(tmp_path):
    return Stored(tmp_path)


def drive(made: Stored, **changes) -> None:  # noqa: ANN003
    claim = {"host": "head", "pid": 17, "lock": "head:/x", "beat": time.time() - 4}
    made.study.search.set_user_attr("driver", {**claim, **changes})


def searching(made: Stored) -> None:
    """Two of ten trials ended after 6 and 2 epochs, two run, one failed, one was interrupted and continued."""
    made.stl("PDw", minutes=0.5)
    made.searched("I2V2", COMPLETE, 6)
    made.searched("I2Y2", PRUNED, 2, weighting="dwa", ssim=0.6, diverged=True)
    made.searched("Y4", FAIL, 1, error="the disk is gone")
    made.searched("V4", FAIL, 2, closed="interrupted")
    made.searched("V4", RUNNING, 3, node="name (10.0.0.2)", continues=3)
    made.searched("I4", RUNNING, 0)


def test_what_runs_is_told_with_its_rung_pace_memory_and_gpu_use(made):
    searching(made)
    drive(made)
    far, fresh = status(made.study).running
    assert (far.trial, far.what, far.scarce_slices, far.node) == ("4", "V4 naive", 12, "name (10.0.0.2)")
    assert (far.since, far.epoch, far.epochs, far.rung, far.next_rung) == ("2026-01-02T03:04:05", 3, 6, 2, 4)
    assert (far.ssim, far.epoch_seconds, far.peak_memory_bytes, far.gpu_use) == (0.8, 2.0, 3 * 2**20, 0.25)
    assert (fresh.trial, fresh.epoch, fresh.rung, fresh.next_rung) == ("5", 0, None, 2)
    assert (fresh.node, fresh.ssim, fresh.epoch_seconds, fresh.gpu_use) == (None, None, None, None)


def test_progress_counts_each_trial_once_and_a_continued_one_not_as_failed(made):
    searching(made)
    drive(made, references=3)
    found = status(made.study)
    assert (found.finished, found.stopped, found.failed, found.interrupted, len(found.running)) == (1, 1, 1, 0, 2)
    first, progress, end = sentences(found)
    assert first == "one: run by process 17 on head, heard of 4 s ago"
    assert progress == "trials 2/10 (1 finished, 1 stopped, 1 failed, 2 running); references 1/3"
    assert end.startswith("expected end: 20")


def test_the_expected_end_follows_from_the_epochs_left_and_the_pace_of_what_runs(made):
    searching(made)
    drive(made, fixed_epochs=7)
    # Running: 3 and 6 epochs; six more trials of (6 + 2) / 2 epochs; 7 of baselines. 2 s each, two side by side.
    assert status(made.study).seconds_left == pytest.approx((3 + 6 + 6 * 4 + 7) * 2.0 / 2)
    drive(made, budget=0)
    assert status(made.study).seconds_left == pytest.approx((3 + 6) * 2.0 / 2), "a confirmation searches nothing"


def test_the_last_ends_are_told_newest_first_and_why_trials_failed(made):
    searching(made)
    found = status(made.study, last=4).ended
    assert [(one.trial, one.how) for one in found] == [
        ("3", "interrupted, continued as 4"),
        ("2", "failed: the disk is gone"),
        ("1", "diverged, stopped after epoch 2, ssim 0.6000"),
        ("0", "done, ssim 0.8000"),
    ]
    assert found[1].when == "2026-01-02T03:07:05"
    assert found[2].what == "I2Y2 dwa N=12"


@pytest.mark.parametrize(
    "claim",
    [None, {"beat": 0.0}, {"host": platform.node(), "pid": 2**22 + 1}],
    ids=["left", "silent for long", "dead on this host"],
)
def test_without_a_driver_that_lives_the_same_command_goes_on(made, claim):
    searching(made)
    if claim is not None:
        drive(made, **claim)
    found = status(made.study)
    assert (found.driver, found.seconds_left) == (None, None)
    first, progress = sentences(found)
    assert first == "one: no driver; the same launch command goes on with what is left"
    assert "2 left open by a driver that died" in progress


def test_a_driver_on_this_host_that_lives_is_told(made):
    drive(made, host=platform.node(), pid=os.getpid())
    assert status(made.study).driver is not None


def test_a_search_that_is_over_says_so(tmp_path):
    made = Stored(tmp_path, trials=2)
    made.searched("I2V2", COMPLETE, 6)
    made.searched("V4", FAIL, 2, closed="interrupted")
    assert "goes on" in sentences(status(made.study))[0]
    made.searched("V4", COMPLETE, 6, continues=1)
    assert sentences(status(made.study)) == [
        "one: no driver; its 2 trials are done",
        "trials 2/2 (2 finished, 0 stopped, 0 failed); references 0",
    ]


def test_a_storage_that_is_behind_and_the_hosts_are_told(made):
    drive(made, waiting=3, hosts=[{"address": "10.0.0.1", "name": "head", "cpus": 2.0, "gpus": 0.0}])
    lines = sentences(status(made.study))
    assert lines[2:] == [
        "hosts: 10.0.0.1 (2 CPUs, 0 GPUs)",
        "the storage does not answer the driver; 3 facts wait in its memory",
    ]


def test_the_text_shows_whole_numbers_whole_and_what_is_not_known_as_a_dash(made):
    searching(made)
    drive(made)
    lines = [line.split() for line in text(status(made.study)).splitlines()]
    head = next(line for line in lines if line and line[0] == "running")
    far, fresh = lines[lines.index(head) + 1 :][:2]
    assert " ".join(head) == "running what N host since epoch rung next ssim s/epoch MiB GPU"
    assert far[-7:] == ["3/6", "2", "4", "0.8000", "2.0", "3", "25%"]
    assert fresh[:4] == ["5", "I4", "naive", "12"]
    assert fresh[-4:] == ["–", "–", "–", "–"]


def test_a_trial_of_another_version_is_one_sentence(made):
    made.searched("I2V2", RUNNING, 1)
    (trial,) = made.study.search.get_trials()
    made.study.storage.set_trial_user_attr(trial._trial_id, "config", trial.user_attrs["config"] | {"later": 1})
    with pytest.raises(InputError, match=r"was written by another version of Splitpoint"):
        status(made.study)


def test_the_command_reads_a_study_that_another_process_writes(made, splitpoint, plain_environment, tmp_path):
    searching(made)
    drive(made)
    code, out, err = splitpoint("status", "one", "--runs-dir", tmp_path / "runs")
    assert (code, err) == (0, "")
    assert out.startswith("one: run by process 17 on head, heard of ")
    code, out, _ = splitpoint("status", "one", "--runs-dir", tmp_path / "runs", "--json", "--last", "1")
    told = json.loads(out)
    assert code == 0
    assert told["running"][0]["rung"] == 2
    assert told["driver"]["pid"] == 17
    assert len(told["ended"]) == 1
    code, out, err = splitpoint("status", "two", "--runs-dir", tmp_path / "runs")
    assert (code, out, err.count("\n")) == (2, "", 1)
    made.searched("I2V2", COMPLETE, 6)
    assert status(open_study("one", runs_dir=tmp_path / "runs")).finished == 2
