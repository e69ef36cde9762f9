"""The files for AWS, Google Cloud, Kubernetes and SLURM are what Ray, KubeRay and a shell take. Nothing is reached."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
CLOUDS = ["aws", "gcp"]
SECRET = re.compile(r"[0-9a-f]{32}|password|RAY_AUTH_TOKEN=")


def cloud(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_s_file_satisfies_the_schema_that_ray_ships(name: str) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cloud(name), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cloud(name), "no_such_field": 1}, schema)


@pytest.mark.parametrize("name", CLOUDS)
def test_ray_prepares_a_cloud_s_file_and_keeps_its_limits(name: str) -> None:
    prepared = prepare_config(copy.deepcopy(cloud(name)))
    validate_config(prepared)
    worker = prepared["available_node_types"]["worker"]
    assert prepared["head_node_type"] == "head"
    assert (worker["min_workers"], worker["max_workers"], prepared["max_workers"]) == (1, 8, 8)
    assert prepared["available_node_types"]["head"]["resources"]["CPU"] == 0


def test_workers_are_spot_instances_and_the_head_is_not() -> None:
    aws, gcp = ({name: kind["node_config"] for name, kind in cloud(c)["available_node_types"].items()} for c in CLOUDS)
    assert aws["worker"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in aws["head"]
    assert {"preemptible": True} in gcp["worker"]["scheduling"]
    assert "scheduling" not in gcp["head"]


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_s_hosts_get_the_token_as_a_file_and_show_it(name: str) -> None:
    config = cloud(name)
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert not SECRET.search((FOLDER / f"{name}.yaml").read_text())
    for command in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        assert "RAY_AUTH_MODE=token" in command
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


@pytest.mark.parametrize("name", CLOUDS)
def test_every_host_of_a_cloud_installs_the_pinned_releases(name: str) -> None:
    commands = cloud(name)["setup_commands"]
    assert any("make install" in command for command in commands)
    assert all("--constraint constraints.txt" in command for command in commands if ".venv/bin/pip" in command)
    for command in commands:
        assert subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True).stderr == ""


def test_ray_itself_takes_the_options_of_the_start_commands() -> None:
    from ray.scripts.scripts import start as ray_start

    options = {name for parameter in ray_start.params for name in parameter.opts}
    lines = [cloud(name)[f"{kind}_start_ray_commands"][-1] for name in CLOUDS for kind in ("head", "worker")]
    lines += re.findall(r"ray start [^>]*", (FOLDER / "slurm.sh").read_text())
    for line in lines:
        used = set(re.findall(r"(--[a-z-]+)", line.split("ray start")[1]))
        assert used
        assert used <= options


def kuberay() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text()))


def test_the_kuberay_objects_are_what_its_definitions_take() -> None:
    definitions = json.loads((Path(__file__).parent / "kuberay-crd.json").read_text())["spec"]
    objects = {thing["kind"]: thing["spec"] for thing in kuberay() if thing["apiVersion"] == "ray.io/v1"}
    assert objects.keys() == definitions.keys()
    for kind, spec in objects.items():
        jsonschema.validate(spec, definitions[kind])
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**spec, "noSuchField": 1}, definitions[kind])
    group = copy.deepcopy(objects["RayCluster"])
    group["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["image"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(group, definitions["RayCluster"])


def test_the_kuberay_objects_name_each_other_and_hold_no_secret() -> None:
    objects = {thing["kind"]: thing for thing in kuberay()}
    cluster = objects["RayCluster"]
    name = cluster["metadata"]["name"]
    assert objects["RayJob"]["spec"]["clusterSelector"] == {"ray.io/cluster": name}
    assert objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == {"ray.io/cluster": name}
    claim = objects["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    pods = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in pods):
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert pod["containers"][0]["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]
    assert cluster["spec"]["authOptions"]["mode"] == "token"
    assert cluster["spec"]["rayVersion"] in (ROOT / "constraints.txt").read_text()
    assert not SECRET.search((FOLDER / "kuberay.yaml").read_text())


STAND_INS = {
    "hostname": 'test "${1:-}" = -I && echo 10.0.0.1 10.0.0.2 || echo host1',
    "scontrol": 'echo "scontrol $*" >> calls',
    "srun": 'echo "srun $*" >> calls; exec sleep 60',
    "ray": """echo "ray $*" >> calls
case $1 in
get-auth-token) mkdir -p ~/.ray; echo token > ~/.ray/auth_token;;
start) exec sleep 60;;
esac""",
    "splitpoint": """echo "splitpoint $* in $SPLITPOINT_STORAGE" >> calls
trap 'echo stopped >> calls; exit 143' TERM
for turn in $(seq ${TURNS:-1}); do sleep 0.1; done
exit ${ENDS:-0}""",
}


class Job:
    """slurm.sh as SLURM runs it on a job's first host, with stand-ins for all that it calls."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        bin_folder = folder / ".venv/bin"
        bin_folder.mkdir(parents=True)
        for name, body in STAND_INS.items():
            (bin_folder / name).write_text(f"#!/bin/bash\n{body}\n")
            (bin_folder / name).chmod(0o755)
        self.process = subprocess.Popen(
            ["bash", FOLDER / "slurm.sh"],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(folder / "home"),
                "SPLITPOINT": str(folder),
                "SLURM_JOB_ID": "4711",
                "SLURM_NNODES": "3",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def calls(self) -> str:
        file = self.folder / "calls"
        return file.read_text() if file.exists() else ""

    def end(self) -> tuple[int, str]:
        out, err = self.process.communicate(timeout=30)
        assert err == ""
        return self.process.returncode, out


def test_a_slurm_job_makes_the_cluster_runs_the_search_and_ends_both(tmp_path: Path) -> None:
    job = Job(tmp_path)
    assert job.end() == (0, "")
    calls = job.calls()
    assert "ray start --head --block --node-ip-address=10.0.0.1 --port=24711" in calls
    assert "srun --nodes=2 --ntasks=2 --exclude=host1 ray start --block --address=10.0.0.1:24711" in calls
    assert re.search(rf"splitpoint launch .* --address 10.0.0.1:24711 in journal://{tmp_path}/runs/full.journal", calls)
    assert "scontrol" not in calls
    assert (tmp_path / "home/.ray/auth_token").stat().st_mode & 0o077 == 0


def test_a_slurm_job_whose_time_is_up_stops_the_search_and_is_queued_again(tmp_path: Path) -> None:
    job = Job(tmp_path, TURNS="200")
    end = time.monotonic() + 20
    while "splitpoint launch" not in job.calls() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    job.process.send_signal(signal.SIGTERM)
    code, said = job.end()
    assert code == 143
    assert "goes on from here" in said
    assert job.calls().endswith("stopped\nscontrol requeue 4711\n")


def test_a_slurm_job_whose_search_fails_is_not_queued_again(tmp_path: Path) -> None:
    job = Job(tmp_path, ENDS="2")
    assert job.end() == (2, "")
    assert "scontrol" not in job.calls()


def test_a_slurm_job_on_one_host_needs_no_other(tmp_path: Path) -> None:
    job = Job(tmp_path, SLURM_NNODES="1")
    assert job.end() == (0, "")
    assert "srun" not in job.calls()


def test_the_slurm_script_has_nothing_that_shellcheck_warns_of() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", FOLDER / "slurm.sh"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
