"""Small networks and trainings that several tests share."""

from pathlib import Path
from typing import Any

import torch

from recon.bundle import Bundle
from recon.config import MaskConfig, MasksConfig, NetworkConfig, TrainConfig
from recon.data.loading import Batch, slice_batch
from recon.data.prepared import PreparedData
from recon.network.unrolled import UnrolledNetwork
from recon.physics.masks import fixed

MASKS = MasksConfig(
    train=MaskConfig(accelerations=(2.0, 3.0), centre_fractions=(0.12, 0.16)),
    val=MaskConfig(accelerations=(3.0,), centre_fractions=(0.16,)),
    test=MaskConfig(accelerations=(3.0,), centre_fractions=(0.12,)),
)

SAMPLE_MASKS = MasksConfig(
    train=MaskConfig(kind="poisson-disc", accelerations=(2.0, 3.0), centre_fractions=(0.16, 0.2)),
    val=MaskConfig(kind="poisson-disc", accelerations=(3.0,), centre_fractions=(0.2,)),
    test=MaskConfig(kind="random-points", accelerations=(3.0,), centre_fractions=(0.2,)),
)
"""Masks of single samples."""


def small(**changes: Any) -> TrainConfig:
    """A training of a second or so: one block of each kind, a few slices."""
    base = TrainConfig(
        tasks=("PDw", "PDw-FS"),
        network=NetworkConfig(layout="IYV", channels=2, pools=1),
        slices={"PDw": 6, "PDw-FS": 3},
        cut="slices",
        masks=MASKS,
        epochs=3,
        batch_size=3,
        learning_rate=1e-3,
        schedule="one-cycle",
        clip_norm=1.0,
    )
    return TrainConfig.model_validate({**base.model_dump(), **changes})


def random_network(config: TrainConfig, seed: int = 0) -> UnrolledNetwork:
    """A network whose every weight is drawn, so that no two paths through it are alike by accident."""
    generator = torch.Generator().manual_seed(seed)
    network = UnrolledNetwork(config.network, config.tasks)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def random_bundle(**changes: Any) -> Bundle:
    config = small(**changes)
    return Bundle(random_network(config), config, {"study": "one", "data_hash": "abc"})


def a_batch(data: PreparedData, task: str) -> Batch:
    """The first validation slice of a task, under the validation mask."""
    piece = data.read(data.subset(task, split="val")[0])
    return slice_batch(piece, fixed(MASKS.val, piece.row.shape, piece.row.padding), task)


def output(network: UnrolledNetwork, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return network(batch.operator(), batch.kspace, batch.task)


class Bomb:
    """What makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (str(self.path), "w"))
