"""Measure a network on the validation split: the means that a training reports, and the metrics of each slice.

Metrics are computed in ``recon.evaluation.metrics``, their definitions are named in ``recon.evaluation.definitions``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recon.data.loading import Batch
from recon.evaluation import metrics
from recon.evaluation.definitions import METRICS, Quantity
from recon.network.unrolled import UnrolledNetwork
from recon.physics.operators import centre_crop, magnitude_of


def measure(prediction: Tensor, target: Tensor, definition: str = "paper") -> dict[str, Tensor]:
    """SSIM, pSNR (dB) and nRMSE of magnitude images, each of shape (batch,).

    Args:
        prediction: (batch, rows, columns), complex or real; (batch, sets, rows, columns) with several sets of maps.
        target: the same shape.
        definition: a name of ``recon.evaluation.definitions.DEFINITIONS``.
    """
    a, b = magnitude_of(prediction), magnitude_of(target)
    return {
        "ssim": metrics.ssim(a, b, definition=definition),
        "psnr": metrics.psnr(a, b, definition=definition),
        "nrmse": metrics.nrmse(a, b, definition=definition),
    }


SliceMetrics = Mapping[str, Mapping[str, Sequence[float]]]
"""For each task, parallel lists: ``slice_id`` (of the prepared data's index), ``ssim``, ``psnr`` (dB), ``nrmse``."""


class Validation(NamedTuple):
    """The result of a validation, under the definition ``paper``."""

    metrics: dict[str, float]
    """``ssim/<task>``, ``psnr/<task>``, ``nrmse/<task>``: means over the task's slices; ``ssim``: mean over tasks."""
    slices: SliceMetrics
    """The metrics of each slice."""


def validate(network: UnrolledNetwork, batches: Iterable[Batch]) -> Validation:
    """Measure a network on every slice of the batches."""
    found: dict[str, dict[str, list[Tensor]]] = {}
    ids: dict[str, list[int]] = {}
    network.eval()
    with torch.no_grad():
        for batch in batches:
            prediction = centre_crop(network(batch.operator(), batch.kspace, batch.task), batch.crop)
            target = centre_crop(batch.target, batch.crop)
            task = found.setdefault(batch.task, {name: [] for name in METRICS})
            ids.setdefault(batch.task, []).extend(batch.slice_ids)
            for name, values in measure(prediction, target).items():
                task[name].append(values)
    slices = {
        task: {"slice_id": ids[task], **{name: torch.cat(values).tolist() for name, values in by_name.items()}}
        for task, by_name in found.items()
    }
    means: dict[str, float] = {
        name.of(task): float(np.mean(values[name])) for task, values in slices.items() for name in METRICS
    }
    means[Quantity.SSIM.value] = float(np.mean([means[Quantity.SSIM.of(task)] for task in found]))
    return Validation(means, slices)


def validate_zero_filled(batches: Iterable[Batch]) -> dict[str, float]:
    """``zero_filled/<task>``: the mean SSIM (definition ``paper``) of the zero-filled images Aᴴk, as ``validate``
    measures a network's. A network below it has made its input worse."""
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for batch in batches:
            image = centre_crop(batch.operator().adjoint(batch.kspace), batch.crop)
            target = centre_crop(batch.target, batch.crop)
            found.setdefault(batch.task, []).append(metrics.ssim(magnitude_of(image), magnitude_of(target)))
    return {Quantity.ZERO_FILLED.of(task): float(torch.cat(values).mean()) for task, values in found.items()}
