"""The U-Net is fastMRI's NormUnet, parameter for parameter, and stays finite where that would not."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks.fastmri_weights import norm_unet_state
from recon.errors import InputError
from recon.network import unet as module
from recon.network.unet import Decoder, Encoder, UNet, halve, memory_format, regularise

SIZES = [((32, 48), 2), ((20, 37), 2), ((33, 16), 3), ((16, 16), 3), ((80, 112), 5), ((30, 30), 1)]


def theirs(unet, channels, pools):
    varnet = pytest.importorskip("fastmri.models.varnet", reason="fastmri is not installed")
    other = varnet.NormUnet(channels, pools).to(next(unet.parameters()).dtype)
    other.load_state_dict(norm_unet_state(unet.encoder, unet.decoder))  # strict: every parameter, no other
    return other


def image(batch, size, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *size, generator=generator, dtype=dtype) * 3 + (0.7 - 1.3j)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex64, 1e-5), (torch.complex128, 1e-12)])
@pytest.mark.parametrize(("size", "pools"), SIZES)
def test_output_equals_fastmris_norm_unet(size, pools, dtype, tolerance):
    torch.manual_seed(1)
    unet = UNet(4, pools).to(torch.float64 if dtype == torch.complex128 else torch.float32)
    other = theirs(unet, 4, pools)
    x = image(2, size, dtype)
    expected = torch.view_as_complex(other(torch.view_as_real(x)[:, None]))[:, 0]
    assert (unet(x) - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize(("size", "pools"), [((20, 37), 2), ((80, 112), 5)])
def test_gradients_equal_fastmris(size, pools):
    torch.manual_seed(1)
    unet = UNet(3, pools).double()
    other = theirs(unet, 3, pools)
    x = image(2, size, torch.complex128).requires_grad_()
    (ours,) = torch.autograd.grad(unet(x).abs().sum(), x)
    out = torch.view_as_complex(other(torch.view_as_real(x)[:, None]))[:, 0]
    (expected,) = torch.autograd.grad(out.abs().sum(), x)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("channels", [8, 18])
@pytest.mark.parametrize("pools", [2, 4])
def test_parameter_count_is_fastmris(channels, pools):
    varnet = pytest.importorskip("fastmri.models.varnet", reason="fastmri is not installed")
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in net.parameters())
            for net in (UNet(channels, pools), varnet.NormUnet(channels, pools))
        ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("value", [0, 1, 2 - 3j])
def test_a_constant_image_passes_through_and_gives_finite_gradients(value):
    torch.manual_seed(0)
    unet = UNet(4, 2)
    x = torch.full((2, 16, 20), value, dtype=torch.complex64)
    x[1] += image(1, (16, 20), torch.complex64)[0]
    x.requires_grad_()
    y = unet(x)
    torch.testing.assert_close(y[0], x[0])
    y.abs().square().sum().backward()
    assert torch.isfinite(torch.view_as_real(x.grad)).all()
    assert all(torch.isfinite(p.grad).all() for p in unet.parameters())


ORDERS = [torch.contiguous_format, torch.channels_last]


def in_order(monkeypatch, order):
    """Every image goes through the U-Net in this order of axes."""
    monkeypatch.setattr(module, "memory_format", lambda image: order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("size", "pools"), [((20, 37), 2), ((80, 112), 5)])
def test_in_either_order_of_axes_output_and_gradients_are_fastmris(size, pools, batch, order, monkeypatch):
    in_order(monkeypatch, order)
    torch.manual_seed(1)
    unet = UNet(3, pools).double()
    other = theirs(unet, 3, pools)
    x = image(batch, size, torch.complex128).requires_grad_()
    output = unet(x)
    ours = torch.autograd.grad(output.abs().sum(), [x, *unet.parameters()])
    expected_output = torch.view_as_complex(other(torch.view_as_real(x)[:, None]))[:, 0]
    names = {id(parameter): name for name, parameter in norm_unet_state(unet.encoder, unet.decoder).items()}
    named = dict(other.named_parameters())
    expected = torch.autograd.grad(
        expected_output.abs().sum(), [x, *(named[names[id(parameter)]] for parameter in unet.parameters())]
    )
    torch.testing.assert_close(output, expected_output, rtol=0, atol=1e-11)
    for one, its in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, its, rtol=0, atol=1e-10 * float(its.abs().max() + 1))


@pytest.mark.parametrize("batch", [1, 2])
def test_in_single_precision_both_orders_of_axes_agree(batch, monkeypatch):
    torch.manual_seed(1)
    unet = UNet(8, 2)
    x = image(batch, (48, 64), torch.complex64)
    outputs = []
    for order in ORDERS:
        in_order(monkeypatch, order)
        outputs.append(unet(x))
    assert (outputs[0] - outputs[1]).abs().max() < 1e-5 * outputs[0].abs().max()


def test_large_images_have_their_channels_last_in_memory():
    assert memory_format(torch.empty(1, 2, 128, 128)) == torch.channels_last
    assert memory_format(torch.empty(4, 2, 112, 128)) == torch.contiguous_format
    seen = []
    encoder, decoder = Encoder(2, 1), Decoder(2, 1)
    decoder.last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for size in ((128, 144), (32, 48)):
        regularise(encoder, decoder, image(2, size, torch.complex64))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert seen[1].is_contiguous()


@pytest.mark.parametrize("size", [(56, 58), (21, 37), (7, 4)])
def test_least_padding_is_to_the_poolings_own_multiple(size):
    encoder, decoder = Encoder(2, 1), Decoder(2, 1)
    seen = []
    encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:]))
    output = regularise(encoder, decoder, image(1, size, torch.complex64), multiple=2)
    assert output.shape == (1, *size)
    assert seen == [(size[0] + size[0] % 2, size[1] + size[1] % 2)]


def test_each_sample_is_normalised_by_itself():
    torch.manual_seed(0)
    unet = UNet(4, 2).double()
    x = image(2, (16, 16), torch.complex128)
    torch.testing.assert_close(unet(x)[1:], unet(x[1:]))
    torch.testing.assert_close(unet(1e4 * x), 1e4 * unet(x), rtol=1e-9, atol=0)


def test_a_zeroed_unet_gives_zero_and_can_learn():
    unet = UNet(4, 2, zero_init=True)
    y = unet(image(2, (16, 20), torch.complex64))
    assert (y == 0).all()
    (y - 1).abs().square().sum().backward()
    assert unet.decoder.last.weight.grad.abs().max() > 0


@pytest.mark.parametrize("size", [(8, 6), (7, 6), (8, 5), (9, 9)])
def test_halving_is_average_pooling(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(halve(x), F.avg_pool2d(x, 2))
    weights = torch.randn_like(halve(x))
    (ours,) = torch.autograd.grad((halve(x) * weights).sum(), x)
    (expected,) = torch.autograd.grad((F.avg_pool2d(x, 2) * weights).sum(), x)
    torch.testing.assert_close(ours, expected)


def test_an_image_too_small_for_its_poolings_is_refused():
    with pytest.raises(InputError, match="48 × 16 pixels cannot be halved 5 times"):
        UNet(2, 5)(image(1, (40, 16), torch.complex64))
    with pytest.raises(InputError, match="16 × 16 pixels cannot be halved 4 times and leave more than one"):
        UNet(2, 4)(image(2, (16, 16), torch.complex64))


def test_runs_under_autocast():
    x = image(1, (16, 16), torch.complex64)
    unet = UNet(4, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = unet(x)
    assert y.dtype == torch.complex64
    torch.testing.assert_close(y, unet(x), rtol=0, atol=0.3)
