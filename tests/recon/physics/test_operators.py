"""A and Aᴴ are adjoint, agree with sigpy, and the fast path equals the general one."""

import numpy as np
import pytest
import sigpy.mri.linop
import torch
from torch.autograd import gradcheck

from recon.physics.fourier import fft, ifft
from recon.physics.operators import ColumnSense, Sense, centre_crop, phases, to_hybrid

SHAPES = [(2, 3, 8, 12), (1, 4, 9, 7), (2, 2, 10, 11)]


def noise(shape, seed=0, dtype=torch.complex128):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def column_mask(batch, columns, seed=1):
    draws = torch.rand(batch, 1, 1, columns, generator=torch.Generator().manual_seed(seed))
    return draws < 0.5


def general(shape, seed=0):
    batch, _, rows, columns = shape
    mask = torch.rand(batch, 1, rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.4
    return Sense(noise(shape, seed=seed), mask)


def hybrid(shape, seed=0):
    maps = noise(shape, seed=seed)
    return ColumnSense(to_hybrid(torch.zeros_like(maps), maps)[1], column_mask(shape[0], shape[-1]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", [general, hybrid])
def test_forward_and_adjoint_are_adjoint(make, shape):
    operator = make(shape)
    x, y = noise((shape[0], *shape[2:]), seed=3), noise(shape, seed=4)
    left = torch.vdot(operator.forward(x).ravel(), y.ravel())
    right = torch.vdot(x.ravel(), operator.adjoint(y).ravel())
    assert abs(left - right) < 1e-12 * abs(left)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", [general, hybrid])
def test_normal_is_the_adjoint_after_the_forward(make, shape):
    operator = make(shape)
    x = noise((shape[0], *shape[2:]), seed=3)
    torch.testing.assert_close(operator.normal(x), operator.adjoint(operator.forward(x)), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("make", [general, hybrid])
def test_gradients_are_those_of_finite_differences(make):
    shape = (2, 2, 4, 5)
    operator = make(shape)
    x, y = noise((2, 4, 5), seed=3).requires_grad_(), noise(shape, seed=4).requires_grad_()
    assert gradcheck(operator.forward, (x,))
    assert gradcheck(operator.adjoint, (y,))
    assert gradcheck(operator.normal, (x,))


@pytest.mark.parametrize("shape", SHAPES)
def test_sense_equals_sigpys(shape):
    operator = general(shape)
    maps, mask = noise(shape), operator._mask.real
    x, y = noise((shape[0], *shape[2:]), seed=3), noise(shape, seed=4)
    for n in range(shape[0]):
        theirs = sigpy.mri.linop.Sense(maps[n].numpy(), weights=mask[n, 0].numpy())
        np.testing.assert_allclose(operator.forward(x)[n].numpy(), theirs(x[n].numpy()), atol=1e-12)
        np.testing.assert_allclose(operator.adjoint(y)[n].numpy(), theirs.H(y[n].numpy()), atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_hybrid_space_gives_what_centred_k_space_gives(shape):
    maps, kspace, x = noise(shape), noise(shape, seed=2), noise((shape[0], *shape[2:]), seed=3)
    mask = column_mask(shape[0], shape[-1])
    slow = Sense(maps, mask)
    kspace_hybrid, maps_hybrid = to_hybrid(kspace, maps)
    fast = ColumnSense(maps_hybrid, mask)
    torch.testing.assert_close(fast.adjoint(kspace_hybrid), slow.adjoint(kspace), rtol=0, atol=1e-12)
    torch.testing.assert_close(fast.normal(x), slow.normal(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(fast.coverage, slow.coverage, rtol=0, atol=1e-12)
    # Back from hybrid space: D_out along the columns, then the rows' transform.
    back = fft(fast.forward(x) * phases(shape[-1], kspace)[1], (-2,))
    torch.testing.assert_close(back, slow.forward(x), rtol=0, atol=1e-12)


def test_masking_in_hybrid_space_is_masking_in_k_space():
    kspace, mask = noise((2, 3, 8, 9)), column_mask(2, 9)
    torch.testing.assert_close(to_hybrid(kspace * mask, kspace)[0], to_hybrid(kspace, kspace)[0] * mask)


def test_coverage_is_the_sum_of_squared_magnitudes():
    maps = noise((2, 5, 4, 6))
    torch.testing.assert_close(Sense(maps, column_mask(2, 6)).coverage, maps.abs().square().sum(1))


def test_single_precision_stays_single():
    maps = noise((1, 3, 6, 8), dtype=torch.complex64)
    for operator in (Sense(maps, column_mask(1, 8)), ColumnSense(maps, column_mask(1, 8))):
        x = noise((1, 6, 8), dtype=torch.complex64)
        assert operator.forward(x).dtype == operator.normal(x).dtype == torch.complex64
        assert operator.adjoint(operator.forward(x)).dtype == torch.complex64


@pytest.mark.parametrize("shape", [(8, 9), (9, 8), (7, 7), (8, 8)])
@pytest.mark.parametrize("crop", [(4, 4), (5, 3), (4, 5)])
def test_the_centre_crop_keeps_the_transforms_centre_at_the_centre(shape, crop):
    kspace = np.ones(shape, dtype=np.complex128)  # its image is a point at n // 2
    cut = centre_crop(np.abs(ifft(kspace)), crop)
    assert cut.shape == crop
    assert np.unravel_index(cut.argmax(), crop) == (crop[0] // 2, crop[1] // 2)
