"""Parallel maps for the functions of ``recon`` that take a ``map``: over processes, or over a Ray cluster.

Results come in the order in which they are done, not in the order of the items. An exception of a call is raised in
place of its result.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from recon.mapping import Map

T = TypeVar("T")
R = TypeVar("R")


IN_FLIGHT = 2
"""Calls in flight for each that can run: enough to keep all busy, few enough to hold little in memory."""
PAYS_BYTES = 256 * 2**20
"""Raw files of which preparing takes 15 to 40 s in one process; with less, more processes save no time."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextlib.contextmanager
def side_by_side(workers: int, retries: int = 3) -> Iterator[Map]:
    """A map over processes of this machine, one thread each; with one worker, over this process.

    Args:
        workers: number of processes.
        retries: number of times that calls are made again after a process was lost, such as for lack of memory.
    """
    if workers == 1:
        # More threads take longer on small matrices, and round sums otherwise.
        with threadpool_limits(1, user_api="blas"):
            yield map
        return
    before = {name: os.environ.get(name) for name in _THREADS}
    for name in _THREADS:
        os.environ.setdefault(name, "1")
    others = set(multiprocessing.active_children())
    pool = _pool(workers)

    def mapped(function: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        nonlocal pool
        waiting = iter(items)
        again: list[T] = []
        running: dict[Future[R], T] = {}
        lost = 0
        while True:
            try:
                while len(running) < IN_FLIGHT * workers:
                    again = again or list(itertools.islice(waiting, 1))
                    if not again:
                        break
                    running[pool.submit(_call, function, again[0])] = again[0]
                    del again[0]
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    result = future.result()
                    del running[future]
                    yield result
            except BrokenProcessPool as error:
                lost += 1
                if lost > retries:
                    raise RuntimeError(
                        f"processes ended {lost} times without a word, perhaps for lack of memory; fewer side by side "
                        "(--workers) may help"
                    ) from error
                pool.shutdown()
                pool = _pool(workers)
                again, running = [*running.values(), *again], {}

    try:
        yield mapped
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            if process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGINT)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Not forked: threads of numerical libraries do not survive a fork.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """A worker ends with its parent, even with one that was killed, and ends quietly where it is interrupted."""
    signal.signal(signal.SIGINT, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    parent.join()
    os._exit(1)


def _interrupt(*_: object) -> None:
    # Once: what a call cleans up as it ends must not be interrupted.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(130)


def _call(function: Callable[[T], R], item: T) -> R:
    """A call in a worker; none begins after an interruption, though calls may be waiting there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        sys.exit(130)
    return function(item)


def file_bytes(paths: Iterable[Path]) -> int:
    """Size of files, and of all files in folders."""
    each = (file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]))
    return sum(file.stat().st_size for file in each if file.is_file())


def processes(workers: int | None, work_bytes: int) -> int:
    """Number of processes for work on files: as asked, else as many as there are CPUs where they pay, else one.

    Each process takes 2 to 3 s of CPU before its first call. Preparing 92 volumes (42 MB, the quickstart's) took 12.3
    CPU seconds in one process, 18.7 in two and 24.1 in a Ray of this machine; 18, 31 and 32 s by the clock on two busy
    cores, 13, 15 and 17 s on idle ones. Of 6 large slices (172 MB) it took 12 CPU seconds in one process and 15 in two;
    13 and 16 s by the clock.
    """
    if workers is not None:
        return workers
    return 1 if work_bytes < PAYS_BYTES else os.cpu_count() or 1


@contextlib.contextmanager
def ray_map(address: str | None = None, workers: int | None = None, cpus: float = 1, retries: int = 3) -> Iterator[Map]:
    """A map over a Ray cluster, or over a Ray of its own on this machine.

    Args:
        address: address of the cluster; without it, a local Ray.
        workers: number of parallel calls; without it, as many as the cluster has CPUs for (it may grow meanwhile).
        cpus: CPUs of one call.
        retries: number of retries of a call whose worker was lost; an exception of the function is not retried.
    """
    # Who needs no cluster does not wait for Ray.
    import ray
    from ray.exceptions import RayTaskError

    from search.run.cluster import cluster

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
