"""Training: exact resumption, honest failure, and what an epoch reports."""

import dataclasses
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from recon.config import NetworkConfig, WeightingConfig
from recon.data.loading import Loader, slice_batch
from recon.data.options import PrepareOptions
from recon.data.prepare import prepare
from recon.data.prepared import PreparedData
from recon.device import choose_device
from recon.errors import InputError
from recon.evaluation.measure import validate, validate_zero_filled
from recon.network.unrolled import UnrolledNetwork
from recon.physics.masks import fixed
from recon.training import loop
from recon.training.checkpoint import STATE, load_checkpoint, load_network, save_checkpoint, start_from
from recon.training.loop import TrainingError, complex_l1, seeded, train
from tests.recon.networks import MASKS, SAMPLE_MASKS, a_batch, output, random_network, small
from tests.recon.soft_sense import soft_slice


def assert_same_weights(one, other):
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def result_of(report):
    """The metrics that the seed decides: without times and memory."""
    names = {"ssim", "psnr", "nrmse", "loss", "weight"}
    return {name: value for name, value in report.metrics.items() if name.split("/")[0] in names}


@pytest.mark.parametrize("optimiser", ["adam", "muon"])
@pytest.mark.parametrize("kind", ["naive", "uncertainty", "dwa", "equal"])
def test_a_training_interrupted_after_any_epoch_ends_with_the_same_weights(prepared, tmp_path, kind, optimiser):
    config = small(weighting=WeightingConfig(kind=kind).model_dump(), optimiser=optimiser)
    data = PreparedData(prepared)
    reports = []

    def keep(report):
        reports.append(report)
        report.save(tmp_path / str(report.epoch))

    whole = train(config, data, report=keep)
    for epoch in range(1, config.epochs):
        later = []
        continued = train(config, data, resume=tmp_path / str(epoch), report=later.append)
        assert_same_weights(whole, continued)
        assert [r.epoch for r in later] == list(range(epoch + 1, config.epochs + 1))
        for before, after in zip(reports[epoch:], later, strict=True):
            assert result_of(before) == result_of(after)


def test_chosen_epochs_alone_are_validated_and_the_training_is_the_same(prepared, tmp_path):
    data, every, chosen, resumed = PreparedData(prepared), [], [], []
    config = small(epochs=4, weighting=WeightingConfig(kind="dwa").model_dump())
    some = config.model_copy(update={"validate_at": (2,)})
    whole = train(config, data, report=every.append)

    def keep(report):
        chosen.append(report)
        report.save(tmp_path / str(report.epoch))

    assert_same_weights(whole, train(some, data, report=keep))
    assert [report.epoch for report in chosen] == [2, 4]
    for report in chosen:
        assert result_of(report) == result_of(every[report.epoch - 1])
        assert report.slices == every[report.epoch - 1].slices
    assert_same_weights(whole, train(some, data, resume=tmp_path / "2", report=resumed.append))
    assert [report.epoch for report in resumed] == [4]
    assert result_of(resumed[0]) == result_of(chosen[1])


def test_the_last_epochs_checkpoint_holds_no_optimiser_and_gives_its_network_at_once(prepared, tmp_path):
    data, reports = PreparedData(prepared), []
    network = train(small(epochs=2), data, report=lambda report: report.save(tmp_path / str(report.epoch)))
    sizes = [(tmp_path / str(epoch) / "checkpoint.pt").stat().st_size for epoch in (1, 2)]
    assert sizes[1] < 0.6 * sizes[0]
    states = [set(load_checkpoint(tmp_path / str(epoch))[0]) for epoch in (1, 2)]
    assert states[0] - states[1] == {"optimiser", "schedule"}
    missing = PreparedData(prepared)
    missing.read = None  # type: ignore[method-assign]  # no slice is read
    again = train(small(epochs=2), missing, resume=tmp_path / "2", report=reports.append)
    assert not reports
    assert not again.training
    for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_finished_training_cannot_be_made_longer_and_says_so(prepared, tmp_path):
    data = PreparedData(prepared)
    train(small(epochs=1), data, report=lambda report: report.save(tmp_path / "c"))
    with pytest.raises(
        InputError, match=r"finished training of 1 epochs, without its optimiser, so it cannot go on to 4"
    ):
        train(small(epochs=4), data, resume=tmp_path / "c")
    longer = train(small(epochs=2), data, init=tmp_path / "c")
    assert isinstance(longer, UnrolledNetwork)


