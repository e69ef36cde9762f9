"""From cluster.yaml to a search over several hosts, for real: `ray up`, a launch on the head, `ray down`."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import Cluster

pytestmark = pytest.mark.cluster

ALIVE = "[node['NodeManagerAddress'] for node in ray.nodes() if node['Alive']]"
PYTHON = ".venv/bin/python"  # a host may have a `python` of its own, first on its PATH
SPLITPOINT = ".venv/bin/splitpoint"
NODES = f"{PYTHON} -c \"import ray; ray.init(address='auto', logging_level='ERROR'); print(*{ALIVE})\""

SPACE = """
tasks: [PDw, PDw-FS]
scarce: {task: PDw-FS, slices: [4]}
unroll: {blocks: 3, channels: 4, pools: 1}
weightings: [naive, equal]
training: {batch_size: 2, learning_rate: 1.0e-3, clip_norm: 1.0}
fidelity: {epochs: 8, rungs: [2], reduction: 2}
baselines: {kinds: [stl]}
trials: 12
sampler: {kind: random}
"""


def wait_for(found: Any, seconds: float, what: str) -> Any:
    """The first true value of ``found()``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(2)
    pytest.fail(f"{what}: not within {seconds:.0f} s")


def wait_for_all(cluster: Cluster) -> None:
    wanted = {cluster.hosts.head, *cluster.hosts.workers}
    wait_for(lambda: set(cluster.on_head(NODES).split()) == wanted, 180, f"hosts {', '.join(sorted(wanted))}")


def test_every_host_joins(cluster: Cluster) -> None:
    wait_for_all(cluster)


def test_who_has_no_token_is_refused(cluster: Cluster) -> None:
    admitted = "RAY_AUTH_MODE=token .venv/bin/ray status 2>&1 || true"
    wait_for(lambda: "Active:" in cluster.on_head(admitted), 60, "the autoscaler's first status")
    for lacking in ("RAY_AUTH_MODE=disabled", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=another"):
        assert "InvalidAuthToken" in cluster.on_head(f"{lacking} .venv/bin/ray status 2>&1 || true")


def database(folder: str) -> str:
    """The study's file, on the head's own disk."""
    return f"/tmp/{Path(folder).name}.db"


@pytest.fixture
def scratch(cluster: Cluster) -> Iterator[str]:
    """A folder in the common folder, with a small prepared data set in it."""
    folder = f"{cluster.hosts.folder}/runs/cluster-test-{uuid.uuid4().hex[:8]}"
    try:
        size = "--train 3 --val 1 --test 1 --matrix 48 --slices 4 --coils 4"
        cluster.on_head(f"{SPLITPOINT} simulate {folder}/raw {size}", timeout=300)
        cluster.on_head(f"{SPLITPOINT} prepare {folder}/raw --out {folder}/data --address auto", timeout=300)
        cluster.put(SPACE, f"{folder}/space.yaml")
        yield folder
    finally:
        cluster.on_head(f"rm -rf {folder} {database(folder)}*")


def test_a_search_runs_on_several_hosts_and_is_read_meanwhile(cluster: Cluster, scratch: str, tmp_path: Path) -> None:
    wait_for_all(cluster)
    study = f"hosts --runs-dir {scratch} --storage sqlite:///{database(scratch)}"
    log = tmp_path / "launch.log"
    command = f"{SPLITPOINT} launch {scratch}/space.yaml --data {scratch}/data --study {study} --address auto"

    def board() -> list[dict[str, Any]]:
        """The leaderboard; empty while there is no such study (wrong input, exit code 2)."""
        read = f"{SPLITPOINT} leaderboard {study} --all --format json 2>{scratch}/said"
        table = cluster.on_head(f"{read} || if test $? = 2; then echo NONE; else cat {scratch}/said; exit 1; fi")
        return [] if table.endswith("NONE\n") else json.loads(table)

    def said() -> str:
        return log.read_text(errors="replace")[-4000:]

    with cluster.running_on_head(command, log) as launch:

        def in_training() -> list[dict[str, Any]]:
            trials = board()
            assert launch.poll() is None, f"the search was over before a running trial was read: {trials}\n{said()}"
            return [trial for trial in trials if trial["state"] == "running" and trial["epochs"] > 0]

        assert wait_for(in_training, 240, "a trial in training on the leaderboard")
        assert launch.wait(timeout=600) == 0, said()

    trials = board()
    searched = [trial for trial in trials if trial["stage"] == "search"]
    assert len(searched) == 12
    assert {trial["state"] for trial in trials} <= {"complete", "pruned"}
    assert len({trial["node"] for trial in searched}) >= 2
