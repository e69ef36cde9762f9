"""A Ray of one's own listens on loopback alone, and its death is noticed; a cluster that lets nobody in is one
sentence."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from search.run.cluster import ray_alive
from search.run.knock import CHECK_ALIVE, Answer, knock
from search.run.pulse import descendants

ROOT = Path(__file__).parents[3]

HEAD = """
import os, sys
import ray
from search.run.cluster import cluster, ray_alive
with cluster(None):
    @ray.remote
    class Trial:
        def pid(self):
            return os.getpid()
    trial = Trial.remote()
    ray.get(trial.pid.remote())
    node = ray._private.worker._global_node
    pids = {name: started[0].process.pid for name, started in node.all_processes.items()}
    print(node.gcs_address, pids["raylet"], pids["gcs_server"], os.environ["RAY_AUTH_TOKEN_PATH"], flush=True)
    while (why := ray_alive()) is None:
        if sys.stdin.readline() == "end\\n":
            sys.exit(0)
    print(why, flush=True)
sys.exit(1)
"""
# Reading a line blocks, so whoever kills sends lines until the verdict is there.


class Head:
    """A driver in a process of its own, with a local Ray."""

    def __init__(self, home: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home), "OMP_NUM_THREADS": "1"}
        environment.pop("RAY_AUTH_MODE", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEAD],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline().split()
        assert said, self.process.communicate()
        self.address, self.raylet, self.gcs = said[0], int(said[1]), int(said[2])
        self.token_file = Path(said[3])
        self.token = self.token_file.read_text()

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")

    def end(self) -> None:
        if self.process.poll() is None:
            self.tell("end")
        try:
            self.process.communicate(timeout=60)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    started = Head(tmp_path_factory.mktemp("home"))
    yield started
    started.end()


def listening(pids: set[int]) -> dict[str, list[int]]:
    """The addresses, in the kernel's hexadecimal notation, that the processes listen on, with their ports."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(link))
    found: dict[str, list[int]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                address, port = fields[1].split(":")
                found.setdefault(address, []).append(int(port, 16))
    return found


LOOPBACK = {
    "0100007F",  # 127.0.0.1
    "0000000000000000FFFF00000100007F",  # the same, of a socket that speaks both protocols
    "00000000000000000000000001000000",  # ::1
}


def test_no_process_of_a_local_ray_listens_beyond_loopback(head):
    addresses = listening({head.process.pid} | {one.pid for one in descendants({head.process.pid})})
    assert sum(map(len, addresses.values())) >= 4, f"driver, GCS, raylet and trial all listen somewhere: {addresses}"
    assert addresses.keys() <= LOOPBACK


def test_a_local_ray_refuses_whoever_lacks_its_token_which_nobody_else_can_read(head):
    assert knock("127.0.0.1", head.port, CHECK_ALIVE) is Answer.REFUSED
    assert knock("127.0.0.1", head.port, CHECK_ALIVE, "0" * 64) is Answer.REFUSED
    assert knock("127.0.0.1", head.port, CHECK_ALIVE, head.token) is Answer.DONE
    assert head.token_file.parent.stat().st_mode & 0o077 == 0


def launch(address: str, home: Path, **environment: str) -> tuple[int, str]:
    """What a driver that joins the address says, without the lines of the display."""
    code = (
        "import sys\nfrom recon.errors import InputError\nfrom search.run.cluster import cluster\n"
        "try:\n    with cluster(sys.argv[1]):\n        print('joined')\n"
        "except InputError as error:\n    sys.exit(f'splitpoint: {error}')\n"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-c", code, address],
        env={**inherited, "PYTHONPATH": str(ROOT), "HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def home_with(folder: Path, token: str | None) -> Path:
    folder.mkdir()
    if token is not None:
        (folder / ".ray").mkdir()
        (folder / ".ray/auth_token").write_text(token)
    return folder


def test_a_driver_without_the_token_is_told_where_it_comes_from(head, tmp_path):
    home = home_with(tmp_path / "home", None)
    assert launch(head.address, home) == (
        1,
        f"splitpoint: the cluster at {head.address} wants a token, and this host has none: "
        f"copy the head's ~/.ray/auth_token to {home}/.ray/auth_token\n",
    )


def test_a_driver_with_another_token_is_told_which_one_it_showed(head, tmp_path):
    home = home_with(tmp_path / "home", "f" * 64)
    assert launch(head.address, home) == (
        1,
        f"splitpoint: the cluster at {head.address} refuses the token of this host ({home}/.ray/auth_token); "
        "it has another one\n",
    )


def test_a_driver_whose_host_has_the_token_joins_without_a_variable_in_the_environment(head, tmp_path):
    assert launch(head.address, home_with(tmp_path / "home", head.token)) == (0, "joined\n")


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object):
        pass


def test_an_address_of_something_else_is_one_sentence(tmp_path):
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        said = launch(address, home_with(tmp_path / "home", None))
        server.shutdown()
    assert said == (
        1,
        f"splitpoint: --address {address}: what answers there is no Ray head (its port is 6379 as a rule)\n",
    )


@pytest.mark.parametrize("address", ["somewhere", "host:port", ":"])
def test_an_address_that_is_none_is_one_sentence(address, tmp_path):
    code, said = launch(address, home_with(tmp_path / "home", None))
    assert (code, said) == (1, f"splitpoint: --address {address} is neither auto nor HOST:PORT\n")


def test_without_a_cluster_nothing_is_said_to_be_dead():
    assert ray_alive() is None


DEATHS = [("raylet", signal.SIGKILL), ("gcs", signal.SIGKILL), ("gcs", signal.SIGTERM), ("gcs", signal.SIGSTOP)]


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "blow"), DEATHS)
def test_the_death_of_a_part_of_ray_ends_a_driver_within_15_seconds(victim, blow, tmp_path):
    head = Head(tmp_path)
    family = {one.pid for one in descendants({head.process.pid})}
    began = time.monotonic()
    os.kill(getattr(head, victim), blow)
    while head.process.poll() is None and time.monotonic() - began < 40:
        head.tell("on")
        time.sleep(0.2)
    seconds = time.monotonic() - began
    out, err = head.process.communicate(timeout=10)
    name = {"raylet": "raylet", "gcs": "(GCS|gcs_server)"}[victim]
    assert (head.process.returncode, err) == (1, "")
    assert len(out.splitlines()) == 1
    assert re.match(f"Ray.s {name} ", out)
    assert seconds < 15
    end = time.monotonic() + 10
    while (left := {pid for pid in family if Path(f"/proc/{pid}").exists()}) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left


JOINED = """
import sys
import time
from search.run.cluster import cluster, ray_alive
with cluster(sys.argv[1]):
    print("joined", flush=True)
    while (why := ray_alive()) is None:
        time.sleep(0.2)
    print(why, flush=True)
sys.exit(1)
"""


@pytest.mark.slow
def test_a_driver_of_a_cluster_whose_gcs_hangs_ends_with_exit_code_1(tmp_path):
    head = Head(tmp_path)
    try:
        driver = subprocess.Popen(
            [sys.executable, "-c", JOINED, head.address],
            env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": head.token},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert driver.stdout is not None
        assert driver.stdout.readline() == "joined\n"
        os.kill(head.gcs, signal.SIGSTOP)
        out, err = driver.communicate(timeout=40)
    finally:
        os.kill(head.gcs, signal.SIGCONT)
        head.end()
    assert (driver.returncode, err) == (1, "")
    assert re.fullmatch(r"Ray's GCS at 127.0.0.1:\d+ has not answered for \d+ s\n", out)
