"""Ray: joining a cluster or starting one here, and how many trials it has room for."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ray

from recon.errors import InputError

ANSWER_SECONDS = 5.0
"""How long a host may take to answer."""
OBJECT_STORE_BYTES = 128 * 2**20
"""Trials read their data themselves; Ray's object store carries next to nothing."""


@dataclass(frozen=True)
class Resources:
    """The resources of a trial, and the number of trials that run in parallel."""

    cpus: float = 1
    gpus: float | None = None
    """GPUs of one trial; a fraction lets trials share a GPU. Without it: one if the cluster has any, else none."""
    max_concurrent: int | None = None
    """Number of trials in parallel; without it, as many as fit."""
    max_failures: int = 2
    """Number of retries of a trial whose worker failed, each from its last checkpoint."""


def fit(resources: Resources) -> tuple[float, float, int]:
    """CPUs and GPUs of a trial, and how many trials run in parallel.

    Raises:
        InputError: no host of the cluster has the resources of one trial.
    """
    gpus = _gpus(resources)
    found = places(resources)
    if found == 0:
        hosts = _hosts()
        most = ", ".join(f"{host.get('CPU', 0):g} CPUs and {host.get('GPU', 0):g} GPUs" for host in hosts) or "nothing"
        raise InputError(
            f"a trial needs {resources.cpus:g} CPUs and {gpus:g} GPUs (--cpus-per-trial, --gpus-per-trial), "
            f"which no host has; they have {most}"
        )
    return resources.cpus, gpus, resources.max_concurrent or found


def places(resources: Resources) -> int:
    """How many trials the cluster, at its present size, has room for."""
    gpus = _gpus(resources)
    found = 0
    for host in _hosts():
        by_cpu = host.get("CPU", 0) // resources.cpus
        found += int(min(by_cpu, host.get("GPU", 0) // gpus) if gpus else by_cpu)
    return found


def _gpus(resources: Resources) -> float:
    if resources.gpus is not None:
        return resources.gpus
    return 1.0 if any(host.get("GPU") for host in _hosts()) else 0.0


def _hosts() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study is the log
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # errors are in the study and in the display
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own state, which nothing restores
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # whose tables verbose=0 does not silence
}


@contextlib.contextmanager
def cluster(address: str | None, verbose: bool = False) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine and end it afterwards; one that is connected already
    stays.

    Raises:
        InputError: there is no cluster at the address.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not verbose:
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module=r"ray\..*")
    if ray.is_initialized():
        yield
        return
    level = logging.INFO if verbose else logging.CRITICAL
    with contextlib.ExitStack() as stack:
        if address in (None, "local"):
            folder = stack.enter_context(_ray_folder())
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(folder),
                log_to_driver=verbose,
                logging_level=level,
            )
        elif address is not None and address.startswith("ray://"):
            raise InputError(
                f"--address {address} is a Ray client's; run on a host of the cluster with --address auto, "
                "so that the study and the trials see the same folders"
            )
        else:
            if address is not None and ":" in address:
                _answers(address)
            try:
                ray.init(address=address, log_to_driver=verbose, logging_level=level)
            except (ConnectionError, RuntimeError, ValueError) as error:
                first = str(error).strip().splitlines()[0]
                raise InputError(f"--address {address}: there is no Ray cluster to connect to ({first})") from error
        stack.callback(ray.shutdown)
        yield


def _answers(address: str) -> None:
    """Raise InputError where nothing listens at HOST:PORT: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"--address {address}: nothing answers there ({error})") from error


@contextlib.contextmanager
def _ray_folder() -> Iterator[Path]:
    """A short-named folder of its own for a local Ray's logs and sockets; folders of dead drivers are swept out."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > 25 and os.access("/tmp", os.W_OK):
        base = Path("/tmp")  # a socket's path holds 107 characters, of which Ray takes most
    for old in base.glob("splitpoint-ray-*"):
        with contextlib.suppress(OSError), (old / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="splitpoint-ray-", dir=base))
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
