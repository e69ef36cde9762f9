"""Several Ray nodes on this machine that stand for hosts, and a driver on the first of them, in a process of their own.

Each has a working directory of its own, so a path below /proc/self/cwd leads elsewhere on each, as a private folder
does."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import ray
import ray._private.utils
from ray.cluster_utils import Cluster

from search.run.cluster import _ENVIRONMENT

HERE = Path("/proc/self/cwd")
"""The working directory of whoever asks."""
_made: dict[str, Any] = {}


class Bench:
    """The hosts, seen from the tests' process."""

    def __init__(self, pool: ProcessPoolExecutor, folder: Path) -> None:
        self._pool, self.folder = pool, folder

    def call(self, function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """Call a module-level function in the driver."""
        return self._pool.submit(function, *arguments, **more).result(timeout=120)

    def add(self, name: str, cpus: int = 1, **environment: str) -> Path:
        """Start a host; its working directory."""
        return self.call(_add, self.folder / name, cpus, environment)

    def remove(self, name: str) -> None:
        """Let a host die."""
        self.call(_remove, name)


@contextlib.contextmanager
def hosts(folder: Path, *names: str) -> Iterator[Bench]:
    """Hosts of these names; a driver runs on the first."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        bench = Bench(pool, folder)
        try:
            bench.call(_begin)
            for name in names:
                bench.add(name)
            bench.call(_join, folder / names[0])
            yield bench
        finally:
            bench.call(_end)


def _begin() -> None:
    os.environ.update(_ENVIRONMENT)
    ray._private.utils.write_ray_address = lambda *_, **__: None  # others on this machine may have one of their own
    _made["temp"] = tempfile.mkdtemp(prefix="sp-", dir="/tmp")
    _made["cluster"] = Cluster()
    _made["nodes"] = {}


def _add(own: Path, cpus: int, environment: dict[str, str]) -> Path:
    own.mkdir(exist_ok=True)
    head = {} if _made["nodes"] else {"temp_dir": _made["temp"], "include_dashboard": False}
    before = os.getcwd()
    os.chdir(own)
    try:
        _made["nodes"][own.name] = _made["cluster"].add_node(
            num_cpus=cpus, object_store_memory=100 * 2**20, env_vars=environment, **head
        )
    finally:
        os.chdir(before)
    return own


def _join(own: Path) -> None:
    os.chdir(own)
    ray.init(address=_made["cluster"].address, log_to_driver=False, logging_level="CRITICAL")


def _remove(name: str) -> None:
    _made["cluster"].remove_node(_made["nodes"].pop(name), allow_graceful=False)


def _end() -> None:
    ray.shutdown()
    for name in reversed(list(_made["nodes"])):
        _remove(name)
    shutil.rmtree(_made["temp"], ignore_errors=True)
