"""The status of a study: who drives it, what runs where and how far it is, what ended last, and when it will be over.

It reads the storage alone. So it needs no Ray, and answers from any host that reaches the storage.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pandas as pd
from optuna.trial import TrialState

from recon.files import process_lives
from search.results.text import plain_table
from search.run.driver import BEAT_LOST_SECONDS
from search.run.outlook import clock, describe, epochs_left, what
from search.study.open import OpenStudy
from search.study.outline import Outline, outlines
from search.study.record import Record, State, record_of

LAST = 5
"""Number of ended trials that are shown."""


@dataclass(frozen=True)
class DriverStatus:
    """The process that runs the study."""

    host: str
    pid: int
    silent_seconds: float
    """Time since its last heartbeat."""
    waiting: int
    """Number of facts that wait in its memory because the storage does not take them."""
    hosts: tuple[dict[str, Any], ...]
    """The hosts of its cluster: ``address``, ``name``, ``cpus``, ``gpus``; empty if it did not tell."""


@dataclass(frozen=True)
class RunningTrial:
    """One trial that runs. What is not known before its first epoch is None."""

    trial: str
    what: str
    scarce_slices: int | None
    node: str | None
    """The host: name and address."""
    since: str | None
    """When it began, by the driver's clock (ISO 8601, local)."""
    epoch: int
    epochs: int
    rung: int | None
    """The last rung that it passed, as an epoch."""
    next_rung: int | None
    ssim: float | None
    epoch_seconds: float | None
    """Mean time of an epoch."""
    peak_memory_bytes: int | None
    gpu_use: float | None
    """Share of its time in which it computed on a GPU."""


@dataclass(frozen=True)
class EndedTrial:
    """One trial that ended."""

    trial: str
    what: str
    how: str
    when: str | None


