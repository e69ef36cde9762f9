"""Several sets of maps: A and Aᴴ stay adjoint, one set changes nothing, and BART's maps and images are the oracle."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from recon.physics.coils import sense_combine
from recon.physics.fourier import fft, ifft
from recon.physics.operators import ColumnSense, Sense, magnitude_of, to_hybrid
from tests.recon.bart import bart_on, needs_bart
from tests.recon.soft_sense import orthonormal_sets

SETS, COILS, ROWS, COLUMNS = 2, 5, 8, 9


def noise(*shape: int, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.complex128)


def maps_of(batch=2, sets=SETS, rows=ROWS, columns=COLUMNS):
    found = [orthonormal_sets(sets, COILS, rows, columns, seed) for seed in range(batch)]
    return torch.from_numpy(np.stack(found)).to(torch.complex128)


def general(maps):
    keep = torch.rand(len(maps), 1, *maps.shape[-2:], generator=torch.Generator().manual_seed(7)) < 0.5
    return Sense(maps, keep)


def hybrid(maps):
    keep = torch.rand(len(maps), 1, 1, maps.shape[-1], generator=torch.Generator().manual_seed(7)) < 0.5
    return ColumnSense(to_hybrid(torch.zeros_like(maps), maps)[1], keep)


@pytest.mark.parametrize("make", [general, hybrid])
def test_forward_and_adjoint_are_adjoint_and_normal_is_both(make):
    operator = make(maps_of())
    x, y = noise(2, SETS, ROWS, COLUMNS, seed=3), noise(2, COILS, ROWS, COLUMNS, seed=4)
    assert operator.forward(x).shape == y.shape
    assert operator.adjoint(y).shape == operator.normal(x).shape == operator.coverage.shape == x.shape
    left = torch.vdot(operator.forward(x).ravel(), y.ravel())
    assert abs(left - torch.vdot(x.ravel(), operator.adjoint(y).ravel())) < 1e-12 * abs(left)
    torch.testing.assert_close(operator.normal(x), operator.adjoint(operator.forward(x)), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("make", [general, hybrid])
def test_gradients_are_those_of_finite_differences(make):
    operator = make(maps_of(batch=1, rows=4, columns=5))
    x, y = noise(1, SETS, 4, 5, seed=3).requires_grad_(), noise(1, COILS, 4, 5, seed=4).requires_grad_()
    assert gradcheck(operator.forward, (x,))
    assert gradcheck(operator.adjoint, (y,))
    assert gradcheck(operator.normal, (x,))


@pytest.mark.parametrize("make", [general, hybrid])
def test_one_set_with_its_axis_is_one_set_without(make):
    maps = maps_of(sets=1)
    several, one = make(maps), make(maps[:, 0])
    x, y = noise(2, ROWS, COLUMNS, seed=3), noise(2, COILS, ROWS, COLUMNS, seed=4)
    torch.testing.assert_close(several.forward(x[:, None]), one.forward(x), rtol=0, atol=0)
    torch.testing.assert_close(several.adjoint(y)[:, 0], one.adjoint(y), rtol=0, atol=0)
    torch.testing.assert_close(several.normal(x[:, None])[:, 0], one.normal(x), rtol=0, atol=0)
    torch.testing.assert_close(several.coverage[:, 0], one.coverage, rtol=0, atol=0)


def test_several_sets_are_the_sum_of_each():
    maps, x = maps_of(), noise(2, SETS, ROWS, COLUMNS, seed=3)
    each = [general(maps[:, number]).forward(x[:, number]) for number in range(SETS)]
    torch.testing.assert_close(general(maps).forward(x), sum(each), rtol=0, atol=1e-13)


def test_the_norm_of_the_normal_operator_is_at_most_one():
    """A step of 1 is safe; with every sample it is 1 where there are maps."""
    operator = general(maps_of())
    x = noise(2, SETS, ROWS, COLUMNS)
    for _ in range(200):
        x = operator.normal(x) / torch.linalg.vector_norm(x)
    assert 0.5 < torch.linalg.vector_norm(x) <= 1 + 1e-6
    maps = maps_of()
    whole = Sense(maps, torch.ones(2, 1, ROWS, COLUMNS))
    inside = (maps != 0).any(dim=2)
    image = noise(2, SETS, ROWS, COLUMNS) * inside
    torch.testing.assert_close(whole.normal(image), image, rtol=0, atol=1e-6)
    torch.testing.assert_close(whole.coverage, inside.double(), rtol=0, atol=1e-6)


def test_fully_sampled_coil_images_are_combined_to_the_image_of_each_set():
    maps = orthonormal_sets(SETS, COILS, ROWS, COLUMNS)
    image = noise(SETS, ROWS, COLUMNS).numpy().astype(np.complex64) * (maps != 0).any(axis=1)
    coils = (maps * image[:, None]).sum(axis=0)
    np.testing.assert_allclose(sense_combine(coils, maps), image, atol=1e-5)
    np.testing.assert_array_equal(sense_combine(coils, maps[0]), sense_combine(coils, maps[:1])[0])


def test_magnitudes_of_sets_are_combined_by_root_sum_of_squares():
    x = noise(3, SETS, ROWS, COLUMNS)
    torch.testing.assert_close(magnitude_of(x), x.abs().square().sum(1).sqrt())
    torch.testing.assert_close(magnitude_of(x[:, 0]), x[:, 0].abs())


def folded_kspace(coils=8, size=48):
    """K-space of an ellipse that is wider than the field of view: its ends lie over each other."""
    y, x = np.mgrid[-size // 2 : size // 2, -size:size]
    phantom = ((y / 20) ** 2 + (x / 34) ** 2 < 1) * (1 + 0.3 * np.cos(x / 5) + 0.3 * np.sin(y / 4))
    angles = 2 * np.pi * np.arange(coils)[:, None, None] / coils
    near = np.exp(-((y - 26 * np.sin(angles)) ** 2 + (x - 44 * np.cos(angles)) ** 2) / (2 * 28**2))
    wide = phantom * near * np.exp(1j * (angles + 0.02 * x * np.cos(angles)))
    image = wide[..., size // 2 : -size // 2].copy()
    image[..., size // 2 :] += wide[..., : size // 2]
    image[..., : size // 2] += wide[..., -size // 2 :]
    rng = np.random.default_rng(0)
    return (fft(image) + 0.005 * (rng.standard_normal(image.shape) + 1j * rng.standard_normal(image.shape))).astype(
        np.complex64
    )


@needs_bart
def test_two_sets_reconstruct_a_folded_object_as_bart_does(tmp_path):
    """Regularised least squares by conjugate gradients on our AᴴA, against ``bart pics`` with the same maps."""
    kspace, weight = folded_kspace(), 0.01
    for_bart = kspace.transpose(1, 2, 0)[:, :, None]
    stored = bart_on(tmp_path, "ecalib -m2 -r20 -c0.8", for_bart)
    maps = np.ascontiguousarray(stored[:, :, 0].transpose(3, 2, 0, 1))
    coils = ifft(kspace)
    left = [coils - (maps[:n] * sense_combine(coils, maps[:n])[:, None]).sum(axis=0) for n in (1, 2)]
    one, two = (np.linalg.norm(rest) / np.linalg.norm(coils) for rest in left)
    assert one > 0.1
    assert two < 0.02
    keep = np.random.default_rng(1).random(kspace.shape[-2:]) < 0.45
    keep[18:30, 18:30] = True
    found = bart_on(tmp_path, f"pics -l2 -r {weight} -w 1 -i 100", for_bart * keep[:, :, None, None], stored)
    operator = Sense(torch.from_numpy(maps)[None], torch.from_numpy(keep)[None, None])
    residual = operator.adjoint(torch.from_numpy(kspace * keep)[None])
    image, direction = torch.zeros_like(residual), residual.clone()
    for _ in range(100):
        moved = operator.normal(direction) + weight * direction
        before = residual.abs().square().sum()
        step = before / torch.vdot(direction.ravel(), moved.ravel()).real
        image, residual = image + step * direction, residual - step * moved
        direction = residual + residual.abs().square().sum() / before * direction
    expected = found[:, :, 0, 0].transpose(2, 0, 1)
    np.testing.assert_allclose(image[0].numpy(), expected, atol=1e-4 * np.abs(expected).max())
