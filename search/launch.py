"""Launching: one search on a local Ray or on a cluster, from nothing, from where it was interrupted, or further than
before.

The study is the only state. Whatever was killed, the same call goes on: it closes what the last driver left open,
continues those trials from their checkpoints, and runs what is still missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from recon.data.prepared import PreparedData
from recon.errors import InputError
from search.jobs import Fixed, launched
from search.ledger import Ledger
from search.progress import Display
from search.schedule import Rungs, SuccessiveHalving
from search.searcher import Runtime, StudySearch
from search.study import OpenStudy, Record, State, code_version, create_study, quiet, shown
from search.trial import EPOCH, ERROR, OBJECTIVE, Trainer, run_trial, train_on_prepared, trainer_path
from spaces.schema import Space, stored_space

TRIALS_FOLDER = "trials"
BEAT_SECONDS = 20.0
BEAT_LOST_SECONDS = 90.0
"""A driver on another host that has not been heard of for so long is dead."""
LOOK_SECONDS = 10.0
"""How often a run looks whether hosts have joined or left."""
OBJECT_STORE_BYTES = 128 * 2**20
"""Trials read their data themselves; Ray's object store carries next to nothing."""


@dataclass(frozen=True)
class DataFacts:
    """What a search needs to know of prepared data."""

    path: Path
    hash: str
    slices: Mapping[str, int]
    """Training slices of each task."""
    prepared: Mapping[str, Any] = field(default_factory=dict)
    """The options that they were prepared with, as JSON values: a bundle remembers them for raw files to come."""

    @classmethod
    def of(cls, path: Path) -> DataFacts:
        """Read them.

        Raises InputError where there are no prepared data.
        """
        data = PreparedData(path)
        slices = {task: len(data.subset(task)) for task in data.tasks}
        return cls(Path(path).resolve(), data.hash, slices, data.options.model_dump(mode="json"))


