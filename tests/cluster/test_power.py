"""A search while its hosts lose power and network, its driver is killed, and at last the head loses power, too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import Cluster
from tests.cluster.test_search_on_hosts import PYTHON, SPLITPOINT, wait_for, wait_for_all

pytestmark = pytest.mark.cluster

POWER = "SPLITPOINT_TEST_POWER"
"""Environment variable: a program with the commands `kill I`, `boot I`, `cut I` and `mend I`; host 1 is the head."""
CUT_SECONDS = 30.0
TRIALS, EPOCHS = 30, 6

SPACE = f"""
tasks: [PDw, PDw-FS]
scarce: {{task: PDw-FS, slices: [4]}}
unroll: {{blocks: 6, channels: 4, pools: 1}}
weightings: [naive, equal]
training: {{batch_size: 2, learning_rate: 1.0e-3, clip_norm: 1.0}}
fidelity: {{epochs: {EPOCHS}, rungs: [3], reduction: 2}}
baselines: {{kinds: [stl]}}
trials: {TRIALS}
sampler: {{kind: random, seed: 5}}
"""

RECORDS = """
import json, sys
from pathlib import Path
from search.study.open import open_study
study = open_study(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
print(json.dumps([
    dict(name=one.name, key=one.key, stage=one.stage, state=str(one.state.value), closed=one.closed, error=one.error,
         continues=one.continues, number=one.number, recorded=sorted(one.history), of=one.config.epochs, node=one.node,
         validated=sorted(one.config.validated_epochs), holes=one.holes)
    for one in (*study.searched(), *study.referenced())
]))
"""


@pytest.fixture
def power(cluster: Cluster) -> Iterator[Callable[[str, int], None]]:
    """Switches a host's power or cable; afterwards all are on."""
    if POWER not in os.environ:
        pytest.skip(f"{POWER} names no program that switches the hosts off and on (docs/cluster.md)")

    def switch(command: str, host: int) -> None:
        subprocess.run([os.environ[POWER], command, str(host)], check=True, timeout=120)

    try:
        yield switch
    finally:
        for host in range(1, 2 + len(cluster.hosts.workers)):
            switch("mend", host)
            switch("boot", host)


class Search:
    """One study on the cluster, launched again and again with the same command.

    Study and log lie in the common folder, where they outlive the head.
    """

    def __init__(self, cluster: Cluster, folder: str, local: Path) -> None:
        self._cluster, self._folder, self._local = cluster, folder, local
        self._launches = 0
        self.process: subprocess.Popen[bytes] | None = None
        where = f"--runs-dir {folder} --storage journal://{folder}/power.journal"
        self._study = f"power {where}"
        self._said_before = 0

    def launch(self) -> Any:
        """Context in which the launch runs; each line that it says has the time before it."""
        self._launches += 1
        self._said_before = 0
        stamp = "while IFS= read -r line; do printf '%(%s)T %s\\n' -1 \"$line\"; done"
        command = (
            f"{SPLITPOINT} launch {self._folder}/space.yaml --data {self._folder}/data --study {self._study} "
            f"--address auto 2>&1 </dev/null | {stamp} > {self._log}"
        )
        return self._cluster.running_on_head(f"set -o pipefail; {command}", self._local / f"{self._launches}.ssh")

    @property
    def _log(self) -> str:
        return f"{self._folder}/launch-{self._launches}.log"

    def said(self) -> list[str]:
        """Everything that this launch said so far."""
        return self._cluster.on_head(f"cat {self._log} 2>/dev/null || true").splitlines()

    def heard(self, pattern: str, seconds: float) -> str:
        """The first line that this launch says from now on, or has said since the last call, with the pattern."""

        def found() -> str | None:
            lines = self.said()
            for number, line in enumerate(lines[self._said_before :], self._said_before):
                if re.search(pattern, line):
                    self._said_before = number + 1
                    return line
            return None

        try:
            return wait_for(found, seconds, f"a line with {pattern!r}")
        except pytest.fail.Exception:
            print(*self.said(), sep="\n")
            raise

    def status(self) -> dict[str, Any]:
        """What `splitpoint status` says; empty while there is no such study."""
        said = self._cluster.on_head(f"{SPLITPOINT} status {self._study} --json 2>/dev/null || true").strip()
        return json.loads(said) if said else {}

    def running_on(self, address: str) -> list[dict[str, Any]]:
        """Trials that run on a host and have an epoch behind them."""
        return [
            one for one in self.status().get("running", []) if f"({address})" in (one["node"] or "") and one["epoch"]
        ]

    def records(self) -> list[dict[str, Any]]:
        self._cluster.put(RECORDS, "/tmp/records.py")
        at = f"power journal://{self._folder}/power.journal {self._folder}"
        return json.loads(self._cluster.on_head(f"{PYTHON} /tmp/records.py {at}"))


@pytest.fixture
def search(cluster: Cluster, tmp_path: Path) -> Iterator[Search]:
    """A search of some minutes, with its data, in the common folder."""
    folder = f"{cluster.hosts.folder}/runs/cluster-test-{uuid.uuid4().hex[:8]}"
    try:
        size = "--train 6 --val 2 --test 1 --matrix 64 --slices 5 --coils 6"
        cluster.on_head(f"{SPLITPOINT} simulate {folder}/raw {size}", timeout=300)
        cluster.on_head(f"{SPLITPOINT} prepare {folder}/raw --out {folder}/data", timeout=300)
        cluster.put(SPACE, f"{folder}/space.yaml")
        yield Search(cluster, folder, tmp_path)
    finally:
        if "SPLITPOINT_KEEP" not in os.environ:
            cluster.on_head(f"rm -rf {folder}")


def note(what: str) -> None:
    print(f"{time.time():.0f} EVENT {what}", flush=True)


def test_a_search_survives_hosts_driver_and_head(
    cluster: Cluster, power: Callable[[str, int], None], search: Search
) -> None:
    wait_for_all(cluster)
    first, second = cluster.hosts.workers[:2]
    with search.launch() as launch:
        wait_for(lambda: search.running_on(first), 300, "a trial in training on the first worker")
        power("kill", 2)
        note("worker 1 off")
        lost = search.heard(rf"host {re.escape(first)} lost", 120)
        note(lost)
        note(json.dumps(search.status())[:1500])
        power("boot", 2)
        note("worker 1 booted")
        note(search.heard(rf"host {re.escape(first)} back", 240))

        wait_for(lambda: search.running_on(second), 120, "a trial in training on the second worker")
        power("cut", 3)
        note("worker 2 cut")
        time.sleep(CUT_SECONDS)
        power("mend", 3)
        note("worker 2 mended")
        note(search.heard(rf"host {re.escape(second)} lost", 120))
        note(search.heard(rf"host {re.escape(second)} back", 240))

        assert launch.poll() is None, search.said()[-5:]
        found = search.status()
        note(json.dumps(found)[:1500])
        cluster.on_head(f"kill -9 {found['driver']['pid']}")
        note("driver killed")
        assert launch.wait(timeout=60) != 0
        note(cluster.on_head(f"{SPLITPOINT} status {search._study}"))
        note(str(search.said()))
    with search.launch() as launch:
        note(search.heard("trials? goe?s? on from where the last run was interrupted", 60))
        wait_for(lambda: any(one["epoch"] for one in search.status().get("running", [])), 120, "a trial in training")
        power("kill", 1)
        note("head off")
        time.sleep(20)
        power("boot", 1)
        note("head booted")
    note("ray up")
    cluster.ray("up", "--yes", timeout=300)
    note("ray is up")
    note(cluster.on_head(f"{SPLITPOINT} status {search._study}"))
    wait_for_all(cluster)
    note("all joined")
    with search.launch() as launch:
        assert launch.wait(timeout=900) == 0, search.said()[-10:]
    note(str(search.said()))

    records = search.records()
    print(json.dumps(records))
    assert {one["state"] for one in records} <= {"complete", "pruned", "fail"}
    assert all(one["closed"] for one in records if one["state"] == "fail"), "a trial failed by a fault of its own"
    done = [one for one in records if one["state"] != "fail"]
    assert len([one for one in done if one["stage"] == "search"]) == TRIALS
    assert max(Counter(one["key"] for one in done).values()) == 1
    assert not [one for one in records if one["holes"]]
