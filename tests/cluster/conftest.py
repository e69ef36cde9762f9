"""The hosts that the tests of a cluster run on, and the cluster that `ray up` makes of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.filling import Hosts, fill_in

HOSTS = "SPLITPOINT_TEST_HOSTS"
BORDER = "=-=-=-="


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up, reached as a user reaches it: by Ray's launcher."""

    yaml: Path
    hosts: Hosts

    def ray(self, *arguments: str, timeout: float = 120) -> str:
        """`ray COMMAND cluster.yaml …`; what it printed."""
        done = subprocess.run(self._command(*arguments), capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"ray {' '.join(arguments)}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def on_head(self, command: str, timeout: float = 120) -> str:
        """A command's standard output on the head, in the checkout."""
        printed = self.ray("exec", self._inside(f"echo {BORDER}; {command}; echo {BORDER}"), timeout=timeout)
        return printed.replace("\r\n", "\n").split(f"{BORDER}\n")[1]

    @contextlib.contextmanager
    def running_on_head(self, command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A command on the head that goes on while others run, and ends with this at the latest."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                self._command("exec", self._inside(command)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # ssh with it; the head's terminal hangs up
                process.wait()

    def put(self, text: str, path: str) -> None:
        """Write a file on the head."""
        local = self.yaml.parent / Path(path).name
        local.write_text(text)
        self.ray("rsync-up", str(local), path)

    def _inside(self, command: str) -> str:
        return f"set -e; export TERM=dumb; cd {self.hosts.folder}; {command}"

    def _command(self, subcommand: str, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("ray")), subcommand, str(self.yaml), *arguments]


@pytest.fixture(scope="session")
def hosts() -> Hosts:
    """Hosts set aside for this: YAML with head, workers, user, key and folder (a checkout that all of them share)."""
    if HOSTS not in os.environ:
        pytest.skip(f"{HOSTS} names no file that says which hosts to use (docs/cluster.md)")
    return Hosts.read(Path(os.environ[HOSTS]))


@pytest.fixture(scope="session")
def cluster(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """What `ray up` makes of cluster.yaml with its marked lines filled in; `ray down` afterwards."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "cluster.yaml").write_text(fill_in(hosts))
    cluster = Cluster(folder / "cluster.yaml", hosts)
    subprocess.run(
        [Path(sys.executable).with_name("ray"), "get-auth-token", "--generate"], check=True, stdout=subprocess.DEVNULL
    )
    try:
        cluster.ray("up", "--yes", timeout=300)
        yield cluster
    finally:
        cluster.ray("down", "--yes")