@dataclass(frozen=True)
class Resources:
    """What a trial takes, and how many run side by side."""

    cpus: float = 1
    gpus: float | None = None
    """Of one trial; a fraction lets trials share a GPU. Without it: one where the cluster has any, else none."""
    max_concurrent: int | None = None
    """Without it: as many as fit."""
    max_failures: int = 2
    """Retries of a trial whose worker failed, each from its last checkpoint."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    study: OpenStudy
    complete: int
    """Searched trials in the study by state, those of earlier runs included."""
    pruned: int
    failed: int
    references: int
    """Complete baselines and confirmations."""
    failures: tuple[Record, ...]
    """Trials that failed in this run."""
    blocked: Mapping[str, str]
    """Fixed jobs that failed, or could not run because another failed, and why."""
    exhausted: bool
    """Fewer trials than wanted, for the space has no further configuration."""
    seconds: float

    @property
    def complaint(self) -> str | None:
        """Why the run did not do all that was asked, in a sentence; None where it did."""
        if self.blocked:
            key, why = next(iter(self.blocked.items()))
            return f"{len(self.blocked)} of the fixed jobs did not finish, first {key}: {why}"
        wanted = self.study.space.trials
        if self.complete + self.pruned < wanted and not self.exhausted and self.failures:
            return f"the last trials all failed, so no more were tried; the last one: {self.failures[-1].error}"
        return None


def launch(
    space: Space,
    data: Path | DataFacts,
    study: str,
    *,
    storage: str | None = None,
    runs_dir: Path = Path("runs"),
    address: str | None = None,
    resources: Resources = Resources(),
    trainer: Trainer = train_on_prepared,
    verbose: bool = False,
) -> Outcome:
    """Search a space: its baselines, then its known configurations, then what the sampler chooses.

    The same call again continues what is unfinished; a larger ``space.trials`` extends a finished search.

    Args:
        space: what to search.
        data: prepared data, on a path that every host sees.
        study: its name; its files live in ``runs_dir/study``.
        storage: an Optuna URL, or ``journal://PATH``; without it, an SQLite file in the study's folder.
        runs_dir: where studies live; on a cluster, a folder that every host sees.
        address: of a Ray cluster (``auto`` on one of its hosts); without it, a Ray of its own on this machine.
        resources: of a trial.
        trainer: what trains; a test's stand-in is a module-level function of the same shape.
        verbose: let Ray speak.

    Raises:
        InputError: space and data do not fit, the study was made with another space or other data, another driver
            runs it, or the resources are not there.
        KeyboardInterrupt: after Ctrl-C, when the study has been left so that the same call continues it.
    """
    facts = data if isinstance(data, DataFacts) else DataFacts.of(data)
    space = space.on(facts.slices, str(facts.path))
    with quiet(), driving(create_study(study, storage, runs_dir)) as driver:
        agree(driver.study, space, facts)
        return run(
            driver,
            space,
            facts,
            launched(space, facts.slices),
            space.trials,
            study,
            address,
            resources,
            trainer,
            verbose,
        )


def agree(study: OpenStudy, space: Space, facts: DataFacts) -> None:
    """Check that a study was made with this space and these data, and note them where it is new.

    Raises InputError where it was made with others: its trials could not be compared.
    """
    stored = study.attributes
    where = f"study {study.name!r} in {shown(study.url)}"
    if "space" in stored:
        difference = stored_space(stored["space"]).difference(space)
        if difference is not None:
            raise InputError(f"{where} was made with another space: {difference}; choose another --study")
    if stored.get("data_hash", facts.hash) != facts.hash:
        raise InputError(
            f"{where} was made with other data (hash {stored['data_hash'][:12]}, {facts.path} has {facts.hash[:12]}); "
            "choose another --study"
        )
    attributes = {
        "data_hash": facts.hash,
        "data": str(facts.path),
        "prepared": dict(facts.prepared),
        "space_hash": space.hash,
        "space": space.model_dump(mode="json"),
    }
    for name, value in attributes.items():
        if stored.get(name) != value:
            study.search.set_user_attr(name, value)


def run(
    driver: Driver,
    space: Space,
    facts: DataFacts,
    fixed: Iterable[Fixed],
    budget: int,
    title: str,
    address: str | None,
    resources: Resources,
    trainer: Trainer,
    verbose: bool,
) -> Outcome:
    """Run fixed jobs and searched trials on Ray until nothing is left, and leave the study closed whatever happens."""
    began = time.monotonic()
    study = driver.study
    ledger = Ledger(study, facts.slices, facts.hash, code_version())
    for half in (study.search, study.references):
        ledger.close_orphans(half)
    search = StudySearch(study, space, ledger, fixed, budget)
    if not search.idle:
        try:
            display = Display(title, space.objective.metric)
            display.say(f"{title}: {'starting a Ray on this machine' if address is None else f'joining {address}'}")
            with cluster(address, verbose), display:
                for record in study.searched():
                    display.remember(record)
                _tune(search, space, facts, Watch(search, driver, display, resources), study, resources, trainer)
        finally:
            # What the run left open nobody runs any more: Ctrl-C and errors do not tell the searcher.
            for half in (study.search, study.references):
                ledger.close_orphans(half)
        if not search.over:
            raise KeyboardInterrupt
    searched = study.searched()
    count = {state: sum(record.state is state for record in searched) for state in State}
    return Outcome(
        study,
        complete=count[State.COMPLETE],
        pruned=count[State.PRUNED],
        failed=sum(record.state is State.FAIL and record.closed is None for record in searched),
        references=len(search.references),
        failures=tuple(search.failed),
        blocked=search.blocked,
        exhausted=search.exhausted,
        seconds=time.monotonic() - began,
    )


def _tune(
    search: StudySearch,
    space: Space,
    facts: DataFacts,
    watch: Watch,
    study: OpenStudy,
    resources: Resources,
    trainer: Trainer,
) -> None:
    cpus, gpus, concurrent = fit(resources)
    search.runtime = Runtime(facts.path, trainer_path(trainer), "cuda" if gpus else "cpu", max(1, int(cpus)))
    rungs = Rungs(space.fidelity.milestones, space.fidelity.reduction)
    rungs.rebuild(study.searched())
    # tune.run and not a Tuner: that one pickles the searcher, and with it the storage's password, into a file.
    tune.run(
        tune.with_resources(run_trial, {"cpu": cpus, "gpu": gpus}),
        name=TRIALS_FOLDER,
        storage_path=str(study.folder.resolve()),
        metric=OBJECTIVE,
        mode="max",
        search_alg=search,
        scheduler=SuccessiveHalving(rungs, search.note_error),
        num_samples=-1,
        max_concurrent_trials=concurrent,
        max_failures=resources.max_failures,
        raise_on_failed_trial=False,
        reuse_actors=True,
        checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        callbacks=[watch],
        trial_name_creator=_trial_name,
        trial_dirname_creator=_trial_name,
        verbose=0,
    )


def _trial_name(trial: Trial) -> str:
    return str(trial.config["name"])


class Watch(tune.Callback):
    """Carries to the searcher what Tune tells callbacks only, keeps the driver's claim alive, drives the display.

    Where nobody limits the trials side by side, their number follows the cluster's size.
    """

    def __init__(self, search: StudySearch, driver: Driver, display: Display, resources: Resources) -> None:
        self._search, self._driver, self._display, self._resources = search, driver, display, resources
        self._looked = time.monotonic()
        search.on_ended = partial(display.ended, search=search)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Write a report that the scheduler stopped at, too, before its checkpoint is written."""
        self._search.on_trial_result(trial.trial_id, result)
        live = self._search.live.get(trial.trial_id)
        if live is not None and ERROR not in result:
            self._display.reported(live.job.config, result[EPOCH])

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: tune.Checkpoint, **info: Any
    ) -> None:
        """Write the new checkpoint's place before Tune deletes the old one."""
        self._search.note_checkpoint(trial.trial_id, checkpoint.path)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """After every event."""
        if self._search.live:
            self._search.reconcile(trial.trial_id for trial in trials if trial.is_finished())
        if self._resources.max_concurrent is None and time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self._search.set_max_concurrency(max(1, places(self._resources)))
        self._driver.beat()
        self._display.refresh(self._search)


