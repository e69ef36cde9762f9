"""A PostgreSQL server of the tests' own, where its programs and a driver are installed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

DRIVER = next((one for one in ("psycopg", "psycopg2") if importlib.util.find_spec(one)), None)
PROGRAMS = next((path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)


class Server:
    """A PostgreSQL server that can be stopped and started. It listens on loopback alone."""

    def __init__(self, folder: Path) -> None:
        assert PROGRAMS is not None
        user: dict = {}
        if os.getuid() == 0:  # it refuses to run as root
            entry = pwd.getpwnam("postgres")
            user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"postgresql+{DRIVER}://sp:hunter2@127.0.0.1:{port}/postgres"
        self._common = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
        self._asked = [PROGRAMS / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        data = folder / "data"
        initdb = [PROGRAMS / "initdb", "-D", data, "-U", "sp", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"]
        subprocess.run(initdb, check=True, **self._common)
        options = ["-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        self._command = [PROGRAMS / "postgres", "-D", data, *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, **self._common)
        for _ in range(600):
            if subprocess.run(self._asked, check=False).returncode == 0:
                return
            time.sleep(0.05)
        raise TimeoutError("PostgreSQL did not start")

    def stop(self) -> None:
        """End it as a restart does: its clients are disconnected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
            self._process = None


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A server with a fresh database; the test is skipped where there is no PostgreSQL."""
    if DRIVER is None or PROGRAMS is None:
        pytest.skip("needs PostgreSQL's programs and psycopg")
    folder = Path(tempfile.mkdtemp(prefix="sp-pg-", dir="/tmp"))
    made = Server(folder)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of a fresh database of such a server."""
    with running() as made:
        yield made.url