@dataclass(frozen=True)
class Status:
    """The status of a study."""

    study: str
    driver: DriverStatus | None
    """None if no driver runs it."""
    budget: int
    """Number of searched trials wanted."""
    finished: int
    """Number of searched trials that reached the last epoch; then those that were stopped at a rung, failed or were
    interrupted and wait."""
    stopped: int
    failed: int
    interrupted: int
    references: int
    """Number of complete baselines and confirmations, and of failed ones."""
    references_failed: int
    references_wanted: int | None
    """Number of complete ones when this run is over, if none fails; None if no driver tells."""
    running: tuple[RunningTrial, ...]
    ended: tuple[EndedTrial, ...]
    """The last ones, newest first."""
    seconds_left: float | None
    """About how long the run still takes; None without a driver, or before the first epoch."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def status(study: OpenStudy, last: int = LAST) -> Status:
    """The status of a study as its storage has it now.

    Args:
        study: open for reading.
        last: number of ended trials to tell of.

    Raises:
        InputError: the study is half made, or another version of Splitpoint made it.
    """
    space = study.space
    searched, references = (outlines(study.storage, half) for half in (study.search, study.references))
    claim = study.attributes.get("driver")
    driver = _driver(claim)
    told = claim if claim and driver else {}
    states = Counter(one.state for one in searched if one.closed is None)
    ended = [one for one in searched if one.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    records = [_record(study, one) for one in (*searched, *references) if one.state is TrialState.RUNNING]
    running = tuple(_running(record, space.fidelity.milestones) for record in records)
    epochs = epochs_left(
        int(told.get("budget", space.trials)),
        len(ended),
        sum(one.epochs for one in ended),
        space.fidelity.epochs,
        sum(record.stage == "search" for record in records),
        (one.epochs - one.epoch for one in running),
        int(told.get("fixed_epochs", 0)),
    )
    return Status(
        study=study.name,
        driver=driver,
        budget=space.trials,
        finished=states[TrialState.COMPLETE],
        stopped=states[TrialState.PRUNED],
        failed=states[TrialState.FAIL],
        interrupted=_waiting(searched) + _waiting(references),
        references=sum(one.state is TrialState.COMPLETE for one in references),
        references_failed=sum(one.state is TrialState.FAIL and one.closed is None for one in references),
        references_wanted=told.get("references"),
        running=running,
        ended=tuple(_last(study, searched, references, last)),
        seconds_left=_seconds(epochs, running) if driver else None,
    )


def _record(study: OpenStudy, outline: Outline) -> Record:
    with study.readable():
        return record_of(study.storage.get_trial(outline.trial_id))


def _driver(claim: Mapping[str, Any] | None) -> DriverStatus | None:
    """The driver that has the claim, if it lives."""
    if not claim:
        return None
    silent = time.time() - float(claim["beat"])
    if silent > BEAT_LOST_SECONDS or (claim["host"] == platform.node() and not process_lives(int(claim["pid"]))):
        return None
    return DriverStatus(
        claim["host"],
        int(claim["pid"]),
        max(0.0, silent),
        int(claim.get("waiting", 0)),
        tuple(claim.get("hosts", ())),
    )


def _waiting(trials: Sequence[Outline]) -> int:
    """Number of interrupted trials that no other has continued."""
    continued = {one.continues for one in trials}
    return sum(one.closed is not None and one.number not in continued for one in trials)


def _running(record: Record, milestones: Sequence[int]) -> RunningTrial:
    rungs = [rung for rung in milestones if record.stage == "search" and rung < record.config.epochs]
    seconds, epoch = record.metrics.get("seconds"), record.epochs
    return RunningTrial(
        trial=record.name,
        what=what(record.kind, record.config),
        scarce_slices=record.scarce_slices,
        node=record.node,
        since=_moment(record.started),
        epoch=epoch,
        epochs=record.config.epochs,
        rung=max((rung for rung in rungs if rung <= epoch), default=None),
        next_rung=min((rung for rung in rungs if rung > epoch), default=None),
        ssim=record.metrics.get("ssim"),
        epoch_seconds=seconds / epoch if seconds and epoch else None,
        peak_memory_bytes=record.peak_memory_bytes,
        gpu_use=record.gpu_seconds / seconds if seconds and record.gpu_seconds else None,
    )


def _seconds(epochs: float, running: Sequence[RunningTrial]) -> float | None:
    """Time for so many epochs at the pace of the trials that run."""
    known = [one.epoch_seconds for one in running if one.epoch_seconds]
    return epochs * statistics.fmean(known) / len(running) if known else None


def _last(
    study: OpenStudy, searched: Sequence[Outline], references: Sequence[Outline], count: int
) -> Iterator[EndedTrial]:
    """The trials that ended last, newest first."""
    done = [(one, half) for half in (searched, references) for one in half if one.state.is_finished()]
    done.sort(key=lambda one: (one[0].ended or datetime.min, one[0].number), reverse=True)
    for outline, half in done[:count]:
        record = _record(study, outline)
        heir = next((one.number for one in half if one.continues == outline.number), None)
        description = describe(record).removeprefix(f"trial {record.name} ")
        yield EndedTrial(record.name, description, _how(record, heir), _moment(record.ended))


def _how(record: Record, heir: int | None) -> str:
    if record.state is State.COMPLETE:
        return f"done, ssim {record.metrics['ssim']:.4f}"
    if record.state is State.PRUNED:
        diverged = "diverged, " if record.diverged else ""
        return f"{diverged}stopped after epoch {record.epochs}, ssim {record.metrics['ssim']:.4f}"
    if record.closed is not None:
        name = f"{'' if record.stage == 'search' else 'r'}{heir}"
        return record.closed if heir is None else f"{record.closed}, continued as {name}"
    return f"failed: {record.error}"


def _moment(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat(timespec="seconds")


def sentences(found: Status) -> list[str]:
    """The status without its tables, one line each."""
    driver = found.driver
    ended = found.finished + found.stopped
    if driver is not None:
        lines = [
            f"{found.study}: run by process {driver.pid} on {driver.host}, heard of {driver.silent_seconds:.0f} s ago"
        ]
    elif 0 < found.budget <= ended and not found.interrupted and not found.running:
        lines = [f"{found.study}: no driver; its {found.budget} trials are done"]
    else:
        lines = [f"{found.study}: no driver; the same launch command goes on with what is left"]
    open_trials = len(found.running)
    running = f"{open_trials} running" if driver else f"{open_trials} left open by a driver that died"
    parts = [f"{found.finished} finished", f"{found.stopped} stopped", f"{found.failed} failed"]
    parts += [f"{found.interrupted} to be continued"] if found.interrupted else []
    parts += [running] if driver or found.running else []
    wanted = "" if found.references_wanted is None else f"/{found.references_wanted}"
    failed = f", {found.references_failed} failed" if found.references_failed else ""
    searched = f"trials {ended}/{found.budget} ({', '.join(parts)})" if found.budget else ", ".join(parts[3:])
    lines.append("; ".join(filter(None, [searched, f"references {found.references}{wanted}{failed}"])))
    if driver is not None and driver.hosts:
        each = (f"{one['address']} ({one['cpus']:g} CPUs, {one['gpus']:g} GPUs)" for one in driver.hosts)
        lines.append(f"hosts: {', '.join(each)}")
    if driver is not None and driver.waiting:
        lines.append(f"the storage does not answer the driver; {driver.waiting} facts wait in its memory")
    if found.seconds_left is not None:
        end = datetime.fromtimestamp(time.time() + found.seconds_left)
        lines.append(f"expected end: {end:%Y-%m-%d %H:%M}, in about {clock(found.seconds_left)}")
    return lines


def text(found: Status) -> str:
    """The status as a terminal or a log shows it."""
    parts = ["\n".join(sentences(found)) + "\n"]
    if found.running:
        parts.append(plain_table(pd.DataFrame([_line(one) for one in found.running], dtype=object)))
    if found.ended:
        rows = [{"ended": one.when, "trial": one.trial, "what": one.what, "how": one.how} for one in found.ended]
        parts.append(plain_table(pd.DataFrame(rows)))
    return "\n".join(parts)


def _line(one: RunningTrial) -> dict[str, Any]:
    def shown(value: float | None, form: str) -> str | None:
        return None if value is None else format(value, form)

    memory = None if one.peak_memory_bytes is None else one.peak_memory_bytes / 2**20
    return {
        "running": one.trial,
        "what": one.what,
        "N": one.scarce_slices,
        "host": one.node,
        "since": one.since,
        "epoch": f"{one.epoch}/{one.epochs}",
        "rung": one.rung,
        "next": one.next_rung,
        "ssim": shown(one.ssim, ".4f"),
        "s/epoch": shown(one.epoch_seconds, ".1f"),
        "MiB": shown(memory, ".0f"),
        "GPU": shown(one.gpu_use, ".0%"),
    }
