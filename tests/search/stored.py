"""Studies as a storage has them, made trial by trial without a search, each trial with its folder and checkpoint."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from search.run.jobs import FixedJob, multi_task, stl_key
from search.run.launch import agree
from search.study.open import OpenStudy, create_study
from spaces.point import Point
from spaces.space import Space
from tests.search.conftest import facts, space

BEGAN = datetime(2026, 1, 2, 3, 4, 5)
SIZE = 1000
"""Bytes of a checkpoint."""


class Stored:
    """A study that a test fills."""

    def __init__(self, folder: Path, name: str = "one", storage: str | None = None, **changes: Any) -> None:
        known = facts(folder / "data")
        self.space: Space = space(**changes).on(known.slices, str(known.path))
        self.study: OpenStudy = create_study(name, storage, folder / "runs")
        self.slices = known.slices
        agree(self.study, self.space, known)

    @property
    def trials(self) -> Path:
        return self.study.folder / "trials"

    def searched(self, layout: str, state: TrialState, epochs: int, weighting: str = "naive", **more: Any) -> int:
        """Add a searched trial that recorded so many epochs."""
        point = Point(layout, weighting, self.space.scarce_counts[0], (), self.space.start.init)
        job = multi_task(self.space, point, self.space.seed, "search")
        return self._add(self.study.search, job, "search", state, epochs, **more)

    def confirmed(self, layout: str, seed: int, state: TrialState = TrialState.COMPLETE, **more: Any) -> int:
        """Add a confirmation."""
        point = Point(layout, "naive", self.space.scarce_counts[0], (), self.space.start.init)
        job = multi_task(self.space, point, seed, "confirm")
        return self._add(self.study.references, job, "confirm", state, job.config.epochs, **more)

    def stl(self, task: str, state: TrialState = TrialState.COMPLETE, epochs: int = 6, **more: Any) -> int:
        """Add an STL."""
        count = self.space.scarce_counts[0] if task == self.space.scarce.task else None
        config = self.space.reference_config("stl", task, count, 0, 1, ())
        job = FixedJob(stl_key(self.space, task, count, 0), "stl", "baseline", config, count, None)
        return self._add(self.study.references, job, "baseline", state, epochs, **more)

    def _add(
        self,
        half: optuna.Study,
        job: FixedJob,
        stage: str,
        state: TrialState,
        epochs: int,
        *,
        ssim: float = 0.8,
        minutes: float = 0,
        checkpoint: bool | Path = True,
        **attributes: Any,
    ) -> int:
        number = len(half.get_trials(deepcopy=False))
        name = f"{'search' if stage == 'search' else 'reference'}-{number:04d}"
        given: dict[str, Any] = {
            "key": job.key,
            "kind": job.kind,
            "stage": stage,
            "layout": job.config.network.layout,
            "weighting": job.weighting,
            "scarce_slices": job.scarce_slices,
            "slices": {task: job.config.slices.get(task, self.slices[task]) for task in job.config.tasks},
            "seed": job.config.seed,
            "data_hash": "abc",
            "code_version": "1.0",
            "config": job.config.model_dump(mode="json"),
        }
        for epoch in range(1, epochs + 1):
            metrics = {"ssim": ssim, **{f"ssim/{task}": ssim for task in job.config.tasks}, "loss": 1 / epoch}
            metrics |= {"seconds": 2.0 * epoch, "gpu_seconds": 0.5 * epoch, "peak_memory_bytes": 3.0 * 2**20}
            given[f"epoch/{epoch}"] = metrics
        if isinstance(checkpoint, Path):
            given["checkpoint"] = str(checkpoint)
        elif checkpoint and epochs:
            given["checkpoint"] = str(self.checkpoint(name, epochs))
        trial = optuna.trial.create_trial(
            state=state,
            value=ssim if state is TrialState.COMPLETE else None,
            intermediate_values=dict.fromkeys(range(1, epochs + 1), ssim),
            user_attrs={**given, **attributes},
        )
        trial.datetime_start = BEGAN
        trial.datetime_complete = BEGAN + timedelta(minutes=minutes or number + 1) if state.is_finished() else None
        half.add_trial(trial)
        return number

    def checkpoint(self, name: str, epoch: int) -> Path:
        """A checkpoint's folder, with what a training writes there."""
        folder = self.trials / name / f"epoch-{epoch:05d}"
        folder.mkdir(parents=True)
        (folder / "checkpoint.pt").write_bytes(bytes(SIZE))
        (folder / "config.json").write_text("{}")
        return folder