# The one driver of a study


class Driver:
    """A claim on a study: it has one driver at a time."""

    def __init__(self, study: OpenStudy, claim: dict[str, Any]) -> None:
        self.study = study
        self._claim = claim
        self._next = 0.0

    def beat(self) -> None:
        """Say that this driver is alive, every now and then."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + BEAT_SECONDS
            self.study.search.set_user_attr("driver", {**self._claim, "beat": time.time()})

    def leave(self) -> None:
        """Give the claim up."""
        self.study.search.set_user_attr("driver", None)


@contextlib.contextmanager
def driving(study: OpenStudy) -> Iterator[Driver]:
    """Claim a study for this process.

    On one host, or on one shared folder, a lock on a file tells, which the system frees when its holder dies, however
    it dies. Drivers with other folders tell by a heartbeat in the study.

    Raises:
        InputError: another driver has it.
    """
    lock = study.folder.resolve() / "driver.lock"
    file = lock.open("a+")
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"study {study.name!r} is being run by another process ({file.read().strip() or 'unknown'}); "
                "wait for it, or stop it, or choose another --study"
            ) from None
        claim = {"host": platform.node(), "pid": os.getpid(), "lock": f"{platform.node()}:{lock}"}
        other = study.attributes.get("driver")
        # Our own lock proves that whoever claimed under it is dead.
        if other and other["lock"] != claim["lock"] and (silent := time.time() - other["beat"]) < BEAT_LOST_SECONDS:
            raise InputError(
                f"study {study.name!r} is being run by process {other['pid']} on {other['host']}, "
                f"heard of {silent:.0f} s ago; "
                f"if it is dead, try again in {BEAT_LOST_SECONDS - silent:.0f} s"
            )
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        driver = Driver(study, claim)
        driver.beat()
        try:
            yield driver
        finally:
            driver.leave()
    finally:
        file.close()


# Ray


def fit(resources: Resources) -> tuple[float, float, int]:
    """CPUs and GPUs of a trial, and how many trials run side by side.

    Raises:
        InputError: no host of the cluster has what one trial needs.
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
    """How many trials the cluster, as it is now, has room for."""
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
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # errors stand in the study and in the display
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
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
            try:
                ray.init(address=address, log_to_driver=verbose, logging_level=level)
            except (ConnectionError, RuntimeError, ValueError) as error:
                first = str(error).strip().splitlines()[0]
                raise InputError(f"--address {address}: there is no Ray cluster to connect to ({first})") from error
        stack.callback(ray.shutdown)
        yield


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
