"""A trainer that takes milliseconds and behaves like the real one: it reports each epoch, checkpoints and resumes.

What it does beyond learning is told by files in its data folder, so that a test can steer actors in other processes.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recon.config import TrainConfig
from recon.errors import InputError
from recon.network.layout import Layout
from recon.training.loop import TrainingError

LOG = "log.jsonl"


@dataclass
class FakeReport:
    epoch: int
    metrics: dict[str, float]
    slices: dict[str, dict[str, list[float]]]

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        (directory / "checkpoint.pt").write_text(json.dumps({"epoch": self.epoch}))


def slices_of(metrics: dict[str, float], tasks: tuple[str, ...]) -> dict[str, dict[str, list[float]]]:
    """Values of three slices a task whose mean is the task's."""
    found = {}
    for place, task in enumerate(tasks):
        ssim = metrics[f"ssim/{task}"]
        found[task] = {
            "slice_id": [10 * place, 10 * place + 1, 10 * place + 2],
            "ssim": [ssim - 0.01, ssim, ssim + 0.01],
            "psnr": [30.0, 31.0, 32.0],
            "nrmse": [0.3, 0.2, 0.1],
        }
    return found


def quality(config: TrainConfig, task: str, epoch: int) -> float:
    """The SSIM of a layout: better with more V, better with more slices, rising with epochs."""
    kinds = Layout.parse(config.network.layout).kinds
    base = 0.7 + 0.1 * kinds.count("V") / len(kinds) + 0.02 * (config.weighting.kind == "dwa")
    base += 0.01 * math.log10(1 + config.slices.get(task, 100)) + 0.001 * config.seed
    return base - 0.3 / (1 + epoch)


def train(
    config: TrainConfig,
    data: Path,
    *,
    init: Path | None,
    resume: Path | None,
    device: str,
    report: Callable[[FakeReport], None],
) -> object:
    """Train in pretence; every epoch is a line in the log, whatever becomes of it."""
    steer = json.loads((data / "steer.json").read_text()) if (data / "steer.json").exists() else {}
    mine = steer.get(f"{config.network.layout}/{config.weighting.kind}", steer.get("*", {}))
    start = json.loads((resume / "checkpoint.pt").read_text())["epoch"] if resume else 0
    if init is not None:
        assert (init / "checkpoint.pt").exists()
    for epoch in range(start + 1, config.epochs + 1):
        time.sleep(mine.get("seconds", 0.0))
        note(data, config, epoch, init)
        if epoch == mine.get("hang_at") and (mine.get("always") or times(data, config, epoch) == 1):
            time.sleep(3600)
        if epoch == mine.get("refuse_at"):
            raise InputError("the data do not fit")
        if epoch == mine.get("diverge_at"):
            raise TrainingError(f"the loss of {config.tasks[0]} is nan in epoch {epoch}, step 1")
        if epoch == mine.get("raise_at") and (mine.get("always") or times(data, config, epoch) == 1):
            raise OSError("the disk is gone")
        if epoch in mine.get("raise_once_at", ()) and times(data, config, epoch) == 1:
            raise OSError("the disk is gone")
        if epoch == mine.get("die_at") and (mine.get("always") or times(data, config, epoch) == 1):
            os._exit(1)
        ssim = {f"ssim/{task}": quality(config, task, epoch) for task in config.tasks}
        if epoch == mine.get("nan_at"):
            ssim = dict.fromkeys(ssim, math.nan)
        if epoch not in config.validated_epochs:
            continue
        metrics = {"ssim": sum(ssim.values()) / len(ssim), **ssim, "loss": 1 / epoch, "gpu_seconds": 0.0}
        metrics |= {"seconds": 0.1 * epoch, "parameters": 7.0, "peak_memory_bytes": 11.0}
        metrics |= {f"weight/{task}": 1.0 + 0.1 * place for place, task in enumerate(config.tasks)}
        report(FakeReport(epoch, metrics, slices_of(metrics, config.tasks)))
    return None


def note(data: Path, config: TrainConfig, epoch: int, init: Path | None) -> None:
    line = {
        "layout": config.network.layout,
        "weighting": config.weighting.kind,
        "tasks": list(config.tasks),
        "slices": config.slices,
        "seed": config.seed,
        "epoch": epoch,
        "init": str(init) if init else None,
        "pid": os.getpid(),
    }
    with (data / LOG).open("a") as file:
        file.write(json.dumps(line) + "\n")


def log(data: Path) -> list[dict]:
    path = data / LOG
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def times(data: Path, config: TrainConfig, epoch: int) -> int:
    """How often this configuration has begun this epoch."""
    same = {"layout": config.network.layout, "weighting": config.weighting.kind, "epoch": epoch, "seed": config.seed}
    return sum(all(line[name] == value for name, value in same.items()) for line in log(data))
