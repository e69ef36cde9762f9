"""Training one network, exactly resumable: the paper's section 2.4 as one plain loop.

The loop knows neither trials nor studies; whoever wants to follow or stop it passes ``report``. Which slices and masks
a pass sees is a function of (seed, pass, slice) alone, and nothing in the loop draws from torch's generator once the
weights are there, so a checkpoint needs no state of either: weights, optimiser, schedule and weighting are all of it.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recon.config import TrainConfig
from recon.data.loading import Batch, Loader
from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.evaluation import SliceMetrics, validate
from recon.files import replace_directory
from recon.operators import centre_crop
from recon.optimiser import make_optimiser
from recon.stored import load_weights, read_json, train_config
from recon.unrolled import UnrolledNetwork
from recon.weighting import Weighting, make_weighting

CHECKPOINT = "checkpoint.pt"
CONFIG = "config.json"
STATE = {"epoch", "seconds", "gpu_seconds", "network", "weighting", "optimiser", "schedule"}
"""What a checkpoint holds."""


class TrainingError(RuntimeError):
    """A training that cannot go on, such as one whose loss is no longer finite; names the epoch and the step."""


@dataclass
class EpochReport:
    """What is known after an epoch whose network was validated.

    Attributes:
        epoch: epochs finished, from 1.
        metrics: ``ssim`` (mean over tasks), ``ssim/<task>``, ``psnr/<task>``, ``nrmse/<task>`` on the validation split
            (definition ``paper``); ``loss``, ``loss/<task>``, ``weight/<task>`` of training; ``seconds`` (since the
            training began, over all its resumptions), ``gpu_seconds``, ``peak_memory_bytes``, ``parameters``.
        slices: SSIM, pSNR and nRMSE of each validation slice.
    """

    epoch: int
    metrics: dict[str, float]
    slices: SliceMetrics
    _state: Callable[[], dict[str, Any]] = field(repr=False)
    _config: TrainConfig = field(repr=False)

    def save(self, directory: Path) -> None:
        """Write a checkpoint that ``train(resume=directory)`` continues exactly; it appears whole or not at all."""
        save_checkpoint(directory, self._state(), self._config)


def save_checkpoint(directory: Path, state: dict[str, Any], config: TrainConfig) -> None:
    """Write ``checkpoint.pt`` (tensors and plain values only) and ``config.json``; the directory is replaced whole."""
    with replace_directory(directory) as fresh:
        torch.save(state, fresh / CHECKPOINT)
        (fresh / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")


def load_checkpoint(directory: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Any], TrainConfig]:
    """Read a checkpoint directory; nothing in it is unpickled (``weights_only``).

    Raises InputError where there is none, or a damaged one.
    """
    directory = Path(directory)
    for name in (CHECKPOINT, CONFIG):
        if not (directory / name).is_file():
            raise InputError(f"{directory} holds no checkpoint: {name} is missing")
    config = train_config(read_json(directory / CONFIG), directory / CONFIG)
    damaged = f"{directory / CHECKPOINT} is damaged or no checkpoint of ours"
    if not zipfile.is_zipfile(directory / CHECKPOINT):  # torch would take it for one of its oldest format
        raise InputError(damaged)
    try:
        state: dict[str, Any] = torch.load(directory / CHECKPOINT, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        # torch's own message would have the user load it without weights_only.
        raise InputError(damaged) from error
    if not isinstance(state, dict) or not set(state) >= STATE:
        raise InputError(f"{directory / CHECKPOINT} is no checkpoint of ours: it lacks {', '.join(sorted(STATE))}")
    return state, config


def load_network(directory: Path, device: torch.device | str = "cpu") -> tuple[UnrolledNetwork, TrainConfig]:
    """The network of a checkpoint, in evaluation mode."""
    state, config = load_checkpoint(directory, device)
    network = UnrolledNetwork(config.network, config.tasks).to(device)
    load_weights(network, state["network"], Path(directory) / CHECKPOINT)
    return network.eval(), config


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` is the first CUDA device where there is one, else the processor.

    Raises InputError for a device that is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or not (number.isdecimal() or number == name[len(kind) :]):
        raise InputError(f"device {name!r} is not known; give auto, cpu, cuda, or one of several GPUs as cuda:1")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r} is not here; PyTorch sees {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)


def complex_l1(prediction: Tensor, target: Tensor, crop: tuple[int, int]) -> Tensor:
    """Mean absolute error of real and imaginary parts over the centre crop (the loss of the paper's public code).

    Args:
        prediction: (batch, rows, columns), complex.
        target: the same shape.
        crop: rows and columns of the centre region that counts.
    """
    difference = centre_crop(prediction, crop) - centre_crop(target, crop)
    return torch.view_as_real(difference).abs().mean()


def train(
    config: TrainConfig,
    data: PreparedData,
    *,
    init: Path | None = None,
    resume: Path | None = None,
    device: str = "auto",
    workers: int = 0,
    report: Callable[[EpochReport], None] | None = None,
) -> UnrolledNetwork:
    """Train one network and return it in evaluation mode.

    Args:
        config: the training, whole; with the data and ``init`` it determines the result on one kind of device.
        data: prepared data that hold every task of ``config.tasks``.
        init: a checkpoint whose weights this training starts from (transfer learning, all layers are fine-tuned); tasks
            that the checkpoint lacks start from its only task's weights.
        resume: a checkpoint of this same training; the result is bit for bit that of one that was not interrupted.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``…
        workers: threads that read and mask batches ahead of the training.
        report: called with an EpochReport after each of ``config.validated_epochs``. What it raises ends the training.

    Raises:
        TrainingError: the loss is not finite.
        InputError: data and configuration do not fit together, or ``resume`` is another training's checkpoint.
    """
    where = choose_device(device)
    loader = Loader(data, config, workers=workers, device=where)
    with seeded(config.seed):
        network = UnrolledNetwork(config.network, config.tasks).to(where)
    weighting = make_weighting(config.weighting, config.tasks, loader.slice_counts).to(where)
    if init is not None and resume is None:
        start_from(network, init)
    parameters = list(network.parameters())
    optimiser = make_optimiser(config, network, weighting)
    schedule = make_schedule(config, optimiser, loader.steps_per_epoch)
    finished, seconds_before, gpu_before = 0, 0.0, 0.0
    if resume is not None:
        state, trained = load_checkpoint(resume, where)
        if trained != config:
            raise InputError(f"{resume} is the checkpoint of another training: {_first_difference(trained, config)}")
        network.load_state_dict(state["network"])
        weighting.load_state_dict(state["weighting"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        finished, seconds_before, gpu_before = state["epoch"], state["seconds"], state["gpu_seconds"]

    began = time.perf_counter()
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    for epoch in range(finished + 1, config.epochs + 1):
        network.train()
        losses = EpochMeans(config.tasks)
        for batch in loader.training_batches(epoch):
            prediction = network(batch, batch.task)
            loss = complex_l1(prediction, batch.target, batch.crop)
            losses.add(batch.task, loss.detach(), len(batch.slice_ids))
            # Reading a loss makes the processor wait for a GPU, so there it is looked at when the epoch is over.
            if where.type == "cpu":
                losses.check(epoch)
            weighted = weighted_loss(weighting, config.tasks, epoch, batch, loss)
            optimiser.zero_grad(set_to_none=True)
            weighted.backward()
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            optimiser.step()
            schedule.step()
        losses.check(epoch)
        weights = weighting.weights(epoch, losses.tensor(where)).detach()
        weighting.end_epoch(losses.means())
        if epoch not in config.validated_epochs:
            continue

        metrics, slices = validate(network, loader.validation_batches())
        seconds = seconds_before + time.perf_counter() - began
        metrics |= {f"loss/{task}": value for task, value in losses.means().items()}
        metrics["loss"] = sum(losses.means().values()) / len(config.tasks)
        metrics |= {f"weight/{task}": float(weight) for task, weight in zip(config.tasks, weights, strict=True)}
        metrics["seconds"] = seconds
        metrics["gpu_seconds"] = gpu_before + (seconds - seconds_before if where.type == "cuda" else 0.0)
        metrics["peak_memory_bytes"] = float(peak_memory(where))
        metrics["parameters"] = float(sum(p.numel() for p in network.parameters()))
        if report is not None:
            state_now = {
                "epoch": epoch,
                "seconds": metrics["seconds"],
                "gpu_seconds": metrics["gpu_seconds"],
                "network": network.state_dict(),
                "weighting": weighting.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
            }
            report(EpochReport(epoch, metrics, slices, lambda state=state_now: state, config))  # type: ignore[misc]
    return network.eval()


def weighted_loss(weighting: Weighting, tasks: tuple[str, ...], epoch: int, batch: Batch, loss: Tensor) -> Tensor:
    """The batch's share of the weighted sum: its task's weight times its loss, and the weighting's own penalty.

    A batch holds one task, so the other tasks' losses do not enter this step.
    """
    index = tasks.index(batch.task)
    losses = loss.new_zeros(len(tasks))
    losses[index] = loss.detach()
    return weighting.weights(epoch, losses)[index] * loss + weighting.penalty()[index]


class EpochMeans:
    """An epoch's training losses, and their mean for each task, weighted by slices."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        self._tasks = tasks
        self._steps: list[tuple[str, Tensor, int]] = []
        self._checked = 0

    def add(self, task: str, loss: Tensor, slices: int) -> None:
        """Count a batch's mean loss over that many slices; the tensor is not read before somebody asks."""
        self._steps.append((task, loss, slices))

    def check(self, epoch: int) -> None:
        """Raise TrainingError for the first loss that is not finite, among those that were not checked yet."""
        for step, (task, loss, _) in enumerate(self._steps[self._checked :], start=self._checked + 1):
            if not torch.isfinite(loss):
                raise TrainingError(f"the loss of {task} is {loss.item()} in epoch {epoch}, step {step}")
        self._checked = len(self._steps)

    def means(self) -> dict[str, float]:
        """The mean loss of each task so far."""
        found = {}
        for task in self._tasks:
            mine = [(loss.item(), slices) for name, loss, slices in self._steps if name == task]
            found[task] = sum(loss * slices for loss, slices in mine) / sum(slices for _, slices in mine)
        return found

    def tensor(self, device: torch.device) -> Tensor:
        """The same as a vector in the tasks' order."""
        return torch.tensor(list(self.means().values()), device=device)


def make_schedule(
    config: TrainConfig, optimiser: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate's course over all steps of the training; it knows the last epoch from the start."""
    steps = config.epochs * steps_per_epoch
    if config.schedule == "one-cycle":
        peaks = [group["lr"] for group in optimiser.param_groups]
        return torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=peaks, total_steps=steps + 1)
    if config.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
    return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)


