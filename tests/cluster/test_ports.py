"""What the ports of a cluster answer to a stranger: whoever runs these tests, without the token.

`RaySyncer/StartSync` is left out: in Ray 2.60 one such call ends a GCS or raylet before any token is looked at, so
docs/cluster.md has the lines for a firewall.
"""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from search.run.knock import Answer, knock
from tests.cluster.conftest import Cluster
from tests.cluster.test_search_on_hosts import PYTHON, wait_for, wait_for_all

pytestmark = pytest.mark.cluster

METHODS = [
    "NodeInfoGcsService/CheckAlive",
    "InternalKVGcsService/InternalKVKeys",
    "JobInfoGcsService/GetAllJobInfo",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/Pull",
    "CoreWorkerService/GetCoreWorkerStats",
    "CoreWorkerService/PushTask",
    "ReporterService/HealthCheck",
    "RayletDriver/Init",
]
TURNED_AWAY = (Answer.REFUSED, Answer.UNKNOWN)

TRIALS = """
import json, os, socket, sys, time
from pathlib import Path
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

@ray.remote(num_cpus=0)
class Trial:
    def listening(self):
        owners = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\\0", b" ").decode(errors="replace")
                if "/ray/" in command or command.startswith("ray::"):
                    owners.update((os.readlink(link), command[:40]) for link in (folder / "fd").glob("*"))
            except OSError:
                pass
        ports = {}
        for table in ("tcp", "tcp6"):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                field = line.split()
                address, port = field[1].split(":")
                own = owners.get(f"socket:[{field[9]}]")
                if field[3] == "0A" and own and not address.endswith("0100007F"):
                    ports[int(port, 16)] = own
        return ports

ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
trials = {node["NodeManagerAddress"]: Trial.options(scheduling_strategy=On(node["NodeID"], False)).remote()
          for node in ray.nodes() if node["Alive"]}
ports = {host: ray.get(trial.listening.remote()) for host, trial in trials.items()}
Path(sys.argv[1]).write_text(json.dumps(ports))
time.sleep(120)
"""


def http_status(host: str, port: int, method: str, path: str) -> int | str:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request(method, path, body=b"{}" if method == "POST" else None)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def test_every_port_turns_a_stranger_away_while_trials_run(cluster: Cluster, tmp_path: Path) -> None:
    wait_for_all(cluster)
    cluster.put(TRIALS, "/tmp/trials.py")
    with cluster.running_on_head(f"rm -f /tmp/ports.json; {PYTHON} /tmp/trials.py /tmp/ports.json", tmp_path / "log"):
        found = wait_for(lambda: cluster.on_head("cat /tmp/ports.json 2>/dev/null || true").strip(), 90, "the ports")
        ports = {host: {int(port): who for port, who in own.items()} for host, own in json.loads(found).items()}
        assert ports.keys() == {cluster.hosts.head, *cluster.hosts.workers}
        refusing = 0
        open_to_all = []
        for host, own in ports.items():
            assert len(own) >= 3, "two of the raylet's, and a trial's"
            for port, who in own.items():
                first = knock(host, port)
                if first in (Answer.DONE, Answer.UNKNOWN, Answer.REFUSED):
                    for token in (None, "0" * 64):
                        answers = {name: knock(host, port, f"/ray.rpc.{name}", token) for name in METHODS}
                        open_to_all += [(host, port, who, *at) for at in answers.items() if at[1] not in TURNED_AWAY]
                        refusing += Answer.REFUSED in answers.values()
                else:
                    # An exporter of metrics (only with `ray[default]`) shows figures, and takes nothing.
                    for path in ("/api/jobs/", "/api/job_agent/jobs/", "/get_or_create_runtime_env"):
                        status = http_status(host, port, "POST", path)
                        open_to_all += [(host, port, who, path, status)] if status not in (401, 403, 405) else []
        assert not open_to_all
        assert refusing >= 2 * 3 * len(ports)
