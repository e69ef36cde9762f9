"""Training one network, exactly resumable: the paper's section 2.4 as one plain loop.

The loop knows neither trials nor studies; a caller that wants to follow or stop it passes ``report``. The slices and
masks of a pass depend on (seed, pass, slice) alone. Once the weights are drawn, nothing in the loop uses torch's
generator. So a checkpoint needs no generator state: it holds weights, optimiser, schedule and weighting.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recon.config import TrainConfig
from recon.data.loading import Loader
from recon.data.prepared import PreparedData
from recon.device import choose_device, peak_memory
from recon.errors import DamagedError
from recon.evaluation.definitions import Quantity
from recon.evaluation.measure import SliceMetrics, validate, validate_zero_filled
from recon.files import remove_parts
from recon.network.unrolled import UnrolledNetwork
from recon.physics.operators import centre_crop
from recon.training.checkpoint import (
    CHECKPOINT,
    CURVE,
    UNFINISHED,
    Curve,
    read_curve,
    resumed,
    save_checkpoint,
    start_from,
    write_curve,
)
from recon.training.optimiser import make_optimiser
from recon.training.weighting import make_weighting


class TrainingError(RuntimeError):
    """A training cannot go on, for example because its loss is no longer finite; names the epoch and the step."""


@dataclass(frozen=True)
class Plan:
    """What a training is about to do.

    Attributes:
        device: the device that it runs on.
        parameters: number of parameters of the network.
        steps_per_epoch: number of batches per epoch.
        finished: number of epochs that an earlier run finished.
        epochs: number of epochs in all.
        slices: number of training slices of each task.
    """

    device: str
    parameters: int
    steps_per_epoch: int
    finished: int
    epochs: int
    slices: Mapping[str, int]

    @property
    def steps(self) -> int:
        """Number of steps in all, including those of earlier runs."""
        return self.epochs * self.steps_per_epoch


@dataclass
class EpochReport:
    """The results of an epoch after which the network was validated.

    Attributes:
        epoch: number of finished epochs, from 1.
        metrics: ``ssim`` (mean over tasks), ``ssim/<task>``, ``psnr/<task>``, ``nrmse/<task>`` on the validation split
            (definition ``paper``); ``zero_filled/<task>``, the SSIM of its zero-filled images; ``loss``,
            ``loss/<task>``, ``weight/<task>`` of training (the mean weight over the epoch's steps); ``seconds`` (since
            the training began, over all its resumptions), ``gpu_seconds``, ``peak_memory_bytes``, ``parameters``.
        slices: SSIM, pSNR and nRMSE of each validation slice.
    """

    epoch: int
    metrics: dict[str, float]
    slices: SliceMetrics
    _state: Callable[[], dict[str, Any]] = field(repr=False)
    _config: TrainConfig = field(repr=False)

    def save(self, directory: Path) -> None:
        """Write a checkpoint that ``train(resume=directory)`` continues exactly; it appears whole or not at all.

        The folder is made if need be; a checkpoint in it is replaced. The last epoch's checkpoint holds the network,
        and nothing that only a further epoch would need.
        """
        state = self._state()
        if self.epoch >= self._config.epochs:
            state = {name: value for name, value in state.items() if name not in UNFINISHED}
        save_checkpoint(directory, state, self._config)


def complex_l1(prediction: Tensor, target: Tensor, crop: tuple[int, int]) -> Tensor:
    """Mean absolute error of real and imaginary parts over the centre crop (the loss of the paper's public code).

    The errors of several sets of maps are added up, so that a set without signal changes nothing.

    Args:
        prediction: (batch, rows, columns) or (batch, sets, rows, columns), complex.
        target: the same shape.
        crop: rows and columns of the centre region that counts.
    """
    difference = centre_crop(prediction, crop) - centre_crop(target, crop)
    errors = torch.view_as_real(difference).abs()
    return errors.mean() if errors.ndim == 4 else errors.sum(dim=1).mean()


def train(
    config: TrainConfig,
    data: PreparedData,
    *,
    init: Path | None = None,
    resume: Path | None = None,
    out: Path | None = None,
    device: str = "auto",
    workers: int = 0,
    report: Callable[[EpochReport], None] | None = None,
    started: Callable[[Plan], None] | None = None,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], object] = warnings.warn,
) -> UnrolledNetwork:
    """Train one network and return it in evaluation mode.

    Args:
        config: the whole training; with the data and ``init`` it determines the result on one kind of device.
        data: prepared data with every task of ``config.tasks``.
        init: a checkpoint whose weights this training starts from (transfer learning; all layers are fine-tuned). Tasks
            that the checkpoint lacks start from the weights of its only task.
        resume: a checkpoint of this same training. The result equals that of an uninterrupted training bit for bit. For
            a finished training, its network is returned at once.
        out: the folder where ``checkpoint`` and ``curve.csv`` are written after each report. A training that is found
            there is continued; it may have been killed at any point. If its checkpoint is damaged, the training begins
            anew.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``…
        workers: threads that read and mask batches ahead of the training.
        report: called with an EpochReport after each of ``config.validated_epochs``. An exception that it raises ends
            the training.
        started: called once, before the first step; not called if nothing is left to train.
        progress: called after each step with the number of steps done, including those of earlier runs.
        warn: called with a sentence if the checkpoint in ``out`` is damaged.

    Raises:
        TrainingError: the loss is not finite.
        DamagedError: ``resume`` is damaged.
        InputError: data and configuration do not fit together, or ``resume`` is another training's checkpoint.
    """
    where = choose_device(device)
    checkpoint = None if out is None else Path(out) / "checkpoint"
    state = None
    if resume is not None:
        state = resumed(resume, config, where)
    elif checkpoint is not None:
        state = _found(checkpoint, config, where, warn)
    curve: Curve = [] if state is None else state.get("curve", [])
    if checkpoint is not None and state is not None:
        curve = curve or read_curve(checkpoint.with_name(CURVE), state["epoch"])
        write_curve(checkpoint.with_name(CURVE), curve)
    if state is not None and state["epoch"] >= config.epochs:
        network = UnrolledNetwork(config.network, config.tasks).to(where)
        network.load_state_dict(state["network"])
        return network.eval()
    loader = Loader(data, config, workers=workers, device=where)
    with seeded(config.seed):
        network = UnrolledNetwork(config.network, config.tasks).to(where)
    network.train_as(precision=config.precision, compile=config.compile, memory_saver=config.memory_saver)
    weighting = make_weighting(config.weighting, config.tasks, loader.slice_counts).to(where)
    if init is not None and state is None:
        start_from(network, init)
    parameters = list(network.parameters())
    optimiser = make_optimiser(config, network, weighting)
    schedule = make_schedule(config, optimiser, loader.steps_per_epoch)
    finished, seconds_before, gpu_before = 0, 0.0, 0.0
    if state is not None:
        network.load_state_dict(state["network"])
        weighting.load_state_dict(state["weighting"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        finished, seconds_before, gpu_before = state["epoch"], state["seconds"], state["gpu_seconds"]

    if started is not None:
        count = sum(parameter.numel() for parameter in parameters)
        started(Plan(str(where), count, loader.steps_per_epoch, finished, config.epochs, loader.slice_counts))
    steps = finished * loader.steps_per_epoch
    began = time.perf_counter()
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    for epoch in range(finished + 1, config.epochs + 1):
        network.train()
        losses = EpochMeans(config.tasks)
        for batch in loader.training_batches(epoch):
            prediction = network(batch.operator(), batch.kspace, batch.task)
            loss = complex_l1(prediction, batch.target, batch.crop)
            index, weight = config.tasks.index(batch.task), weighting.weights()
            losses.add(batch.task, loss.detach(), len(batch.slice_ids), weight[index])
            # Reading a loss makes the CPU wait for the GPU, so on a GPU it is checked at the end of the epoch.
            if where.type == "cpu":
                losses.check(epoch)
            weighting.note(index, loss.detach(), len(batch.slice_ids))
            optimiser.zero_grad(set_to_none=True)
            # A batch holds one task, so the other tasks' losses do not enter this step.
            (weight[index] * loss + weighting.penalty(index, loss.detach())).backward()
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            optimiser.step()
            schedule.step()
            steps += 1
            if progress is not None:
                progress(steps)
        losses.check(epoch)
        weighting.end_epoch(losses.means())
        if epoch not in config.validated_epochs:
            continue

        metrics, slices = validate(network, loader.validation_batches())
        metrics |= zero_filled(loader, data, config, where)
        seconds = seconds_before + time.perf_counter() - began
        metrics |= {Quantity.LOSS.of(task): value for task, value in losses.means().items()}
        metrics[Quantity.LOSS.value] = sum(losses.means().values()) / len(config.tasks)
        metrics |= {Quantity.WEIGHT.of(task): value for task, value in losses.weights().items()}
        metrics["seconds"] = seconds
        metrics["gpu_seconds"] = gpu_before + (seconds - seconds_before if where.type == "cuda" else 0.0)
        metrics["peak_memory_bytes"] = float(peak_memory(where))
        metrics["parameters"] = float(sum(p.numel() for p in network.parameters()))
        curve = [*curve, {"epoch": epoch, **metrics}]
        if report is not None or checkpoint is not None:
            state_now = {
                "epoch": epoch,
                "seconds": metrics["seconds"],
                "gpu_seconds": metrics["gpu_seconds"],
                "network": network.state_dict(),
                "weighting": weighting.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "curve": curve,
            }
            done = EpochReport(epoch, metrics, slices, lambda state=state_now: state, config)  # type: ignore[misc]
            if checkpoint is not None:
                done.save(checkpoint)
                write_curve(checkpoint.with_name(CURVE), curve)
            if report is not None:
                report(done)
    return network.eval()


def zero_filled(loader: Loader, data: PreparedData, config: TrainConfig, device: torch.device) -> dict[str, float]:
    """``zero_filled/<task>``: the SSIM of the zero-filled images of the validation split.

    A process measures it once for the same data and masks. (It is one number for all networks but for its last bits,
    which the size of a batch and the device change; so they are part of the key, and no training's report depends on
    which was trained before it.)
    """
    mask = config.masks.val
    key = (data.hash, mask.model_dump_json(), config.batch_size, str(device))
    known = _zero_filled.setdefault(key, {}) if mask.kind != "file" else {}  # a file may change
    missing = [task for task in config.tasks if Quantity.ZERO_FILLED.of(task) not in known]
    if missing:
        known |= validate_zero_filled(loader.validation_batches(missing))
    return {name: known[name] for name in map(Quantity.ZERO_FILLED.of, config.tasks)}


_zero_filled: dict[tuple[str, str, int, str], dict[str, float]] = {}


def _found(
    checkpoint: Path, config: TrainConfig, device: torch.device, warn: Callable[[str], object]
) -> dict[str, Any] | None:
    """The state of the training that was begun in a folder; None if there is none, or it is damaged."""
    for part in (checkpoint, checkpoint.with_name(CURVE), checkpoint / CHECKPOINT):
        remove_parts(part)
    if not checkpoint.is_dir() or not any(checkpoint.iterdir()):
        return None
    try:
        return resumed(checkpoint, config, device)
    except DamagedError as error:
        warn(f"{error}; the training begins anew")
        return None


class EpochMeans:
    """Training losses and weights of an epoch: per task, the mean loss over slices and the mean weight over steps."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        self._tasks = tasks
        self._steps: list[tuple[str, Tensor, int, Tensor]] = []
        self._checked = 0

    def add(self, task: str, loss: Tensor, slices: int, weight: Tensor) -> None:
        """Add a batch: its mean loss over that many slices, and its weight. No tensor is read before a mean is asked
        for."""
        self._steps.append((task, loss, slices, weight))

    def check(self, epoch: int) -> None:
        """Raise TrainingError for the first loss that is not finite, among those not yet checked."""
        for step, (task, loss, *_) in enumerate(self._steps[self._checked :], start=self._checked + 1):
            if not torch.isfinite(loss):
                raise TrainingError(f"the loss of {task} is {loss.item()} in epoch {epoch}, step {step}")
        self._checked = len(self._steps)

    def means(self) -> dict[str, float]:
        """The mean loss of each task so far."""
        found = {}
        for task in self._tasks:
            mine = [(loss.item(), slices) for name, loss, slices, _ in self._steps if name == task]
            found[task] = sum(loss * slices for loss, slices in mine) / sum(slices for _, slices in mine)
        return found

    def weights(self) -> dict[str, float]:
        """The mean weight of each task so far."""
        found = {}
        for task in self._tasks:
            mine = [weight.item() for name, _, _, weight in self._steps if name == task]
            found[task] = sum(mine) / len(mine)
        return found


def make_schedule(
    config: TrainConfig, optimiser: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of the learning rate over all steps of the training; the last epoch is known from the start."""
    steps = config.epochs * steps_per_epoch
    if config.schedule == "one-cycle":
        peaks = [group["lr"] for group in optimiser.param_groups]
        return torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=peaks, total_steps=steps + 1)
    if config.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
    return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block, and restore its state afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