def test_a_training_imports_nothing_heavy_that_it_does_not_use(prepared, tmp_path):
    """In a process of its own, as a trial's worker is; each of these costs CPU seconds in every worker."""
    code = f"""
import sys
from pathlib import Path
import search.run.trial
from recon.data.prepared import PreparedData
from recon.training.loop import train
from tests.recon.networks import small
config = small(epochs=2, weighting={{"kind": "uncertainty"}}, optimiser="muon")
train(config, PreparedData({str(prepared)!r}), report=lambda report: report.save(Path({str(tmp_path / "c")!r})))
heavy = {{"sigpy", "numba", "torch._dynamo", "matplotlib", "optuna", "scipy", "sympy"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
    untrained = validate(UnrolledNetwork(network, config.tasks), Loader(data, config).validation_batches()).metrics
    assert reports[-1].metrics["loss"] < reports[0].metrics["loss"]
    for task in config.tasks:
        assert reports[-1].metrics[f"ssim/{task}"] > untrained[f"ssim/{task}"]


def test_a_training_with_masks_of_single_samples_goes_on_exactly_where_it_was_interrupted(prepared, tmp_path):
    config, data, reports = small(masks=SAMPLE_MASKS.model_dump()), PreparedData(prepared), []
    whole = train(
        config, data, workers=2, report=lambda one: (reports.append(one), one.save(tmp_path / str(one.epoch)))
    )
    assert_same_weights(whole, train(config, data, resume=tmp_path / "1"))
    assert reports[-1].metrics["loss"] < reports[0].metrics["loss"]


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


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ({"consistency": "image"}, "k-space consistency .* where .* image consistency"),
        ({"sense_steps": 3}, "the weights are those of 3 blocks with .* where 3 blocks after 3 SENSE steps"),
        ({"zero_init": False}, "zeroed U-Nets .* where .* fastMRI's U-Nets"),
        ({"padding": "least"}, "and 1 poolings for .* where .* padded least"),
        ({"channels": 4}, "2 channels .* where .* 4 channels"),
        ({"layout": "IYVV"}, "3 blocks .* where 4 blocks"),
    ],
)
def test_weights_of_another_network_are_refused_in_a_sentence(prepared, once, network, sentence):
    other = NetworkConfig.model_validate({**small().network.model_dump(), **network})
    with pytest.raises(InputError, match=sentence) as caught:
        train(small(epochs=1, network=other.model_dump()), PreparedData(prepared), init=once)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("layout", "number"), [("I3", 2), ("IYI", 3), ("IIV", 2), ("IYY", 3)])
def test_weights_of_each_tasks_own_do_not_go_into_a_shared_block(prepared, once, layout, number):
    """``once`` is IYV."""
    network = small().network.model_copy(update={"layout": layout})
    with pytest.raises(
        InputError, match=rf"has layout IYV: its block {number} holds weights of each task's own, which"
    ):
        train(small(epochs=1, network=network.model_dump()), PreparedData(prepared), init=once)


@pytest.mark.parametrize("layout", ["IYV", "YYV", "V3"])
def test_a_network_goes_on_from_one_whose_blocks_were_shared_there(prepared, once, layout):
    network = small().network.model_copy(update={"layout": layout})
    config = small(epochs=1, network=network.model_dump(), learning_rate=1e-12, schedule="constant")
    goes_on = train(config, PreparedData(prepared), init=once)
    source, _ = load_network(once)
    batch = a_batch(PreparedData(prepared), "PDw-FS")
    torch.testing.assert_close(output(goes_on, batch), output(source, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("task", ["PDw", "PDw-FS"])
def test_one_task_goes_on_from_its_own_path_of_a_network_of_several(prepared, once, task):
    single = small().network.model_copy(update={"layout": "I3"}).model_dump()
    config = small(tasks=(task,), slices={}, epochs=1, network=single, learning_rate=1e-12, schedule="constant")
    tuned = train(config, PreparedData(prepared), init=once)
    source, _ = load_network(once)
    batch = a_batch(PreparedData(prepared), task)
    torch.testing.assert_close(output(tuned, batch), output(source, batch), rtol=0, atol=1e-5)


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


def test_complex_l1_adds_up_the_errors_of_sets_of_maps():
    one, other = torch.randn(2, 3, 2, 8, 9, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    each = [complex_l1(one[:, number], other[:, number], (4, 6)) for number in range(2)]
    torch.testing.assert_close(complex_l1(one, other, (4, 6)), sum(each))


def test_two_sets_of_maps_are_trained_and_validated():
    batch = slice_batch(soft_slice(2), fixed(MASKS.val, (24, 28)), "PDw")
    network = random_network(small()).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = complex_l1(network(batch.operator(), batch.kspace, "PDw"), batch.target, batch.crop)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]
    assert validate(network, [batch]).metrics["ssim/PDw"] > 0


def test_prepared_data_with_two_sets_of_maps_are_trained_on(raw, tmp_path):
    report = prepare([raw], tmp_path / "prepared", PrepareOptions(calibration_width=16, maps_sets=2))
    data, reports = PreparedData(tmp_path / "prepared"), []
    assert report.ok
    network = train(small(epochs=1), data, report=reports.append)
    assert 0 < reports[0].metrics["ssim"] < 1
    assert output(network, a_batch(data, "PDw")).shape == (1, 2, *data.row(0).shape)


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


def test_the_zero_filled_images_are_measured_once_and_every_report_has_their_ssim(prepared, monkeypatch):
    """Once per process for each task, whatever is trained: a mask or a size of batch of its own is measured anew."""
    data, reports, measured = PreparedData(prepared), [], []

    def count(batches):
        found = validate_zero_filled(batches)
        measured.append(list(found))
        return found

    monkeypatch.setattr(loop, "_zero_filled", {})
    monkeypatch.setattr(loop, "validate_zero_filled", count)
    single = small(tasks=("PDw",), slices={"PDw": 3}, epochs=2)
    train(single, data, report=reports.append)
    train(small(epochs=1, seed=1), data, report=reports.append)
    train(small(epochs=1, network={"layout": "V2", "channels": 2, "pools": 1}), data, report=reports.append)
    assert measured == [["zero_filled/PDw"], ["zero_filled/PDw-FS"]]
    assert all("zero_filled/PDw-FS" in report.metrics for report in reports[2:])
    assert len({report.metrics["zero_filled/PDw"] for report in reports}) == 1
    assert 0 < reports[0].metrics["zero_filled/PDw"] < 1
    train(small(epochs=1, batch_size=2), data, report=reports.append)
    other = {**MASKS.model_dump(), "val": {**MASKS.val.model_dump(), "accelerations": (2.0,)}}
    train(small(epochs=1, masks=other), data, report=reports.append)
    assert len(measured) == 4
    assert reports[-1].metrics["zero_filled/PDw"] != reports[0].metrics["zero_filled/PDw"]


def test_a_device_that_is_not_here_is_named():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("tpu", "cuda:", "cuda:x", "meta", ""):
        with pytest.raises(InputError, match=f"device '{name}' is not known; give auto, cpu"):
            choose_device(name)
    with pytest.raises(InputError, match="device 'cuda:99' is not here; PyTorch sees"):
        choose_device("cuda:99")


@pytest.mark.parametrize("rate", [0.03, None])
@pytest.mark.parametrize("optimiser", ["adam", "adamw", "muon"])
def test_what_a_weighting_learns_is_learnt_in_a_training(prepared, tmp_path, optimiser, rate):
    weighting = {"kind": "uncertainty", "log_variance_start": -0.5, "log_variance_learning_rate": rate}
    config = small(epochs=1, optimiser=optimiser, weighting=weighting)
    train(config, PreparedData(prepared), report=lambda report: report.save(tmp_path / "c"))
    learnt = load_checkpoint(tmp_path / "c")[0]["weighting"]["log_variances"]
    assert ((learnt + 0.5).abs() > 1e-5).all(), "each task's log variance left its start"


@pytest.mark.parametrize("layout", ["IYV", "V3", "Y3", "I3"])
def test_a_start_fills_the_path_of_every_task(prepared, tmp_path, layout):
    shared = small(network={"layout": "I3", "channels": 2, "pools": 1})
    drawn = random_network(shared, seed=3)
    save_checkpoint(tmp_path / "joint", {**dict.fromkeys(STATE), "network": drawn.state_dict()}, shared)
    config = small(network={"layout": layout, "channels": 2, "pools": 1})
    network = random_network(config, seed=4)
    start_from(network, tmp_path / "joint")
    for task in config.tasks:
        batch = a_batch(PreparedData(prepared), task)
        torch.testing.assert_close(output(network, batch), output(drawn, batch), rtol=0, atol=0)


def test_clipping_bounds_the_gradient_that_a_step_takes(prepared):
    """Adam divides by the gradient's size but for its epsilon of 1e-8: below that a clipped gradient moves nothing."""
    data = PreparedData(prepared)

    def moved(clip_norm):
        config = small(epochs=1, schedule="constant", clip_norm=clip_norm)
        with seeded(config.seed):
            before = UnrolledNetwork(config.network, config.tasks).state_dict()
        after = train(config, data).state_dict()
        return max((after[name] - before[name]).abs().max().item() for name in before)

    assert moved(1e-13) < 1e-3 * moved(None)
    assert moved(1e9) == moved(None)


def test_a_training_says_its_plan_and_counts_its_steps(prepared, tmp_path):
    config, data = small(epochs=2, passes=2), PreparedData(prepared)
    plans, steps = [], []
    train(config, data, started=plans.append, progress=steps.append, report=lambda report: report.save(tmp_path / "c"))
    (plan,) = plans
    assert (plan.device, plan.finished, plan.epochs, plan.slices) == ("cpu", 0, 2, {"PDw": 6, "PDw-FS": 3})
    assert plan.steps_per_epoch == 6  # two passes of two batches of PDw and one of PDw-FS
    assert steps == list(range(1, plan.steps + 1))
    assert plan.parameters == sum(p.numel() for p in UnrolledNetwork(config.network, config.tasks).parameters())
