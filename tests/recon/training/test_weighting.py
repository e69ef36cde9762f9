"""Weightings follow their formulas, weight as meant, and their state is all that a resumed training needs."""

import math

import numpy as np
import pytest
import torch

from recon.config import NetworkConfig, TrainConfig, WeightingConfig
from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.network.unrolled import UnrolledNetwork
from recon.training.loop import make_schedule, train
from recon.training.optimiser import GroupedOptimiser, make_optimiser
from recon.training.weighting import make_weighting
from tests.recon.networks import small

PAPER = {
    "ratios": "epochs",
    "temperature": 2.0,
    "log_variance_start": -0.5,
    "log_variance_learning_rate": None,
    "constant_sum": False,
}
"""The settings of the paper's public code."""


def make(kind, counts, **settings: object):
    return make_weighting(WeightingConfig(kind=kind, **settings), tuple(counts), counts)


def test_naive_is_the_public_codes_and_proportional_to_equation_2():
    counts = {"PDw": 481, "PDw-FS": 32}
    weights = make("naive", counts).weights()
    assert weights.tolist() == pytest.approx([2 * 32 / 513, 2 * 481 / 513])
    total, tasks = 513, 2
    equation_2 = torch.tensor([(total - n) / tasks for n in counts.values()])
    assert (equation_2 / weights).tolist() == pytest.approx([total / tasks**2] * 2)


def test_naive_weights_of_three_tasks_favour_the_scarcest_and_add_up_to_six_by_the_formula_to_three_by_default():
    counts = {"a": 10, "b": 30, "c": 60}
    assert make("naive", counts, constant_sum=False).weights().tolist() == pytest.approx([2.7, 2.1, 1.2])
    assert make("naive", counts).weights().tolist() == pytest.approx([1.35, 1.05, 0.6])


@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["naive", "uncertainty", "dwa", "equal"])
def test_weights_add_up_to_the_number_of_tasks_whatever_the_losses(kind, tasks):
    counts = {f"task {i}": 3 + 40 * i for i in range(tasks)}
    weighting = make(kind, counts)
    losses = np.random.default_rng(tasks).lognormal(-4, 2, (60, tasks))
    for step, loss in enumerate(losses):
        weights = weighting.weights()
        assert weights.sum().item() == pytest.approx(tasks, rel=1e-5)
        weighting.note(step % tasks, torch.tensor(loss[step % tasks], dtype=torch.float32), 2)


def test_a_single_task_has_weight_one():
    for kind in ("naive", "uncertainty", "dwa", "equal"):
        weighting = make(kind, {"only": 12})
        for epoch in range(1, 5):
            assert weighting.weights().tolist() == [1.0]
            weighting.note(0, torch.tensor(0.3 / epoch), 2)
            weighting.end_epoch({"only": 0.3 / epoch})


@pytest.mark.parametrize("kind", ["naive", "dwa", "equal"])
def test_only_uncertainty_learns(kind):
    weighting = make(kind, {"a": 3, "b": 4})
    assert list(weighting.parameters()) == []
    assert weighting.penalty(0, torch.tensor(0.1)) == 0


def test_equal_weights_are_one():
    assert make("equal", {"a": 3, "b": 400}).weights().tolist() == [1, 1]


def test_uncertainty_of_the_papers_code_is_its_loss_and_starts_at_minus_a_half():
    weighting = make("uncertainty", {"a": 3, "b": 4}, **PAPER)
    (s,) = weighting.parameters()
    assert s.tolist() == [-0.5, -0.5]
    network = torch.tensor([0.2, 3.0], requires_grad=True)  # what the losses depend on: here themselves
    for task in range(2):
        weighting.note(task, network[task].detach(), 1)
        loss = network[task]
        (weighting.weights()[task] * loss + weighting.penalty(task, loss.detach())).backward()
    again, same = s.detach().clone().requires_grad_(), network.detach().clone().requires_grad_()
    (same / (2 * again.exp()) + again / 2).sum().backward()  # Kendall, Gal, Cipolla 2018, as the paper's code has it
    assert torch.equal(network.grad, same.grad)
    torch.testing.assert_close(s.grad, again.grad)


