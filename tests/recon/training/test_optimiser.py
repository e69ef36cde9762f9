"""The optimiser steps as PyTorch's own do, each group of parameters by its method."""

import math

import pytest
import torch

from recon.config import NetworkConfig, TrainConfig
from recon.network.unrolled import UnrolledNetwork
from recon.training.optimiser import GroupedOptimiser, make_optimiser, orthogonal
from recon.training.weighting import make_weighting
from tests.recon.networks import small

SHAPES = [(8, 2, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3), (2, 8, 1, 1)]


def drawn(shapes, seed=0, double=True):
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def give_gradients(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def test_singular_values_come_close_to_one_whatever_the_shape():
    for shape in [(3, 8, 18), (1, 16, 8), (2, 5, 5)]:
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        found = torch.linalg.svdvals(orthogonal(matrices))
        assert found.min() > 0.5
        assert found.max() < 1.3


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_muon_steps_as_pytorchs_on_the_flattened_weights(decay):
    ours, theirs = drawn(SHAPES), [torch.nn.Parameter(p.detach().flatten(1)) for p in drawn(SHAPES)]
    start = [p.detach().clone() for p in theirs]
    mine = GroupedOptimiser([{"params": ours, "method": "muon", "lr": 0.02, "weight_decay": decay}])
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=decay, momentum=0.95)
    for step in range(4):
        give_gradients(ours, step)
        for a, b in zip(ours, theirs, strict=True):
            b.grad = a.grad.flatten(1).clone()
        mine.step()
        other.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        moved = (b.detach() - before).norm()
        # PyTorch's orthogonalises in bfloat16, whose rounding is 4e-3.
        assert (a.detach().flatten(1) - b.detach()).norm() < 0.02 * moved


def test_a_transposed_convolution_is_the_matrix_of_its_outputs():
    (weight,) = drawn([(6, 3, 2, 2)])
    before = weight.detach().clone()
    optimiser = GroupedOptimiser([{"params": [weight], "method": "muon", "lr": 1.0, "transposed": True}])
    give_gradients([weight], 0)
    gradient = weight.grad.flatten(1).T  # (out * 2 * 2, in)
    optimiser.step()
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    update = (before - weight.detach()).flatten(1).T / math.sqrt(12 / 6)
    # Nearly orthogonal, with the gradient's own singular vectors.
    core = u.T @ update @ v.T
    assert (core - torch.diag(torch.diagonal(core))).abs().max() < 1e-6
    assert torch.diagonal(core).min() > 0.5


@pytest.mark.parametrize(
    ("method", "theirs", "decay"), [("adam", torch.optim.Adam, 0.0), ("adamw", torch.optim.AdamW, 0.1)]
)
def test_adam_and_adamw_step_as_pytorchs(method, theirs, decay):
    ours, other = drawn(SHAPES, double=False), drawn(SHAPES, double=False)
    mine = GroupedOptimiser([{"params": ours, "method": method, "lr": 3e-3, "weight_decay": decay}])
    reference = theirs(other, lr=3e-3, weight_decay=decay, fused=True)
    for step in range(5):
        give_gradients(ours, step)
        give_gradients(other, step)
        mine.step()
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, other, strict=True))


def groups_of(config: TrainConfig):
    network = UnrolledNetwork(config.network, config.tasks)
    weighting = make_weighting(config.weighting, config.tasks, dict.fromkeys(config.tasks, 4))
    optimiser = make_optimiser(config, network, weighting)
    stepped = [p for group in optimiser.param_groups for p in group["params"]]
    assert len({id(p) for p in stepped}) == len(stepped)
    assert {id(p) for p in stepped} == {id(p) for p in (*network.parameters(), *weighting.parameters())}
    return optimiser.param_groups


def test_muon_takes_the_convolutions_but_a_u_nets_last_and_adam_everything_else():
    network = NetworkConfig(layout="IV", channels=2, pools=1, consistency="accelerated")
    config = small(network=network.model_dump(), optimiser="muon", muon_learning_rate=0.05, learning_rate=2e-3)
    groups = groups_of(config)
    assert {(group["method"], group["lr"]) for group in groups} == {("muon", 0.05), ("adam", 2e-3)}
    for group in groups:
        assert all((p.ndim == 4 and p.shape[-1] > 1) == (group["method"] == "muon") for p in group["params"])


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_without_muon_one_method_steps_the_whole_network(optimiser):
    config = small(optimiser=optimiser, weight_decay=0.1)
    (group,) = groups_of(config)
    assert group["method"] == optimiser
    assert group["weight_decay"] == (0.1 if optimiser == "adamw" else 0.0)
