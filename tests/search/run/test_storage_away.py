"""A real search whose storage goes away while it runs: a database that is stopped, a disk that is full."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from search.study.open import OpenStudy, open_study
from search.study.record import State
from tests.search.conftest import steer
from tests.search.study.postgres import running

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


def driver(folder: Path, trials: int, **more: str) -> subprocess.Popen[str]:
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.search.driver", str(folder), str(trials)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )


def wait_for(condition: Callable[[], Any], seconds: float, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.1)


def epochs(study: Callable[[], OpenStudy]) -> int:
    try:
        return sum(len(record.history) for record in study().records())
    except Exception:
        return 0


def check(study: OpenStudy, trials: int) -> None:
    records = study.records()
    ended = [record for record in records if record.state in (State.COMPLETE, State.PRUNED)]
    assert len({record.key for record in ended}) == len(ended)
    assert sum(record.stage == "search" for record in ended) == trials
    assert all(record.state is not State.RUNNING for record in records)
    for record in ended:
        assert record.holes == ()
        assert list(record.history) == list(range(1, record.epochs + 1))


def test_a_database_that_is_stopped_for_thirty_seconds_loses_nothing(tmp_path):
    steer(tmp_path / "data", every={"seconds": 0.6})
    with running() as server:

        def study() -> OpenStudy:
            return open_study("killed", server.url, tmp_path / "runs")

        process = driver(tmp_path, 12, SPLITPOINT_TEST_STORAGE=server.url)
        wait_for(lambda: epochs(study) >= 6, 120, process)
        server.stop()
        time.sleep(30)
        server.start()
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert "cannot be written to" in said
        assert "can be written to again" in said
        assert "Traceback" not in said
        assert "hunter2" not in said
        check(study(), 12)


@pytest.fixture
def small(tmp_path) -> Iterator[Path]:
    """A disk of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_disk_that_fills_up_ends_a_search_with_a_sentence_and_it_goes_on_when_there_is_room(small, tmp_path):
    steer(small / "data", every={"seconds": 0.05})
    ballast = small / "ballast"
    ballast.write_bytes(bytes(700_000))
    process = driver(small, 60)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert "disk is full" in last or "No space left on device" in last
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=40m", str(small)], check=True)
    process = driver(small, 60)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    check(open_study("killed", None, small / "runs"), 60)
