"""A search whose processes are killed at random, and relaunched to its end, is the search that nothing happened to."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recon.data.options import PrepareOptions
from recon.data.prepare import prepare
from recon.data.prepared import PreparedData
from recon.simulate import simulate
from recon.training.loop import EpochReport, train
from search.study.open import OpenStudy, open_study
from search.study.record import Record, State

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("SPLITPOINT_TEST_KILLS", "30"))
SPACE: dict[str, Any] = {
    "tasks": ["PDw", "PDw-FS"],
    "scarce": {"task": "PDw-FS", "slices": [4]},
    "unroll": {"blocks": 4, "channels": 4, "pools": 2},
    "layouts": {"kind": "free"},
    "weightings": ["naive", "dwa"],
    "start": {"init": "random"},
    "fidelity": {"epochs": 5, "rungs": [2], "reduction": 3},
    "baselines": {"kinds": ["stl", "transfer"]},
    "trials": 12,
    "sampler": {"kind": "tpe", "startup": 4},
}
VARIES = {"seconds", "gpu_seconds", "peak_memory_bytes"}


class Launch:
    """A driver in a process of its own, and the processes that it starts."""

    def __init__(self, folder: Path, trials: int) -> None:
        self.log = folder / "launch.log"
        self._from = self.log.stat().st_size if self.log.exists() else 0
        options = ["--data", folder / "data", "--study", "killed", "--runs-dir", folder / "runs", "--trials", trials]
        command = [sys.executable, "-m", "search.cli", "launch", folder / "space.yaml", *options, "--grace", 1]
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": (folder / "tmp").read_text()}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*map(str, command)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
            )
        self.seen: set[int] = set()

    @property
    def said(self) -> str:
        return self.log.read_bytes()[self._from :].decode(errors="replace")

    def family(self) -> dict[int, str]:
        """The driver's own process and those below it, with their command lines."""
        parents: dict[int, tuple[int, str]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    parents[int(entry.name)] = (parent, (entry / "cmdline").read_bytes().decode(errors="replace"))
                except (OSError, IndexError):
                    continue
        found = {self.process.pid: "driver"}
        while more := {pid: text for pid, (parent, text) in parents.items() if parent in found and pid not in found}:
            found |= more
        self.seen |= set(found)
        return found

    def victims(self, kind: str) -> list[int]:
        names = {"driver": "driver", "actor": "ray::ImplicitFunc", "raylet": "raylet/raylet", "gcs": "gcs/gcs_server"}
        return [pid for pid, text in self.family().items() if names[kind] in text]

    def end(self, seconds: float) -> int:
        """Wait for the driver's end, and for that of its processes. Of a driver that was killed, processes of Ray's
        look for their head for a minute, or until the next launch ends them."""
        code = self.process.wait(seconds)
        end = time.monotonic() + 30
        while code != -9 and (left := {pid for pid in self.seen if alive(pid)}):
            assert time.monotonic() < end, f"left over: {[(pid, name_of(pid)) for pid in left]}\n{self.said[-2000:]}"
            time.sleep(0.2)
        return code


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")[:200]
    except OSError:
        return "ended"


def epochs(folder: Path) -> int:
    """Epochs that the study has, in all of its trials."""
    try:
        return sum(len(record.history) for record in study_of(folder).records())
    except Exception:
        return 0


def study_of(folder: Path) -> OpenStudy:
    return open_study("killed", None, folder / "runs")


@pytest.fixture
def folder(tmp_path) -> Iterator[Path]:
    simulate(tmp_path / "raw", subjects={"train": 4, "val": 1, "test": 1}, matrix=32, slices=2, coils=2)
    prepare(tmp_path / "raw", tmp_path / "data", PrepareOptions(calibration_width=16))
    (tmp_path / "space.yaml").write_text(json.dumps(SPACE))
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as short:  # paths of Ray's sockets are limited
        (tmp_path / "tmp").write_text(short)
        yield tmp_path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it finds processes in /proc")
def test_thirty_random_kills_leave_the_study_that_an_undisturbed_search_makes(folder):
    rng = random.Random(20261128)
    trials, kills = SPACE["trials"], 0
    seen: set[int] = set()
    launch = Launch(folder, trials)
    try:
        while kills < KILLS:
            waited = time.monotonic() + rng.uniform(0.0, 12.0)
            before = epochs(folder)
            # Not before something happened: a driver that is killed while it starts has nothing to lose.
            while launch.process.poll() is None and (time.monotonic() < waited or epochs(folder) == before):
                time.sleep(0.1)
            if launch.process.poll() is None:
                kind = rng.choice(["driver", "driver", "actor", "actor", "raylet", "gcs"])
                number = rng.choice([signal.SIGKILL, signal.SIGTERM])
                found = launch.victims(kind)
                if not found:
                    continue
                os.kill(rng.choice(found), number)
                kills += 1
                if kind == "actor":
                    continue
                began = time.monotonic()
                code = launch.end(60)
                took = time.monotonic() - began
                assert code in {"driver": (-9, 143), "raylet": (1,), "gcs": (1,)}[kind], (kind, number, launch.said)
                assert "Traceback" not in launch.said, launch.said
                if kind != "driver":
                    assert took < 30, f"{kind} was dead for {took:.0f} s"
                    assert launch.said.count("splitpoint: ") == 1, launch.said
            else:
                assert launch.end(1) == 0, launch.said
                trials += 4  # it was over before the last kill
            seen |= launch.seen
            launch = Launch(folder, trials)
        assert launch.end(1200) == 0, launch.said
        launch = Launch(folder, trials)
        assert launch.end(120) == 0, "the same command again"
    finally:
        if launch.process.poll() is None:
            launch.process.kill()

    assert [name_of(pid) for pid in seen if alive(pid)] == []
    study = study_of(folder)
    check(study, PreparedData(folder / "data"), trials)
    trials_folder = folder / "runs" / "killed" / "trials"
    left = [path for path in trials_folder.rglob("*") if path.name.startswith(".") or path.suffix == ".part"]
    assert left == []
    assert sorted(path.name for path in trials_folder.parent.iterdir()) == ["driver.lock", "study.db", "trials"]
    assert [path for path in trials_folder.iterdir() if not any(path.iterdir())] == []
    assert [path.name for path in Path((folder / "tmp").read_text()).iterdir()] == []


def check(study: OpenStudy, data: PreparedData, trials: int) -> None:
    """States, counts, and each curve against a training that nobody disturbed."""
    records = study.records()
    assert {record.state for record in records} <= {State.COMPLETE, State.PRUNED, State.FAIL}
    ended = [record for record in records if record.state in (State.COMPLETE, State.PRUNED)]
    keys = [record.key for record in ended]
    assert len(keys) == len(set(keys)), "none twice"
    assert sum(record.stage == "search" for record in ended) == trials
    failed = [record for record in records if record.state is State.FAIL]
    assert {record.closed for record in failed} <= {"interrupted"}, [record.error for record in failed]
    by_key = {record.key: record for record in ended}
    for record in ended:
        assert record.holes == ()
        expected = undisturbed(record, data, by_key)
        found = {epoch: without(metrics) for epoch, metrics in record.history.items()}
        assert found == {epoch: metrics for epoch, metrics in expected.items() if epoch <= record.epochs}
        assert record.value == found[record.epochs]["ssim"]


def without(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in VARIES}


def undisturbed(record: Record, data: PreparedData, by_key: dict[str, Record]) -> dict[int, dict[str, float]]:
    curve: dict[int, dict[str, float]] = {}

    def report(epoch: EpochReport) -> None:
        curve[epoch.epoch] = without(epoch.metrics)

    init = None
    if record.kind == "transfer":
        init = Path(str(by_key["stl/PDw/seed=0"].checkpoint))
    train(record.config, data, init=init, device="cpu", report=report)
    return curve
