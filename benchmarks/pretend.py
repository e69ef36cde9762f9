"""A trainer that takes no time, so that what remains is what a search costs beside its trainings.

Its log, one JSON line per event, lies in the data's folder: when and at what CPU time a worker was ready, a trial
began, an epoch was reported (if ``each_epoch``) and a trial ended, with the worker's process and resident memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recon.config import TrainConfig

LOG = "log.jsonl"
SETTINGS = "pretend.json"
SLICES = 24
"""Validation slices of a task, as the quickstart has."""
_started = False


@dataclass(frozen=True)
class Settings:
    """What the trainer does; the driver writes it into the data's folder, and workers read it there."""

    checkpoint_bytes: int = 1_000_000
    """About what the quickstart's network has."""
    learns: bool = False
    """Whether the SSIM depends on the layout and rises with the epochs, so that rungs stop trials; else it is .5."""
    each_epoch: bool = True
    """Whether the log has a line for every epoch."""

    def write(self, data: Path) -> None:
        """Store the settings in the data's folder."""
        (data / SETTINGS).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, data: Path) -> Settings:
        """The settings in the data's folder, or the defaults."""
        file = data / SETTINGS
        return cls(**json.loads(file.read_text())) if file.exists() else cls()


@dataclass
class Epoch:
    """Stands for the trainer's report."""

    epoch: int
    metrics: dict[str, float]
    slices: dict[str, dict[str, list[float]]]
    checkpoint_bytes: int

    def save(self, directory: Path) -> None:
        """Write a checkpoint of so many bytes."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "checkpoint.pt").write_bytes(bytes(self.checkpoint_bytes))


def ready() -> None:
    """What a worker does before its first step."""
    import torch

    from recon.network.unrolled import UnrolledNetwork
    from recon.training.loop import make_schedule
    from recon.training.optimiser import make_optimiser
    from recon.training.weighting import make_weighting

    config = TrainConfig.model_validate(
        {"tasks": ("a", "b"), "network": {"layout": "IV", "channels": 2, "pools": 1}, "clip_norm": 1}
    )
    network = UnrolledNetwork(config.network, config.tasks)
    optimiser = make_optimiser(config, network, make_weighting(config.weighting, config.tasks, {"a": 1, "b": 1}))
    schedule = make_schedule(config, optimiser, 2)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.nn.utils.clip_grad_norm_(list(network.parameters()), 1.0)
    optimiser.step()
    schedule.step()


def train(
    config: TrainConfig,
    data: Path,
    *,
    init: Path | None,
    resume: Path | None,
    device: str,
    report: Callable[[Epoch], None],
) -> None:
    """Report every epoch at once, and log when and at what CPU time."""
    global _started
    if not _started:
        ready()
        _started = True
        _note(data, "ready")
    settings = Settings.read(data)
    _note(data, "begin")
    reached = 0
    try:
        for epoch in range(1, config.epochs + 1):
            if settings.each_epoch:
                _note(data, "epoch")
            reached = epoch
            report(_epoch(config, epoch, settings))
    finally:  # a trial that the search stops ends in its last report
        _note(data, "end", epochs=reached)


def _epoch(config: TrainConfig, epoch: int, settings: Settings) -> Epoch:
    ssim = 0.5
    if settings.learns:
        layout = int(hashlib.sha256(str(config.network.layout).encode()).hexdigest()[:8], 16) / 2**32
        ssim = 0.7 + 0.1 * layout - 0.2 / (1 + epoch)
    metrics = {
        f"{name}/{task}": ssim if name == "ssim" else 0.5
        for task in config.tasks
        for name in ("ssim", "psnr", "nrmse", "loss")
    }
    metrics |= {f"zero_filled/{task}": 0.3 for task in config.tasks}
    metrics |= {"ssim": ssim, "loss": 0.1, "seconds": 1.0, "gpu_seconds": 0.0, "parameters": 1e5}
    slices = {task: {name: [0.5] * SLICES for name in ("ssim", "psnr", "nrmse")} for task in config.tasks}
    return Epoch(epoch, {**metrics, "peak_memory_bytes": 1e8}, slices, settings.checkpoint_bytes)


def train_and_note(
    config: TrainConfig,
    data: Path,
    *,
    init: Path | None,
    resume: Path | None,
    device: str,
    report: Callable[[Any], None],
) -> object:
    """The real trainer, with the same log."""
    from search.run.trial import train_on_prepared

    _note(data, "begin")
    try:
        return train_on_prepared(config, data, init=init, resume=resume, device=device, report=report)
    finally:
        _note(data, "end", epochs=config.epochs)


def read_log(data: Path) -> list[dict[str, Any]]:
    """The log's lines: ``what, pid, wall, cpu, resident_mb``, and ``epochs`` where a trial ended."""
    return [json.loads(line) for line in (data / LOG).read_text().splitlines()]


def _note(data: Path, what: str, **more: int) -> None:
    line = {"what": what, "pid": os.getpid(), "wall": time.time(), "cpu": time.process_time(), **more}
    if what == "end":
        line["resident_mb"] = resident_mb("self")
    with (data / LOG).open("a") as file:
        file.write(json.dumps(line) + "\n")


def resident_mb(process: int | str, peak: bool = False) -> float:
    """A process's resident memory, now or at most, in MB (Linux only)."""
    field = "VmHWM:" if peak else "VmRSS:"
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field):
            return round(int(line.split()[1]) / 1024, 1)
    raise ValueError(f"process {process} says nothing of {field}")
