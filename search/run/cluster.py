"""Ray: joining a cluster or starting one here, how many trials it has room for, and whether it lives."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, worker
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

from recon.errors import InputError
from search.run.knock import CHECK_ALIVE, Answer, encrypted, host_and_port, knock, token, token_file
from search.run.pulse import Pulse, descendants
from search.run.scratch import scratch

ANSWER_SECONDS = 5.0
"""How long a host may take to answer."""
START_TRIES = 3
"""Ray gives its own processes 30 s to start, which a busy machine may not keep."""
LEAVE_SECONDS = 8.0
LONGEST_LEAVE_SECONDS = 60.0
"""How long Ray may take to end: where a part of it is dead, and at all."""
TOKEN_FILE = "auth_token"
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
    """Number of retries of a trial whose worker failed, each from its last checkpoint; a new epoch makes them count
    anew."""


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
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # search.run.leaving handles it
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

    A Ray that starts here listens on loopback only, and has a token of its own.

    Raises:
        InputError: there is no cluster at the address, or it wants another token; no Ray starts on this machine.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not verbose:
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module=r"ray\..*")
    if ray.is_initialized():
        yield
        return
    with contextlib.ExitStack() as stack:
        if not verbose:
            # Ray reports a dead raylet with twenty lines of its log, which no setting of its own keeps away.
            stack.enter_context(_replaced(worker, "print_to_stdstream", lambda *arguments, **options: None))
        # Ray would end the driver at SIGTERM with an exit code of its own.
        with _replaced(ray._private.utils, "set_sigterm_handler", lambda handler: None):
            if address in (None, "local"):
                _start(stack, verbose)
            else:
                _join(stack, address, verbose)
        pulse = Pulse(worker._global_node)
        stack.callback(_leave, pulse)
        stack.enter_context(_replaced(_Connection, "pulse", pulse))
        stack.enter_context(pulse)
        yield


class _Connection:
    pulse: Pulse | None = None
    """Of the Ray that this process is connected to by ``cluster``."""


def ray_alive(timeout: float = 6.0) -> str | None:
    """Why the Ray that ``cluster`` connected this process to is dead, in a sentence; None while it lives.

    A process of a local Ray that has ended is told at once; a raylet or GCS that does not answer, after ``timeout``
    seconds of silence. A thread asks them, so this returns at once.
    """
    return None if _Connection.pulse is None else _Connection.pulse.verdict(timeout)


def abandon() -> None:
    """Kill all processes of a local Ray that ``cluster`` started: the last act of a driver that is stuck in it."""
    if _Connection.pulse is not None:
        _Connection.pulse.kill()


def _start(stack: contextlib.ExitStack, verbose: bool) -> None:
    """Start a Ray on this machine, which ends with the stack."""
    folder = stack.enter_context(scratch("splitpoint-ray-", _end_orphans))
    if "RAY_AUTH_TOKEN" not in os.environ:
        # Ray's own token file may be readable by others; nobody else can look into this folder, while Ray makes its
        # own folder everybody's.
        file = folder / TOKEN_FILE
        file.write_text(secrets.token_hex(32))
        stack.enter_context(_token_from(file))
    stack.enter_context(_loopback())
    before = descendants({os.getpid()})
    for left in reversed(range(START_TRIES)):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(folder / "r"),
                log_to_driver=verbose,
                logging_level=_level(verbose),
            )
            return
        except BaseException as error:
            for child in descendants({os.getpid()}) - before:  # Ray leaves its half-started processes behind
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
            if "timed out during startup" not in str(error):
                raise
            if not left:
                raise InputError(
                    f"Ray did not start on this machine within 30 s, {START_TRIES} times; "
                    "the machine is too busy, or out of memory"
                ) from error


def _end_orphans(folder: Path) -> None:
    """End what is left of the Ray in the folder of a driver that was killed: its agents look for their GCS for a
    minute. They are known by the token that they were given."""
    wanted = f"RAY_AUTH_TOKEN_PATH={folder / TOKEN_FILE}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def _join(stack: contextlib.ExitStack, address: str, verbose: bool) -> None:
    """Connect to the cluster at an address."""
    if address.startswith("ray://"):
        raise InputError(
            f"--address {address} is a Ray client's; run on a host of the cluster with --address auto, "
            "so that the study and the trials see the same folders"
        )
    if address != "auto" and _admitted(address):
        stack.enter_context(_loopback())
    try:
        ray.init(address=address, log_to_driver=verbose, logging_level=_level(verbose))
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"--address {address}: there is no Ray cluster to connect to ({first})") from error


def _admitted(address: str) -> bool:
    """Make sure that a cluster at HOST:PORT lets this host in, for Ray itself tries for minutes and then says little;
    turn Ray's tokens on where the cluster wants one. Returns whether it is on this host's loopback.
    """
    try:
        host, port = host_and_port(address)
    except ValueError as error:
        raise InputError(f"--address {address} is neither auto nor HOST:PORT") from error
    answer = knock(host, port, CHECK_ALIVE, seconds=ANSWER_SECONDS)
    if answer is Answer.REFUSED:
        shown = token()
        if shown is None:
            raise InputError(
                f"the cluster at {address} wants a token, and this host has none: "
                f"copy the head's ~/.ray/auth_token to {token_file()}"
            )
        if knock(host, port, CHECK_ALIVE, shown, ANSWER_SECONDS) is Answer.REFUSED:
            source = "RAY_AUTH_TOKEN" if "RAY_AUTH_TOKEN" in os.environ else str(token_file())
            raise InputError(f"the cluster at {address} refuses the token of this host ({source}); it has another one")
        if os.environ.get("RAY_AUTH_MODE") not in (None, "token"):
            raise InputError(
                f"the cluster at {address} wants a token, and RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']} "
                "keeps it back; unset it"
            )
        maybe_enable_token_auth_if_token_available()
    elif answer is Answer.NOBODY:
        try:
            socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise InputError(f"--address {address}: nothing answers there ({error})") from error
    elif answer is not Answer.DONE and not encrypted():
        raise InputError(f"--address {address}: what answers there is no Ray head (its port is 6379 as a rule)")
    return host in ("localhost", "127.0.0.1", "::1")


def _leave(pulse: Pulse) -> None:
    """Disconnect, and end a local Ray with all of its processes.

    Where a part of Ray is dead, Ray's own end may wait for it for ever, so it gets a deadline.
    """
    alive = pulse.verdict(timeout=3.0) is None
    if not alive:
        pulse.kill()
    shutdown = partial(ray.shutdown, wait_for_processes=alive)
    ending = threading.Thread(target=shutdown, name="ray-shutdown", daemon=True)
    ending.start()
    ending.join(LONGEST_LEAVE_SECONDS if alive else LEAVE_SECONDS)
    if ending.is_alive():
        pulse.kill()
        # The thread is inside Ray, which crashes when the interpreter is torn down around it.
        atexit.unregister(worker.shutdown)
        atexit.register(_abandon)


def _abandon() -> None:
    """End this process as one that failed, without a last word of Ray's."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(1)


def _level(verbose: bool) -> int:
    return logging.INFO if verbose else logging.CRITICAL


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an attribute another value for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _loopback() -> contextlib.AbstractContextManager[None]:
    """Ray takes this machine's loopback address for its own, and its processes listen on that alone.

    Ray does so where clusters are off (as on Windows); an address that ``ray.init`` is given would not do: it replaces
    127.0.0.1 with the network's address (``resolve_ip_for_localhost``).
    """
    return _replaced(ray_constants, "ENABLE_RAY_CLUSTER", False)


@contextlib.contextmanager
def _token_from(file: Path) -> Iterator[None]:
    """Ray reads its token from this file for a while."""
    before = os.environ.get("RAY_AUTH_TOKEN_PATH")
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(file)
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAY_AUTH_TOKEN_PATH"]
        else:
            os.environ["RAY_AUTH_TOKEN_PATH"] = before
        AuthenticationTokenLoader.instance().reset_cache()
