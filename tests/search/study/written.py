"""Studies whose trials are written as a search writes them, without training anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from recon.config import TrainConfig
from search.run.launch import agree
from search.study.open import OpenStudy, create_study
from spaces.point import Point
from spaces.space import Space
from tests.search.conftest import facts, space

TASKS = ("PDw", "PDw-FS")


def made(folder: Path, storage: str | None = None, name: str = "one", **changes: Any) -> OpenStudy:
    """A study that a launch has described."""
    study = create_study(name, storage, folder / "runs")
    agree(study, searched(**changes), facts(folder / "data"))
    return study


def searched(**changes: Any) -> Space:
    return space(**changes).on({"PDw": 40, "PDw-FS": 30})


def metrics(ssim: float, tasks: Iterable[str] = TASKS, **more: float) -> dict[str, float]:
    """An epoch's metrics, each task a little apart."""
    found = {f"ssim/{task}": ssim + 0.01 * place for place, task in enumerate(tasks)}
    found |= {"ssim": sum(found.values()) / len(found), "loss": 1 - ssim, "seconds": 1.0, "gpu_seconds": 0.5}
    return found | {"parameters": 7.0, "peak_memory_bytes": 11.0} | more


def add(
    half: optuna.Study,
    config: TrainConfig,
    history: Mapping[int, Mapping[str, float]],
    state: TrialState = TrialState.COMPLETE,
    values: Mapping[int, float] | None = None,
    value: float | None = None,
    **attributes: Any,
) -> None:
    """Add a trial with its facts; ``values`` are Optuna's copies of the objective, each epoch's SSIM without them."""
    copies = {epoch: one["ssim"] for epoch, one in history.items()} if values is None else dict(values)
    if value is None and copies:
        value = copies[max(copies)]
    about = {
        "kind": "mtl",
        "stage": "search",
        "layout": config.network.layout,
        "weighting": config.weighting.kind,
        "scarce_slices": 12,
        "slices": {task: config.slices.get(task, 40) for task in config.tasks},
        "seed": config.seed,
        "data_hash": "abc",
        "code_version": "0",
        **attributes,
        **{f"epoch/{epoch}": dict(one) for epoch, one in history.items()},
        "config": config.model_dump(mode="json"),
    }
    trial = optuna.trial.create_trial(
        state=state,
        value=value if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        user_attrs=about,
        intermediate_values=copies,
    )
    half.add_trial(trial)


def multi_task(half: optuna.Study, history: Mapping[int, Mapping[str, float]], epochs: int = 4, **more: Any) -> None:
    """A multi-task trial of a fixed point, with seed ``more['seed']``."""
    point = Point("I2V2", "naive", 12)
    config = searched(fidelity={"epochs": epochs, "rungs": []}).train_config(point)
    key = more.pop("key", f"mtl/{point.key}/seed={config.seed}")
    add(half, config, history, key=key, **more)


def stl(half: optuna.Study, task: str, history: Mapping[int, Mapping[str, float]], seed: int = 0, **more: Any) -> None:
    """An STL of a task, of four epochs."""
    whole = searched(fidelity={"epochs": 4, "rungs": []}).train_config(Point("I4", "naive", 12))
    config = whole.model_copy(update={"tasks": (task,), "seed": seed, "slices": {task: 12}})
    about = {"kind": "stl", "stage": "baseline", "weighting": None, "key": f"stl/{task}/n=12/seed={seed}", "seed": seed}
    add(half, config, history, **{**about, **more})
