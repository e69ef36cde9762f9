"""A network on several sets of maps: the weights of one set, an image per set, the block's own k-space recursion."""

import numpy as np
import pytest
import torch

from recon.config import NetworkConfig
from recon.network.unet import regularise
from recon.network.unrolled import UnrolledNetwork
from recon.physics.fourier import fft, ifft
from recon.physics.operators import ColumnSense, Sense, to_hybrid
from tests.recon.soft_sense import orthonormal_sets

ROWS, COLUMNS, COILS = 18, 20, 4


def network(consistency="k-space", sense_steps=0):
    torch.manual_seed(0)
    config = NetworkConfig(
        layout="I3", channels=3, pools=1, consistency=consistency, sense_steps=sense_steps, zero_init=False
    )
    return UnrolledNetwork(config, ["PDw"]).double()


def problem(sets=2):
    maps = np.stack([orthonormal_sets(sets, COILS, ROWS, COLUMNS, seed) for seed in range(2)])
    maps = torch.from_numpy(maps).to(torch.complex128)
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, sets, ROWS, COLUMNS, generator=generator, dtype=torch.complex128)
    keep = torch.rand(2, 1, 1, COLUMNS, generator=generator) < 0.5
    return fft((maps * image.unsqueeze(2)).sum(1)) * keep, maps, keep


def test_a_block_is_that_of_k_space_with_the_sum_over_sets():
    """k ← k − η M(k − k₀) − F Σ_j s_j U(Σ s̄_j F⁻¹k), the block of fastMRI with several sets."""
    net, (kspace, maps, keep) = network(), problem()

    def combined(current):
        return (maps.conj() * ifft(current).unsqueeze(1)).sum(2)

    current = kspace
    for block in net.blocks:
        encoder, decoder, eta = block.path(0)
        parts = [regularise(encoder, decoder, one) for one in combined(current).unbind(1)]
        spread = fft((maps * torch.stack(parts, 1).unsqueeze(2)).sum(1))
        current = current - eta * keep * (current - kspace) - spread
    found = net(Sense(maps, keep), kspace, "PDw")
    # Maps in single precision are orthonormal to that precision.
    torch.testing.assert_close(found, combined(current), rtol=0, atol=1e-5)


@pytest.mark.parametrize("consistency", ["k-space", "image", "accelerated"])
def test_both_operators_give_an_image_per_set_and_gradients(consistency):
    net, (kspace, maps, keep) = network(consistency, sense_steps=2), problem()
    slow = net(Sense(maps, keep), kspace, "PDw")
    hybrid, folded = to_hybrid(kspace, maps)
    fast = net(ColumnSense(folded, keep), hybrid, "PDw")
    assert slow.shape == (2, 2, ROWS, COLUMNS)
    torch.testing.assert_close(slow, fast, rtol=0, atol=1e-10)
    gradients = torch.autograd.grad(fast.abs().square().sum(), list(net.parameters()))
    assert all(torch.isfinite(one).all() for one in gradients)
    assert any(one.abs().max() > 0 for one in gradients)


@pytest.mark.parametrize("consistency", ["k-space", "accelerated"])
def test_a_second_set_without_signal_changes_nothing(consistency):
    """So what was trained on one set runs on two."""
    net, (kspace, maps, keep) = network(consistency, sense_steps=2), problem(sets=1)
    empty = torch.cat([maps, torch.zeros_like(maps)], dim=1)
    one = net(Sense(maps[:, 0], keep), kspace, "PDw")
    two = net(Sense(empty, keep), kspace, "PDw")
    torch.testing.assert_close(two[:, 0], one, rtol=0, atol=1e-12)
    assert not two[:, 1].any()
