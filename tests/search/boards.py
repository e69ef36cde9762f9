"""A study to read: searched, confirmed, with stopped and failed trials, and with checkpoints of real networks.

Its trainings are pretended (``fakes``), its checkpoints are not: they hold networks that were drawn from the seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from recon.config import TrainConfig
from recon.network.unrolled import UnrolledNetwork
from recon.training.checkpoint import save_checkpoint
from recon.training.loop import seeded
from search.run.cluster import Resources
from search.run.confirm import confirm
from search.run.launch import launch
from search.study.open import OpenStudy, open_study
from tests.search import fakes
from tests.search.conftest import facts, space, steer

NAME = "one"


@dataclass
class NetworkReport:
    epoch: int
    metrics: dict[str, float]
    slices: dict[str, dict[str, list[float]]]
    config: TrainConfig

    def save(self, directory: Path) -> None:
        with seeded(self.config.seed):
            network = UnrolledNetwork(self.config.network, self.config.tasks)
        others: dict[str, object] = {"weighting": {}, "optimiser": {}, "schedule": {}}
        seconds = {"seconds": 0.0, "gpu_seconds": 0.0}
        state = {"epoch": self.epoch, "network": network.state_dict(), **others, **seconds}
        save_checkpoint(directory, state, self.config)


def luck(config: TrainConfig, task: str) -> float:
    """What a seed does to a training: up to ±0.01, the same every time."""
    drawn = zlib.crc32(f"{config.network.layout} {config.weighting.kind} {task} {config.slices} {config.seed}".encode())
    return 0.02 * (drawn / 2**32 - 0.5)


def train(
    config: TrainConfig,
    data: Path,
    *,
    init: Path | None,
    resume: Path | None,
    device: str,
    report: Callable[[NetworkReport], None],
) -> object:
    """``fakes.train`` with every metric and a network in each checkpoint."""
    torch.set_num_threads(1)

    def whole(pretended: fakes.FakeReport) -> None:
        metrics = pretended.metrics | {
            f"ssim/{task}": pretended.metrics[f"ssim/{task}"] + luck(config, task) for task in config.tasks
        }
        metrics["ssim"] = sum(metrics[f"ssim/{task}"] for task in config.tasks) / len(config.tasks)
        more = {f"psnr/{task}": 30.0 + pretended.epoch for task in config.tasks}
        more |= {f"nrmse/{task}": 0.5 / pretended.epoch for task in config.tasks}
        slices = fakes.slices_of(metrics, config.tasks)
        report(NetworkReport(pretended.epoch, metrics | more, slices, config))

    return fakes.train(config, data, init=init, resume=resume, device=device, report=whole)


_made: list[Path] = []


def confirmed_study(factory: pytest.TempPathFactory) -> Path:
    """The runs folder of a study at two N, judged by gain, whose two leaders were confirmed over two seeds.

    Needs a Ray that runs (``local_ray``). Made once a session: whoever uses it only reads.
    """
    if not _made:
        _made.append(_make(factory))
    return _made[0]


def _make(factory: pytest.TempPathFactory) -> Path:
    folder = factory.mktemp("board")
    steer(folder / "data", Y4_naive={"nan_at": 2})
    wanted = space(
        scarce={"task": "PDw-FS", "slices": [12, 24]},
        layouts={"kind": "free"},
        unroll={"blocks": 4, "channels": 2, "pools": 1, "zero_init": False},
        objective={"metric": "gain", "epsilon": 1.0},
        fidelity={"epochs": 4, "rungs": [2], "reduction": 2},
        try_first=[
            {"layout": "I2V2", "weighting": "naive", "scarce_slices": 12},
            {"layout": "I2Y2", "weighting": "dwa", "scarce_slices": 24},
            {"layout": "Y4", "weighting": "naive", "scarce_slices": 12},
        ],
        trials=9,
        confirm={"top": 2, "seeds": 2},
    )
    runs = folder / "runs"
    # One trial at a time: which ones are stopped, and so which lead, depends on the order in which they report.
    alone = Resources(max_concurrent=1)
    launch(wanted, facts(folder / "data"), NAME, runs_dir=runs, trainer=train, resources=alone)
    outcome = confirm(NAME, data=facts(folder / "data"), runs_dir=runs, trainer=train, resources=alone)
    assert outcome.complaint is None
    return runs


def opened(runs: Path) -> OpenStudy:
    return open_study(NAME, runs_dir=runs)
