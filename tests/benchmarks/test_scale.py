"""The benchmark of scale measures searches that end, and says what they left."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*options: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.scale", *options, "--json"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=540)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_search_that_is_timed_runs_every_trial_and_stops_some_at_rungs():
    found = run("--trials", "8", "--epochs", "4")
    assert found["trials"] == 8
    assert 8 < found["results"] < 8 * 4
    assert found["checkpoints_a_trial"] == 1
    assert found["driver_ms_a_result"] > 0
    assert found["driver_peak_mb"] > 50
    assert found["leaderboard_cpu_s"] > 0
    assert found["temporary_files_left"] == 0


@pytest.mark.slow
def test_another_checkout_is_measured_with_its_own_code(tmp_path):
    for folder in ("recon", "spaces", "search", "splitpoint"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    found = run("--trials", "4", "--epochs", "2", "--rounds", "1", "--against", str(tmp_path))
    assert found["here"]["trials"] == found["other"]["trials"] == 4
    assert found["here_to_other"]["trials"] == 1


@pytest.mark.slow
def test_real_trainings_through_one_worker_tell_its_memory_after_each():
    found = run("--actor", "3")
    assert (found["workers"], found["trainings"], len(found["resident_mb"])) == (1, 3, 3)
    assert min(found["resident_mb"]) > 100
