"""The benchmark of a trial's overhead times trials that finish."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_trial_that_is_timed_finishes_in_one_worker():
    command = [sys.executable, "-m", "benchmarks.overhead", "--trials", "3", "--epochs", "2", "--json"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert (found["trials"], found["workers"]) == (3, 1)
    assert found["driver_cpu_a_trial"] > 0
