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


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of a fresh database; the test is skipped where there is no PostgreSQL. It listens on loopback alone."""
    if DRIVER is None or PROGRAMS is None:
        pytest.skip("needs PostgreSQL's programs and psycopg")
    folder = Path(tempfile.mkdtemp(prefix="sp-pg-", dir="/tmp"))
    user: dict = {}
    if os.getuid() == 0:  # it refuses to run as root
        entry = pwd.getpwnam("postgres")
        user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    data, common = folder / "data", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
    initdb = [PROGRAMS / "initdb", "-D", data, "-U", "sp", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"]
    subprocess.run(initdb, check=True, **common)
    options = ["-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    process = subprocess.Popen([PROGRAMS / "postgres", "-D", data, *options], **common)
    try:
        asked = [PROGRAMS / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        for _ in range(200):
            if subprocess.run(asked, check=False).returncode == 0:
                break
            time.sleep(0.05)
        yield f"postgresql+{DRIVER}://sp:hunter2@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)
