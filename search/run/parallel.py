"""Parallel maps for the functions of ``recon`` that take a ``map``: over processes, or over a Ray cluster.

Results come in the order in which they are done, not in the order of the items. An exception of a call is raised in
place of its result.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError

from recon.mapping import Map
from search.run.cluster import cluster

T = TypeVar("T")
R = TypeVar("R")


IN_FLIGHT = 2
"""Calls in flight for each that can run: enough to keep all busy, few enough to hold little in memory."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextlib.contextmanager
def side_by_side(workers: int) -> Iterator[Map]:
    """A map over processes of this machine, one thread each; with one worker, the builtin ``map``."""
    if workers == 1:
        yield map
        return
    before = {name: os.environ.get(name) for name in _THREADS}
    for name in _THREADS:
        os.environ.setdefault(name, "1")
    # Not forked: threads of numerical libraries do not survive a fork.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))

    def mapped(function: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        waiting = iter(items)
        running: set[Future[R]] = set()
        while True:
            while len(running) < IN_FLIGHT * workers:
                for item in waiting:
                    running.add(pool.submit(function, item))
                    break
                else:
                    break
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()

    try:
        yield mapped
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


@contextlib.contextmanager
def ray_map(address: str | None = None, workers: int | None = None, cpus: float = 1, retries: int = 3) -> Iterator[Map]:
    """A map over a Ray cluster, or over a Ray of its own on this machine.

    Args:
        address: address of the cluster; without it, a local Ray.
        workers: number of parallel calls; without it, as many as the cluster has CPUs for (it may grow meanwhile).
        cpus: CPUs of one call.
        retries: number of retries of a call whose worker was lost; an exception of the function is not retried.
    """
    with cluster(address):

        def mapped(function: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
            remote = ray.remote(function).options(num_cpus=cpus, max_retries=retries)
            waiting = iter(items)
            running: list[Any] = []
            while True:
                limit = workers or IN_FLIGHT * max(1, int(ray.cluster_resources().get("CPU", 1) // cpus))
                while len(running) < limit:
                    for item in waiting:
                        running.append(remote.remote(item))
                        break
                    else:
                        break
                if not running:
                    return
                done, running = ray.wait(running)
                for reference in done:
                    try:
                        result = ray.get(reference)
                    except RayTaskError as error:
                        # The caller knows the function's own exceptions, not Ray's wrapping of them.
                        raise (error.cause or error) from error
                    yield result

        yield mapped