def test_uncertainty_starts_at_the_log_of_each_tasks_first_loss():
    weighting = make("uncertainty", {"a": 3, "b": 4, "c": 5})
    assert weighting.weights().tolist() == [1, 1, 1]
    for task, loss in ((1, 0.2), (1, 7.0), (0, 0.05)):
        weighting.note(task, torch.tensor(loss), 1)
    assert weighting.log_variances[:2].tolist() == pytest.approx([math.log(0.05), math.log(0.2)])
    # The third task, not seen yet, weighs as the mean of the others' s: their geometric mean.
    assert weighting.weights().tolist() == pytest.approx([3 * x / 3.5 for x in (2, 0.5, 1)])


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
@pytest.mark.parametrize("steps", [200, 2000])
def test_uncertainty_weights_arrive_at_the_noise_of_two_regressions_within_a_quarter_of_the_training(schedule, steps):
    """Linear regressions y = a x + noise of known size: the mean squared errors end at the noise's variances, the
    optimal weights are in inverse proportion to them."""
    variances = (0.04, 0.0016)
    best = torch.tensor([2 / (1 + 25), 2 * 25 / (1 + 25)])
    weights = regress(variances, steps, schedule, WeightingConfig(kind="uncertainty"))
    later = weights[steps // 4 :]
    torch.testing.assert_close(later.mean(0), best, rtol=0, atol=0.02)
    assert (later - best).abs().max() < 0.1


@pytest.mark.parametrize("steps", [200])
def test_the_papers_uncertainty_does_not_arrive_in_so_few_steps(steps):
    """Why the defaults are others."""
    weights = regress((0.04, 0.0016), steps, "one-cycle", WeightingConfig(kind="uncertainty", **PAPER))
    assert (weights[-1] / weights[-1].sum() * 2).tolist() == pytest.approx([1, 1], abs=0.1)


def regress(variances, steps, schedule, settings) -> torch.Tensor:
    """Train two regressions by the training's optimiser, schedule and weighting; the weights by step, (steps, 2)."""
    rng = np.random.default_rng(0)
    config = TrainConfig(
        tasks=("a", "b"),
        network=NetworkConfig(layout="V", channels=1, pools=1),
        weighting=settings,
        epochs=10,
        learning_rate=3e-3,
        schedule=schedule,
    )
    network = UnrolledNetwork(config.network, config.tasks)  # make_optimiser wants one; it takes no part
    slope = torch.nn.Parameter(torch.tensor([1.2, 0.9]))  # 1 is the truth
    network.register_parameter("slope", slope)
    weighting = make_weighting(settings, config.tasks, {"a": 64, "b": 64})
    optimiser = make_optimiser(config, network, weighting)
    assert isinstance(optimiser, GroupedOptimiser)
    course = make_schedule(config, optimiser, steps // config.epochs)
    found = []
    for step in range(steps):
        task = step % 2
        x = torch.from_numpy(rng.uniform(-1, 1, 64).astype(np.float32))
        y = x + math.sqrt(variances[task]) * torch.from_numpy(rng.standard_normal(64).astype(np.float32))
        loss = (slope[task] * x - y).square().mean()
        weights = weighting.weights()
        weighting.note(task, loss.detach(), 1)
        optimiser.zero_grad(set_to_none=True)
        (weights[task] * loss + weighting.penalty(task, loss.detach())).backward()
        optimiser.step()
        course.step()
        found.append(weights)
    return torch.stack(found)


def test_the_schedule_leaves_a_constant_rate_alone_and_scales_the_papers():
    for given, expected in ((0.03, 0.03), (None, 1e-3 / 25)):
        settings = WeightingConfig(kind="uncertainty", log_variance_start=0.0, log_variance_learning_rate=given)
        config = small(weighting=settings.model_dump())
        weighting = make_weighting(settings, config.tasks, {"PDw": 6, "PDw-FS": 3})
        optimiser = make_optimiser(config, UnrolledNetwork(config.network, config.tasks), weighting)
        make_schedule(config, optimiser, 10)
        weighting.penalty(0, torch.tensor(0.5)).backward()
        optimiser.step()  # Adam's first step is the rate, whatever the gradient
        assert weighting.log_variances[0].item() == pytest.approx(-expected, rel=1e-3)


def test_published_dwa_is_equal_for_two_epochs_and_then_follows_the_ratio_of_losses():
    weighting = make("dwa", {"a": 3, "b": 4}, **PAPER)
    history = [(1.0, 2.0), (0.5, 1.8), (0.4, 0.9), (0.4, 0.1)]
    for epoch, losses in enumerate(history, start=1):
        weights = weighting.weights()
        if epoch <= 2:
            assert weights.tolist() == [1, 1]
        else:
            (before_a, before_b), (last_a, last_b) = history[epoch - 3], history[epoch - 2]
            a, b = math.exp(last_a / before_a / 2), math.exp(last_b / before_b / 2)
            assert weights.tolist() == pytest.approx([2 * a / (a + b), 2 * b / (a + b)])
        weighting.end_epoch({"b": losses[1], "a": losses[0]})


def test_smoothed_dwa_follows_running_means_over_two_and_four_epochs():
    """The closed form: an exponential mean with weights exp(-age / horizon), age in epochs of the task's own slices."""
    counts, slices, rng = {"a": 8, "b": 3}, 2, np.random.default_rng(5)
    weighting, seen = make("dwa", counts, temperature=0.3), ([], [])
    for _ in range(40):
        task = int(rng.integers(2))
        loss = float(rng.lognormal())
        weighting.note(task, torch.tensor(loss, dtype=torch.float64), slices)
        seen[task].append(loss)
        ratios = []
        for losses, count in zip(seen, counts.values(), strict=True):
            age = np.arange(len(losses))[::-1] * slices / count
            means = [np.average(losses, weights=np.exp(-age / h)) if losses else 1 for h in (2, 4)]
            ratios.append(means[0] / means[1])
        expected = 2 * np.exp(np.array(ratios) / 0.3) / np.exp(np.array(ratios) / 0.3).sum()
        assert weighting.weights().tolist() == pytest.approx(expected.tolist())


def test_smoothed_dwa_weighs_the_task_that_learns_more_slowly_more_within_three_epochs():
    weighting, steps = make("dwa", {"a": 10, "b": 10}), 10
    for step in range(3 * steps):
        for task, rate in ((0, 0.10), (1, 0.02)):  # losses fall by a tenth and a fiftieth an epoch
            weighting.note(task, torch.tensor(math.exp(-rate * step / steps)), 1)
    fast, slow = weighting.weights().tolist()
    assert slow > 1.1
    assert fast + slow == pytest.approx(2)


def test_a_high_temperature_makes_dwa_equal():
    weighting = make("dwa", {"a": 3, "b": 4}, temperature=1e6)
    for loss in (1.0, 0.1):
        weighting.note(0, torch.tensor(loss), 3)
        weighting.note(1, torch.tensor(0.9), 4)
    assert weighting.weights().tolist() == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize("settings", [{}, PAPER])
@pytest.mark.parametrize("kind", ["naive", "uncertainty", "dwa", "equal"])
@pytest.mark.parametrize("epochs", [0, 1, 2, 3])
def test_the_state_continues_exactly(kind, epochs, settings):
    counts = {"a": 3, "b": 7}
    first, second = make(kind, counts, **settings), make(kind, counts, **settings)
    for epoch in range(epochs):
        first.note(0, torch.tensor(1 / (epoch + 3)), 3)
        first.end_epoch({"a": 1 / (epoch + 3), "b": 2 / (epoch + 7)})
        for p in first.parameters():
            torch.nn.init.normal_(p)
    second.load_state_dict(first.state_dict())
    for weighting in (first, second):
        weighting.note(1, torch.tensor(0.2), 1)
        weighting.end_epoch({"a": 0.01, "b": 0.3})
    assert torch.equal(first.weights(), second.weights())
    assert first.penalty(1, torch.tensor(0.2)) == second.penalty(1, torch.tensor(0.2))


@pytest.mark.parametrize("kind", ["uncertainty", "dwa"])
def test_an_epoch_reports_the_mean_of_the_weights_that_its_steps_had(prepared, monkeypatch, kind):
    used, reports = [], []

    class Watched(type(make(kind, {"a": 1}))):  # type: ignore[misc]
        def note(self, task, loss, slices):
            used.append((task, self.weights()[task].item()))
            super().note(task, loss, slices)

    monkeypatch.setattr(f"recon.training.weighting.{Watched.__base__.__name__}", Watched)
    config = small(weighting={"kind": kind}, batch_size=1)
    train(config, PreparedData(prepared), report=lambda report: reports.append((len(used), report.metrics)))
    begin = 0
    for end, metrics in reports:
        for task, name in enumerate(config.tasks):
            mine = [weight for number, weight in used[begin:end] if number == task]
            assert metrics[f"weight/{name}"] == pytest.approx(sum(mine) / len(mine))
        begin = end
    assert metrics["weight/PDw"] != 1


def test_a_task_without_slices_is_named():
    with pytest.raises(InputError, match="the task b has no training slices"):
        make_weighting(WeightingConfig(), ("a", "b"), {"a": 3})
