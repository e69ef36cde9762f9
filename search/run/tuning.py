"""One run of Ray Tune over a study: trainable, searcher, scheduler and callbacks."""

from __future__ import annotations

import shutil
import time
from functools import partial
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from search.run.cluster import Resources, fit, places
from search.run.driver import Driver
from search.run.facts import DataFacts
from search.run.progress import Display
from search.run.schedule import Rungs, SuccessiveHalving
from search.run.searcher import Runtime, StudySearch
from search.run.trial import EPOCH, ERROR, OBJECTIVE, Trainer, run_trial, trainer_path
from search.study.open import OpenStudy
from spaces.space import Space

TRIALS_FOLDER = "trials"
LOOK_SECONDS = 10.0
"""How often a run checks whether hosts have joined or left."""


def run_tune(
    search: StudySearch,
    space: Space,
    facts: DataFacts,
    watch: Watch,
    study: OpenStudy,
    resources: Resources,
    trainer: Trainer,
) -> None:
    """Run the searcher's jobs until none is left."""
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
        callbacks=[watch],
        trial_name_creator=_trial_name,
        trial_dirname_creator=_trial_name,
        verbose=0,
    )


def _trial_name(trial: Trial) -> str:
    return str(trial.config["name"])


class Watch(tune.Callback):
    """Pass on to the searcher what Tune tells only callbacks, keep the driver's claim alive, and update the display.

    Without a limit, the number of parallel trials follows the cluster's size.
    """

    def __init__(self, search: StudySearch, driver: Driver, display: Display, resources: Resources) -> None:
        self._search, self._driver, self._display, self._resources = search, driver, display, resources
        self._looked = time.monotonic()
        self._newest: dict[str, str] = {}
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
        """Write the new checkpoint's path, then delete the trial's previous checkpoint.

        Were Tune told to keep one (``num_to_keep``), it would write its whole state after every checkpoint.
        """
        self._search.note_checkpoint(trial.trial_id, checkpoint.path)
        old = self._newest.get(trial.trial_id)
        self._newest[trial.trial_id] = checkpoint.path
        if old not in (None, checkpoint.path):
            shutil.rmtree(str(old), ignore_errors=True)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """After every event."""
        if self._search.live:
            self._search.reconcile(trial.trial_id for trial in trials if trial.is_finished())
        if self._resources.max_concurrent is None and time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self._search.set_max_concurrency(max(1, places(self._resources)))
        self._driver.beat()
        self._display.refresh(self._search)