def start_from(network: UnrolledNetwork, checkpoint: Path) -> None:
    """Copy the weights of a trained network into every task's path of this one (transfer learning).

    The checkpoint has the same blocks, data consistency, SENSE start and U-Net; where it was trained for one task only,
    that task's path initialises all of ours.

    Raises InputError where the two do not fit, or where a block that is private in the checkpoint is shared here: which
    task's weights it would take, nothing says.
    """
    source, _ = load_network(checkpoint)
    known = [task for task in network.tasks if task in source.tasks]
    for number, (theirs, ours) in enumerate(zip(source.layout.kinds, network.layout.kinds, strict=False), start=1):
        if len(known) > 1 and "IYV".index(theirs) > "IYV".index(ours):
            raise InputError(
                f"{checkpoint} has layout {source.layout}: its block {number} holds weights of each task's own, which "
                f"layout {network.layout} shares; start from a layout whose blocks are shared there"
            )
    for task in network.tasks:
        if task in source.tasks:
            path = source.for_task(task)
        elif len(source.tasks) == 1:
            path = source.for_task(source.tasks[0])
        else:
            raise InputError(
                f"{checkpoint} was trained for {', '.join(source.tasks)}, which does not say what {task} starts from"
            )
        network.load_task(task, path)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block and leave it as it was found."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def peak_memory(device: torch.device) -> int:
    """Bytes: the device's peak allocation on a GPU, the process's peak resident set on a processor."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux, bytes on macOS


def _first_difference(theirs: TrainConfig, ours: TrainConfig) -> str:
    a, b = theirs.model_dump(), ours.model_dump()
    name = next(key for key in a if a[key] != b[key])
    return f"{name} is {json.dumps(a[name])} in it, where {json.dumps(b[name])} is asked for"
