"""Training: exact resumption, honest failure, and what an epoch reports."""

import dataclasses
import shutil
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from recon.config import MaskConfig, MasksConfig, NetworkConfig, TrainConfig, WeightingConfig
from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.training import TrainingError, complex_l1, load_network, train

MASKS = MasksConfig(
    train=MaskConfig(accelerations=(2.0, 3.0), centre_fractions=(0.12, 0.16)),
    val=MaskConfig(accelerations=(3.0,), centre_fractions=(0.16,)),
    test=MaskConfig(accelerations=(3.0,), centre_fractions=(0.16,)),
)


def small(**changes: Any) -> TrainConfig:
    base = TrainConfig(
        tasks=("PDw", "PDw-FS"),
        network=NetworkConfig(layout="IYV", channels=4, pools=2),
        masks=MASKS,
        epochs=3,
        batch_size=2,
        learning_rate=1e-3,
        schedule="one-cycle",
        clip_norm=1.0,
    )
    return TrainConfig.model_validate({**base.model_dump(), **changes})


@pytest.mark.parametrize("kind", ["naive", "uncertainty", "dwa", "equal"])
def test_a_training_interrupted_after_any_epoch_ends_with_the_same_weights(prepared, tmp_path, kind):
    config = small(weighting=WeightingConfig(kind=kind).model_dump())
    data = PreparedData(prepared)
    reports = []

    def keep(report):
        reports.append(report)
        report.save(tmp_path / str(report.epoch))

    whole = train(config, data, report=keep)
    for epoch in range(1, config.epochs):
        later = []
        continued = train(config, data, resume=tmp_path / str(epoch), report=later.append)
        for name, value in whole.state_dict().items():
            assert torch.equal(value, continued.state_dict()[name]), f"{name} after resuming epoch {epoch}"
        assert [r.epoch for r in later] == list(range(epoch + 1, config.epochs + 1))
        for before, after in zip(reports[epoch:], later, strict=True):
            same = {
                k: v
                for k, v in before.metrics.items()
                if k.split("/")[0] in {"ssim", "psnr", "nrmse", "loss", "weight"}
            }
            assert same == {k: after.metrics[k] for k in same}


def test_another_trainings_checkpoint_is_refused_by_the_field_that_differs(prepared, tmp_path):
    data = PreparedData(prepared)
    train(small(epochs=1), data, report=lambda report: report.save(tmp_path / "c"))
    with pytest.raises(InputError, match=r"learning_rate is 0\.001 in it, where 0\.01"):
        train(small(epochs=1, learning_rate=0.01), data, resume=tmp_path / "c")


def test_torchs_global_generator_is_left_as_it_was(prepared):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train(small(epochs=1), PreparedData(prepared))
    assert torch.equal(before, torch.get_rng_state())


def test_the_seed_decides_the_result(prepared):
    data = PreparedData(prepared)
    first, again, other = (train(small(epochs=1, seed=seed), data).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_training_lowers_the_loss_and_beats_the_untrained_network(prepared):
    reports = []
    train(small(epochs=6, learning_rate=2e-3), PreparedData(prepared), report=reports.append)
    assert reports[-1].metrics["loss"] < reports[0].metrics["loss"]
    assert reports[-1].metrics["ssim"] > reports[0].metrics["ssim"]


def test_a_nan_in_the_data_ends_the_training_with_epoch_and_step(prepared, tmp_path):
    folder = tmp_path / "prepared"
    shutil.copytree(prepared, folder)
    data = PreparedData(folder)
    rows = data.index[(data.index.split == "train") & (data.index.task == "PDw")]
    with h5py.File(folder / rows.iloc[0].file, "r+") as file:
        file["target"][...] = np.nan
    with pytest.raises(TrainingError, match=r"loss of PDw is nan in epoch 1, step \d+"):
        train(small(), PreparedData(folder))


def test_transfer_starts_from_the_other_tasks_weights(prepared, tmp_path):
    data = PreparedData(prepared)
    abundant = small(tasks=("PDw",), epochs=1, network=NetworkConfig(layout="I3", channels=4, pools=2).model_dump())
    source = train(abundant, data, report=lambda report: report.save(tmp_path / "source"))
    scarce = small(
        tasks=("PDw-FS",),
        epochs=1,
        learning_rate=1e-12,
        schedule="constant",
        network=NetworkConfig(layout="I3", channels=4, pools=2).model_dump(),
    )
    tuned = train(scarce, data, init=tmp_path / "source")
    for a, b in zip(source.parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_checkpoint_holds_the_network_that_was_reported(prepared, tmp_path):
    network = train(small(epochs=1), PreparedData(prepared), report=lambda report: report.save(tmp_path / "c"))
    loaded, config = load_network(tmp_path / "c")
    assert config == small(epochs=1)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def test_complex_l1_is_the_mean_over_real_and_imaginary_parts_of_the_crop():
    prediction = torch.zeros(1, 4, 4, dtype=torch.complex64)
    target = torch.zeros(1, 4, 4, dtype=torch.complex64)
    target[0, 1, 1] = 3 - 4j
    target[0, 0, 0] = 100  # outside the crop
    assert complex_l1(prediction, target, (2, 2)).item() == pytest.approx(7 / 8)


def test_an_epochs_report_names_every_metric(prepared):
    reports = []
    train(small(epochs=1), PreparedData(prepared), report=reports.append)
    assert {"ssim", "ssim/PDw", "psnr/PDw-FS", "nrmse/PDw", "loss", "loss/PDw-FS", "weight/PDw", "parameters"} <= set(
        reports[0].metrics
    )
    assert reports[0].metrics["ssim"] == pytest.approx(
        (reports[0].metrics["ssim/PDw"] + reports[0].metrics["ssim/PDw-FS"]) / 2
    )
    assert dataclasses.is_dataclass(reports[0])
