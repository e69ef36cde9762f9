"""cluster.yaml is what Ray takes, and its commands do on a host what its comments promise. No host is needed here."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.local.node_provider import LocalNodeProvider, record_local_head_state_if_needed
from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler
from ray.autoscaler._private.util import prepare_config, validate_config, with_envs, with_head_node_ip

from tests.cluster.filling import CLUSTER_YAML, Hosts, fill_in, filled_config, marked_lines

HOSTS = Hosts("10.1.2.1", ("10.1.2.2", "10.1.2.3", "10.1.2.4"), "mri", "~/.ssh/id_ed25519", "/shared/splitpoint")
PLACEHOLDER = re.compile(r"\bHEAD_IP\b|WORKER_\d_IP|\bUSER\b|/KEY\b|/COMMON/FOLDER")


@pytest.fixture
def config() -> dict[str, Any]:
    return filled_config(HOSTS)


def test_it_satisfies_the_schema_that_ray_ships(config: dict[str, Any]) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    jsonschema.validate(yaml.safe_load(CLUSTER_YAML.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "no_such_field": 1}, schema)


def test_ray_prepares_it_for_its_local_provider_and_keeps_every_worker(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)
    (node_type,) = prepared["available_node_types"].values()
    assert node_type["min_workers"] == node_type["max_workers"] == prepared["max_workers"] == len(HOSTS.workers)


def test_five_marked_lines_are_all_that_has_to_be_filled_in() -> None:
    before, after = CLUSTER_YAML.read_text().splitlines(), fill_in(HOSTS).splitlines()
    changed = [old for old, new in zip(before, after, strict=True) if old != new]
    assert changed == marked_lines(CLUSTER_YAML.read_text())
    assert len(changed) == 5
    assert all(PLACEHOLDER.search(line) for line in changed)
    assert not PLACEHOLDER.search(re.sub(r"#.*", "", fill_in(HOSTS)))
    config = yaml.safe_load(fill_in(HOSTS))
    assert config["provider"]["head_ip"] == HOSTS.head
    assert config["provider"]["worker_ips"] == list(HOSTS.workers)
    assert config["auth"] == {"ssh_user": HOSTS.user, "ssh_private_key": HOSTS.key}


def test_the_token_is_handed_over_as_a_file_and_never_stands_in_the_yaml(config: dict[str, Any]) -> None:
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "RAY_AUTH_TOKEN" not in CLUSTER_YAML.read_text()
    assert not re.search(r"[0-9a-f]{32}", CLUSTER_YAML.read_text())


def test_ray_s_autoscaler_launches_all_workers_beside_the_head(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    prepared = prepare_config(config)
    provider = LocalNodeProvider(prepared["provider"], prepared["cluster_name"])
    record_local_head_state_if_needed(provider)
    scheduler = ResourceDemandScheduler(
        provider, prepared["available_node_types"], prepared["max_workers"], prepared["head_node_type"], 1.0
    )
    cpus = {HOSTS.head: {"CPU": 2.0}}
    launch, _ = scheduler.get_nodes_to_launch(
        [HOSTS.head], {}, [], cpus, [], cpus, [], NodeAvailabilitySummary(node_availabilities={})
    )
    assert sum(launch.values()) == len(HOSTS.workers)


class Host:
    """A home folder, in which a host's commands run as Ray's launcher runs them; its `ray` notes how it was called."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / ".ray").mkdir(parents=True)
        (home / ".ray/auth_token").write_text("token")
        (home / ".ray/auth_token").chmod(0o644)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        launched = f"export OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore && ({command})"
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"]}
        return subprocess.run(["bash", "-c", launched], env=environment, cwd=self.home, capture_output=True, text=True)

    def calls_of_ray(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]


FAKE_RAY = """#!/usr/bin/env python3
import json, os, sys
with open(os.path.expanduser("~/calls"), "a") as calls:
    calls.write(json.dumps({"arguments": sys.argv[1:], "environment": dict(os.environ)}) + "\\n")
"""

FAKE_MAKEFILE = """install:
\t@if mkdir busy; then true; else echo two at once >> failures; fi
\t@echo installing >> log; sleep 0.3; rmdir busy
"""


