"""How a trial begins: what it takes over from an interrupted one, its entry in the study, and the job of its actor."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial

from search.run.agenda import Agenda, Work
from search.run.checkpoints import Checkpoint, checkpoints, newest
from search.run.ledger import Ledger, Live
from search.run.outbox import TOKEN
from search.run.sampling import Parameters, parameters
from search.run.trial import TrialJob
from search.study.names import trial_folder
from search.study.record import Record

TRIALS_FOLDER = "trials"
LOST = ".lost-"
"""Stands in the name of a folder whose trial the study does not have."""


@dataclass(frozen=True)
class Runtime:
    """Settings that all jobs of a run have in common."""

    data: Path
    trainer: str
    device: str
    threads: int


@dataclass(frozen=True)
class Beginning:
    """A trial that the storage is being told of; it starts when the storage has it."""

    work: Work
    trial: FrozenTrial
    made: Future[tuple[int, int]]
    """Its id and number."""
    references: dict[str, dict[int, float]]
    """By task and epoch, the SSIM with which the trial's is compared."""
    resume: Checkpoint | None
    recorded: tuple[int, ...]
    """Epochs that it need not report."""


class Starter:
    """Begins trials.

    Args:
        folder: the folder of the trials' folders.
        agenda: knows the jobs that a trial starts from and is judged by.
        ledger: writes the study.
        roots: for each searched trial, the first of the chain that it continues.
        say: told what the user should hear.
    """

    def __init__(
        self, folder: Path, agenda: Agenda, ledger: Ledger, roots: dict[int, int], say: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self.runtime: Runtime | None = None
        """Set before the first trial starts."""
        self._agenda, self._ledger, self._roots, self._say = agenda, ledger, roots, say
        self._space = agenda.space

    def begin(self, work: Work) -> Beginning:
        """Have the storage make a trial, with what it takes over from the one that it continues."""
        job, predecessor, point = work.job, work.predecessor, work.point
        resume, upto = None, 0
        if predecessor is not None and predecessor.config == job.config:
            resume, upto = self._resumable(predecessor)
        attributes = self._ledger.description(
            key=job.key,
            kind=job.kind,
            stage=job.stage,
            config=job.config,
            weighting=job.weighting,
            scarce_slices=job.scarce_slices,
            continues=predecessor,
            checkpoint=str(resume.path) if resume else None,
            upto=upto,
        )
        values = {} if predecessor is None else predecessor.values
        kept = {epoch: value for epoch, value in values.items() if epoch <= upto}
        references: dict[str, dict[int, float]] = {}
        params: Parameters = {}
        if point is not None:
            references = self._agenda.needs.compared(point, job.config, self._ledger.slices_of(job.config))
            params = parameters(self._space, point)
        trial, made = self._ledger.begin(work.half, attributes, kept, params)
        # Whether the scheduler heard of the last rung that was reached is not known: it is asked again.
        asked_again = max(kept, default=0) if max(kept, default=0) in self._space.fidelity.milestones else None
        recorded = tuple(epoch for epoch in kept if epoch != asked_again)
        return Beginning(work, trial, made, references, resume, recorded)

    def _resumable(self, record: Record) -> tuple[Checkpoint | None, int]:
        """The newest whole checkpoint of an interrupted trial, and the epoch up to which its curve is taken over."""
        own = self.folder / trial_folder(record.stage == "search", record.number)
        found, damage = newest([*checkpoints(own), *_at_or_before(record.checkpoint)])
        epoch = 0 if found is None else found.epoch or record.checkpoint_epoch
        whole = whole_until(record)
        if found is not None and not found.reports and epoch > whole:
            # One of an earlier version, which cannot say what the study lacks.
            found, damage = None, f"epochs {', '.join(map(str, record.holes))} are missing"
        if damage is not None:
            goes_on = "it begins anew" if found is None else f"it goes on from epoch {epoch}"
            self._say(f"trial {record.name} was interrupted, and {damage}: {goes_on}")
        return found, 0 if found is None else min(epoch, whole)

    def started(self, beginning: Beginning, trial_id: int, number: int) -> Live:
        """The running trial, now that the storage has it."""
        work, trial, resume = beginning.work, beginning.trial, beginning.resume
        job, predecessor = work.job, work.predecessor
        trial._trial_id, trial.number = trial_id, number
        root = number
        if job.stage == "search":
            root = self._roots.get(predecessor.number, number) if predecessor else number
            self._roots[number] = root
            self._agenda.mirror.began(trial)
        name = trial_folder(work.half == "search", number)
        if (self.folder / name).exists():
            # A power cut or an older copy of the study can take the record of a trial whose folder stays: the number is
            # given again.
            aside = f"{name}{LOST}{time.strftime('%Y%m%d-%H%M%S')}"
            (self.folder / name).rename(self.folder / aside)
            self._say(f"{self.folder / name} is of a trial that the study does not have; it is {aside} now")
        assert self.runtime is not None
        described = TrialJob(
            name=name,
            stage=job.stage,
            number=number,
            root=root,
            config=job.config,
            data=str(self.runtime.data),
            trainer=self.runtime.trainer,
            init=self._agenda.references[job.needs].checkpoint if job.needs else None,
            folder=str(self.folder / name),
            token=trial.user_attrs[TOKEN],
            resume=str(resume.path) if resume else None,
            recorded=beginning.recorded,
            metric=self._space.objective.metric if job.stage == "search" else "ssim",
            references=beginning.references,
            slices_at=(*self._space.fidelity.milestones, job.config.epochs),
            device=self.runtime.device,
            threads=self.runtime.threads,
        )
        now = time.monotonic()
        epochs = set(trial.intermediate_values)
        value = trial.intermediate_values[max(epochs)] if epochs else None
        live = Live(work.half, described, trial, value=value, began=now, heard=now, epochs=epochs)
        if predecessor is not None:
            live.outlived = {self.folder / trial_folder(work.half == "search", predecessor.number)}
            live.outlived |= {resume.path.parent} if resume else set()
        return live


def _at_or_before(checkpoint: str | None) -> list[Path]:
    """A checkpoint that a record names, and the older ones beside it."""
    if checkpoint is None:
        return []
    path = Path(checkpoint)
    return [path, *(one for one in checkpoints(path.parent) if one.name < path.name)]


def whole_until(record: Record) -> int:
    """The last epoch up to which no validated epoch is missing in a trial's curve."""
    return max((epoch for epoch in record.history if epoch < min(record.holes, default=epoch + 1)), default=0)
