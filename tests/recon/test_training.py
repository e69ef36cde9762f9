"""Training: exact resumption, honest failure, and what an epoch reports."""

import dataclasses
import shutil

import h5py
import numpy as np
import pytest
import torch

from recon.config import NetworkConfig, WeightingConfig
from recon.data.loading import Loader
from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.evaluation import validate
from recon.training import TrainingError, choose_device, complex_l1, load_checkpoint, load_network, train
from recon.unrolled import UnrolledNetwork
from tests.recon.networks import Bomb, small


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
    data, reports = PreparedData(prepared), []
    network = NetworkConfig(layout="IYV", channels=4, pools=2)
    config = small(epochs=5, learning_rate=3e-3, slices={}, network=network.model_dump())
    train(config, data, report=reports.append)
    untrained = validate(UnrolledNetwork(network, config.tasks), Loader(data, config).validation_batches())
    assert reports[-1].metrics["loss"] < reports[0].metrics["loss"]
    for task in config.tasks:
        assert reports[-1].metrics[f"ssim/{task}"] > untrained[f"ssim/{task}"]


def test_bfloat16_trains_to_the_same_ssim_and_the_memory_saver_to_the_same_weights(prepared):
    def trained(changes):
        reports = []
        network = train(small(learning_rate=3e-3, **changes), PreparedData(prepared), report=reports.append)
        return network.state_dict(), reports[-1].metrics["ssim"]

    (weights, single), (rough, bfloat16), (saved, _) = (
        trained(changes) for changes in ({}, {"precision": "bfloat16"}, {"memory_saver": True})
    )
    assert abs(bfloat16 - single) < 0.005
    assert any(not torch.equal(weights[name], rough[name]) for name in weights)
    assert all(torch.equal(weights[name], saved[name]) for name in weights)
    assert all(value.dtype == torch.float32 for value in rough.values())


def test_a_nan_in_the_data_ends_the_training_with_epoch_and_step(prepared, tmp_path):
    folder = tmp_path / "prepared"
    shutil.copytree(prepared, folder)
    data = PreparedData(folder)
    for name in data.index[(data.index.split == "train") & (data.index.task == "PDw")]["file"].unique():
        with h5py.File(folder / name, "r+") as file:
            file["target"][...] = np.nan
    with pytest.raises(TrainingError, match=r"loss of PDw is nan in epoch 1, step \d+"):
        train(small(), PreparedData(folder))


def test_transfer_starts_from_the_other_tasks_weights(prepared, tmp_path):
    data = PreparedData(prepared)
    single = NetworkConfig(layout="I3", channels=2, pools=1).model_dump()
    abundant = small(tasks=("PDw",), slices={}, epochs=1, network=single)
    source = train(abundant, data, report=lambda report: report.save(tmp_path / "source"))
    scarce = small(tasks=("PDw-FS",), slices={}, epochs=1, learning_rate=1e-12, schedule="constant", network=single)
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


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("checkpoint.pt", None, r"holds no checkpoint: checkpoint\.pt is missing$"),
        ("config.json", None, r"holds no checkpoint: config\.json is missing$"),
        ("checkpoint.pt", b"words", r"checkpoint\.pt is damaged or no checkpoint of ours$"),
        ("checkpoint.pt", b"", r"checkpoint\.pt is damaged or no checkpoint of ours$"),
        ("config.json", b"{", r"config\.json is not JSON: "),
        ("config.json", b'{"tasks": []}', r"not the configuration of a training: tasks: "),
        (
            "config.json",
            small().model_dump_json().replace("IYV", "IY").encode(),
            r"checkpoint\.pt does not fit its",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_a_sentence(prepared, tmp_path, once, name, content, sentence):
    shutil.copytree(once, tmp_path / "c")
    (tmp_path / "c" / name).unlink()
    if content is not None:
        (tmp_path / "c" / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        load_network(tmp_path / "c")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def once(prepared, tmp_path_factory):
    """The checkpoint of a training of one epoch."""
    folder = tmp_path_factory.mktemp("once") / "c"
    train(small(epochs=1), PreparedData(prepared), report=lambda report: report.save(folder))
    return folder


def test_nothing_in_a_checkpoint_is_unpickled(once, tmp_path):
    shutil.copytree(once, tmp_path / "c")
    state, _ = load_checkpoint(once)
    torch.save({**state, "epoch": Bomb(tmp_path / "exploded")}, tmp_path / "c" / "checkpoint.pt")
    with pytest.raises(InputError, match="damaged or no checkpoint of ours"):
        load_checkpoint(tmp_path / "c")
    torch.save({"network": {}}, tmp_path / "c" / "checkpoint.pt")
    with pytest.raises(InputError, match="is no checkpoint of ours: it lacks epoch, "):
        load_checkpoint(tmp_path / "c")
    assert not (tmp_path / "exploded").exists()


def test_a_device_that_is_not_here_is_named():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("tpu", "cuda:", "cuda:x", "meta", ""):
        with pytest.raises(InputError, match=f"device '{name}' is not known; give auto, cpu"):
            choose_device(name)
    with pytest.raises(InputError, match="device 'cuda:99' is not here; PyTorch sees"):
        choose_device("cuda:99")