@pytest.fixture
def common(tmp_path: Path) -> Path:
    """A common folder: a checkout whose installation takes a while, and notices when two of them run at once."""
    folder = tmp_path / "common" / "splitpoint"
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / "cluster.yaml").write_text(CLUSTER_YAML.read_text())
    (folder / "Makefile").write_text(FAKE_MAKEFILE)
    (folder / ".venv/bin/ray").write_text(FAKE_RAY)
    (folder / ".venv/bin/ray").chmod(0o755)
    return folder


def set_up(host: Host, config: dict[str, Any]) -> None:
    for command in config["setup_commands"]:
        done = host.run(command)
        assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.fixture
def filled(common: Path) -> dict[str, Any]:
    return filled_config(Hosts(HOSTS.head, HOSTS.workers, HOSTS.user, HOSTS.key, str(common)))


def test_hosts_that_set_up_at_once_install_one_after_the_other(
    filled: dict[str, Any], common: Path, tmp_path: Path
) -> None:
    hosts = [Host(tmp_path / name) for name in ("head", "worker-1", "worker-2")]
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(lambda host: set_up(host, filled), hosts))
    assert (common / "log").read_text().splitlines() == ["installing"] * len(hosts)
    assert not (common / "failures").exists()


def test_setting_up_twice_leaves_a_host_as_setting_up_once_does(
    filled: dict[str, Any], common: Path, tmp_path: Path
) -> None:
    host = Host(tmp_path / "host")
    (host.home / ".bashrc").write_text("alias ll='ls -l'\n")
    set_up(host, filled)
    once = (host.home / ".bashrc").read_text()
    set_up(host, filled)
    assert (host.home / ".bashrc").read_text() == once
    assert once.startswith("alias ll='ls -l'\n")
    assert (host.home / ".splitpoint").resolve() == common
    assert not (common / "splitpoint").exists()
    assert stat.S_IMODE((host.home / ".ray/auth_token").stat().st_mode) == 0o600
    found = host.run("source ~/.bashrc && command -v ray")
    assert found.stdout.strip() == str(host.home / ".splitpoint/.venv/bin/ray")


def test_a_host_without_the_common_folder_says_so(filled: dict[str, Any], common: Path, tmp_path: Path) -> None:
    (common / "cluster.yaml").unlink()
    host = Host(tmp_path / "host")
    failed = next(done for command in filled["setup_commands"] if (done := host.run(command)).returncode)
    assert f"no checkout at {common}" in failed.stderr


def start(host: Host, commands: list[str]) -> dict[str, Any]:
    for command in commands:
        done = host.run(command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    stopped, started = host.calls_of_ray()
    assert stopped["arguments"] == ["stop"]
    assert started["arguments"][0] == "start"
    assert started["environment"]["RAY_AUTH_MODE"] == "token"
    assert "OMP_NUM_THREADS" not in started["environment"]
    return started


def test_the_head_starts_with_token_own_address_and_the_autoscaler_that_counts_workers(
    filled: dict[str, Any], tmp_path: Path
) -> None:
    head = Host(tmp_path / "head")
    set_up(head, filled)
    # As `ray up` writes it: the prepared configuration as JSON in one line.
    (head.home / "ray_bootstrap_config.yaml").write_text(json.dumps(prepare_config(filled)))
    # `ray up` asks for the newer autoscaler before every start command.
    started = start(head, with_envs(filled["head_start_ray_commands"], {"RAY_enable_autoscaler_v2": "1"}))
    assert started["environment"]["RAY_enable_autoscaler_v2"] == "0"
    assert f"--node-ip-address={HOSTS.head}" in started["arguments"]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in started["arguments"]
    assert "--head" in started["arguments"]


def test_a_worker_starts_with_the_token_and_the_head_s_address(filled: dict[str, Any], tmp_path: Path) -> None:
    worker = Host(tmp_path / "worker")
    set_up(worker, filled)
    started = start(worker, with_head_node_ip(filled["worker_start_ray_commands"], HOSTS.head))
    assert f"--address={HOSTS.head}:6379" in started["arguments"]


def test_ray_itself_takes_the_options_of_the_start_commands(config: dict[str, Any]) -> None:
    from ray.scripts.scripts import start as ray_start

    options = {name for parameter in ray_start.params for name in parameter.opts}
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        if "ray start" in command:
            used = set(re.findall(r"(--[a-z-]+)", command.split("ray start")[1]))
            assert used
            assert used <= options
