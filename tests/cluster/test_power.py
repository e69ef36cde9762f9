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
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import Cluster
from tests.cluster.test_search_on_hosts import PYTHON, SPLITPOINT, wait_for, wait_for_all

pytestmark = pytest.mark.cluster

POWER = "SPLITPOINT_TEST_POWER"
"""Environment variable: a program with the commands `kill I`, `boot I`, `cut I` and `mend I`; host 1 is the head."""
CUT_SECONDS = 30.0
OFF_SECONDS = 20.0
Switch = Callable[[str, int], None]
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
from search.study.open import open_study
print(json.dumps([
    {"name": one.name, "key": one.key, "stage": one.stage, "state": one.state, "closed": one.closed,
     "continues": one.continues, "number": one.number, "node": one.node, "recorded": list(one.history),
     "wanted": list(one.config.validated_epochs)}
    for one in open_study(*sys.argv[1:]).records()
]))
"""


@pytest.fixture
def power(cluster: Cluster) -> Iterator[Switch]:
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

    Study, data and log lie in the common folder, where they outlive the head.
    """

    def __init__(self, cluster: Cluster, folder: str, local: Path) -> None:
        self._cluster, self._folder, self._local = cluster, folder, local
        self._storage = f"journal://{folder}/power.journal"
        self._study = f"power --runs-dir {folder} --storage {self._storage}"
        self._launches = 0
        self._heard = 0
        """Number of lines of this launch that were looked at."""

    def launch(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Launch; each line that it says is kept with the time before it."""
        self._launches += 1
        self._heard = 0
        command = f"{SPLITPOINT} launch {self._folder}/space.yaml --data {self._folder}/data --study {self._study}"
        stamp = "while IFS= read -r line; do printf '%(%T)T %s\\n' -1 \"$line\"; done"
        return self._cluster.running_on_head(
            f"set -o pipefail; {command} --address auto 2>&1 </dev/null | {stamp} >{self._log}",
            self._local / f"launch-{self._launches}.ssh",
        )

    @property
    def _log(self) -> str:
        return f"{self._folder}/launch-{self._launches}.log"

    def said(self) -> str:
        """Everything that this launch said so far."""
        return self._cluster.on_head(f"cat {self._log} 2>/dev/null || true")

    def hear(self, sentence: str, seconds: float) -> None:
        """Wait until this launch says a sentence (a regular expression) after the one that was heard last."""

        def heard() -> bool:
            lines = self.said().splitlines()
            for number, line in enumerate(lines[self._heard :], self._heard + 1):
                if re.search(sentence, line):
                    self._heard = number
                    return True
            return False

        try:
            wait_for(heard, seconds, sentence)
        except pytest.fail.Exception:
            pytest.fail(f"not said within {seconds:.0f} s: {sentence}\n{self.said()}")

    def status(self) -> dict[str, Any]:
        """What `splitpoint status` says; empty while there is no such study (wrong input, exit code 2)."""
        table = self._cluster.on_head(f"{SPLITPOINT} status {self._study} --json 2>/dev/null || test $? = 2").strip()
        return json.loads(table) if table else {}

    def trains_on(self, address: str) -> bool:
        """Whether a trial with an epoch behind it runs on a host."""
        running = self.status().get("running", [])
        return any(one["epoch"] and (one["node"] or "").endswith(f"({address})") for one in running)

    def records(self) -> list[dict[str, Any]]:
        """All trials as the study has them."""
        self._cluster.put(RECORDS, "/tmp/records.py")
        return json.loads(
            self._cluster.on_head(f"{PYTHON} /tmp/records.py power {self._storage} {self._folder}", timeout=120)
        )


@pytest.fixture
def search(cluster: Cluster, power: Switch, tmp_path: Path) -> Iterator[Search]:
    """A search of some minutes, with its data, in the common folder."""
    wait_for_all(cluster)
    folder = f"{cluster.hosts.folder}/runs/cluster-test-{uuid.uuid4().hex[:8]}"
    try:
        size = "--train 6 --val 2 --test 1 --matrix 64 --slices 5 --coils 6"
        cluster.on_head(f"{SPLITPOINT} simulate {folder}/raw {size}", timeout=300)
        cluster.on_head(f"{SPLITPOINT} prepare {folder}/raw --out {folder}/data", timeout=300)
        cluster.put(SPACE, f"{folder}/space.yaml")
        yield Search(cluster, folder, tmp_path)
    finally:
        cluster.on_head(f"rm -rf {folder}")


def test_a_search_survives_hosts_driver_and_head(cluster: Cluster, power: Switch, search: Search) -> None:
    first, second = (re.escape(worker) for worker in cluster.hosts.workers[:2])
    with search.launch() as launch:
        wait_for(lambda: search.trains_on(cluster.hosts.workers[0]), 300, f"a trial in training on {first}")
        power("kill", 2)
        search.hear(rf"host {first} lost, \d trials? goe?s? on elsewhere", 120)
        assert not search.trains_on(cluster.hosts.workers[0])
        power("boot", 2)
        search.hear(rf"host {first} back", 240)

        wait_for(lambda: search.trains_on(cluster.hosts.workers[1]), 240, f"a trial in training on {second}")
        power("cut", 3)
        time.sleep(CUT_SECONDS)
        power("mend", 3)
        search.hear(rf"host {second} lost, \d trials? goe?s? on elsewhere", 120)
        search.hear(rf"host {second} back", 240)

        assert launch.poll() is None, f"the search was over before its driver was killed:\n{search.said()}"
        cluster.on_head(f"kill -9 {search.status()['driver']['pid']}")
        assert launch.wait(timeout=60) != 0
        assert search.status()["driver"] is None
    with search.launch() as launch:
        search.hear(r"trials? goe?s? on from where the last run was interrupted", 60)
        wait_for(lambda: any(map(search.trains_on, cluster.hosts.workers)), 240, "a trial in training")
        power("kill", 1)
        time.sleep(OFF_SECONDS)
        power("boot", 1)
        assert launch.wait(timeout=60) != 0
    cluster.ray("up", "--yes", timeout=300)
    wait_for_all(cluster)
    with search.launch() as launch:
        search.hear(r"trials? goe?s? on from where the last run was interrupted", 60)
        assert launch.wait(timeout=1200) == 0, search.said()

    records = search.records()
    done = [one for one in records if one["state"] != "fail"]
    assert {one["state"] for one in done} <= {"complete", "pruned"}, "none runs any more"
    assert sum(one["stage"] == "search" for one in done) == TRIALS
    assert max(Counter(one["key"] for one in done).values()) == 1, "none was run twice"
    for one in done:
        last = max(one["wanted"]) if one["state"] == "complete" else max(one["recorded"])
        assert one["recorded"] == [epoch for epoch in one["wanted"] if epoch <= last], "no epoch is missing"
    interrupted = [one for one in records if one["state"] == "fail"]
    assert interrupted
    assert {one["closed"] for one in interrupted} == {"interrupted"}, "none failed by itself"
    heirs = Counter((one["stage"] == "search", one["continues"]) for one in records)
    assert all(heirs[one["stage"] == "search", one["number"]] == 1 for one in interrupted)
