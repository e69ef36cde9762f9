"""Weightings follow their formulas, and their state is all that a resumed training needs."""

import math

import pytest
import torch

from recon.config import WeightingConfig
from recon.errors import InputError
from recon.weighting import make_weighting

NONE_YET = torch.full((2,), math.nan)


def make(kind, counts, **settings: float):
    return make_weighting(WeightingConfig(kind=kind, **settings), tuple(counts), counts)


def test_naive_is_the_public_codes_and_proportional_to_equation_2():
    counts = {"PDw": 481, "PDw-FS": 32}
    weights = make("naive", counts).weights(1, NONE_YET)
    assert weights.tolist() == pytest.approx([2 * 32 / 513, 2 * 481 / 513])
    total, tasks = 513, 2
    equation_2 = torch.tensor([(total - n) / tasks for n in counts.values()])
    assert (equation_2 / weights).tolist() == pytest.approx([total / tasks**2] * 2)


def test_naive_weights_of_three_tasks_add_up_to_six_and_favour_the_scarcest():
    weights = make("naive", {"a": 10, "b": 30, "c": 60}).weights(1, torch.zeros(3))
    assert weights.tolist() == pytest.approx([2.7, 2.1, 1.2])


@pytest.mark.parametrize("kind", ["naive", "dwa", "equal"])
def test_a_single_task_has_weight_one(kind):
    weighting = make(kind, {"only": 12})
    for epoch in range(1, 5):
        assert weighting.weights(epoch, torch.tensor([0.3])).tolist() == [1.0]
        weighting.end_epoch({"only": 0.3 / epoch})


@pytest.mark.parametrize("kind", ["naive", "dwa", "equal"])
def test_only_uncertainty_learns(kind):
    weighting = make(kind, {"a": 3, "b": 4})
    assert list(weighting.parameters()) == []
    assert weighting.penalty().tolist() == [0, 0]


def test_equal_weights_are_one():
    assert make("equal", {"a": 3, "b": 400}).weights(7, NONE_YET).tolist() == [1, 1]


def test_uncertainty_is_the_papers_loss_and_starts_at_minus_a_half():
    weighting = make("uncertainty", {"a": 3, "b": 4})
    (s,) = weighting.parameters()
    assert s.tolist() == [-0.5, -0.5]
    losses = torch.tensor([0.2, 3.0])
    total = weighting.weights(1, losses) * losses + weighting.penalty()
    assert total.tolist() == pytest.approx([0.2 / (2 * math.exp(-0.5)) - 0.25, 3 / (2 * math.exp(-0.5)) - 0.25])


def test_uncertaintys_optimum_is_the_log_of_the_loss():
    weighting = make("uncertainty", {"a": 3, "b": 4, "c": 5}, log_variance_start=0.1)
    losses = torch.tensor([0.2, 1.0, 3.0])
    optimiser = torch.optim.Adam(weighting.parameters(), lr=0.05)
    for _ in range(600):
        optimiser.zero_grad()
        (weighting.weights(1, losses) * losses + weighting.penalty()).sum().backward()
        optimiser.step()
    torch.testing.assert_close(weighting.log_variances.detach(), losses.log(), rtol=0, atol=1e-3)


def test_dwa_is_equal_for_two_epochs_and_then_follows_the_ratio_of_losses():
    weighting = make("dwa", {"a": 3, "b": 4})
    history = [(1.0, 2.0), (0.5, 1.8), (0.4, 0.9), (0.4, 0.1)]
    for epoch, losses in enumerate(history, start=1):
        weights = weighting.weights(epoch, NONE_YET)
        if epoch <= 2:
            assert weights.tolist() == [1, 1]
        else:
            (before_a, before_b), (last_a, last_b) = history[epoch - 3], history[epoch - 2]
            a, b = math.exp(last_a / before_a / 2), math.exp(last_b / before_b / 2)
            assert weights.tolist() == pytest.approx([2 * a / (a + b), 2 * b / (a + b)])
            assert weights.sum().item() == pytest.approx(2)
        weighting.end_epoch({"b": losses[1], "a": losses[0]})


def test_a_high_temperature_makes_dwa_equal():
    weighting = make("dwa", {"a": 3, "b": 4}, temperature=1e6)
    weighting.end_epoch({"a": 1, "b": 1})
    weighting.end_epoch({"a": 0.1, "b": 0.9})
    assert weighting.weights(3, NONE_YET).tolist() == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize("kind", ["naive", "uncertainty", "dwa", "equal"])
@pytest.mark.parametrize("epochs", [0, 1, 2, 3])
def test_the_state_continues_exactly(kind, epochs):
    counts = {"a": 3, "b": 7}
    first, second = make(kind, counts), make(kind, counts)
    for epoch in range(epochs):
        first.end_epoch({"a": 1 / (epoch + 3), "b": 2 / (epoch + 7)})
        for p in first.parameters():
            torch.nn.init.normal_(p)
    second.load_state_dict(first.state_dict())
    for weighting in (first, second):
        weighting.end_epoch({"a": 0.01, "b": 0.3})
    assert torch.equal(first.weights(epochs + 2, NONE_YET), second.weights(epochs + 2, NONE_YET))
    assert torch.equal(first.penalty(), second.penalty())


def test_a_task_without_slices_is_named():
    with pytest.raises(InputError, match="the task b has no training slices"):
        make_weighting(WeightingConfig(), ("a", "b"), {"a": 3})
