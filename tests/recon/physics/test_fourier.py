"""The Fourier convention is sigpy's and BART's, and the centring phases stand in for the shifts."""

import shutil
import subprocess

import numpy as np
import pytest
import sigpy
import torch

from recon.physics.fourier import centring_phases, fft, ifft

SHAPES = [((3, 8, 12), (-2, -1)), ((2, 7, 9), (-2, -1)), ((4, 15, 6), (-1,)), ((5, 6, 11), (1,))]


def noise(shape, seed=0, dtype=np.complex128):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_numpy_and_torch_agree_with_sigpy(shape, axes):
    x = noise(shape)
    np.testing.assert_allclose(fft(x, axes), sigpy.fft(x, axes=axes), atol=1e-13)
    np.testing.assert_allclose(ifft(x, axes), sigpy.ifft(x, axes=axes), atol=1e-13)
    np.testing.assert_allclose(fft(torch.from_numpy(x), axes).numpy(), sigpy.fft(x, axes=axes), atol=1e-13)
    np.testing.assert_allclose(ifft(torch.from_numpy(x), axes).numpy(), sigpy.ifft(x, axes=axes), atol=1e-13)


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_the_inverse_undoes_the_transform_and_keeps_norm_and_precision(shape, axes):
    x = noise(shape, dtype=np.complex64)
    y = fft(x, axes)
    assert y.dtype == np.complex64
    assert np.linalg.norm(y) == pytest.approx(np.linalg.norm(x), rel=1e-5)
    np.testing.assert_allclose(ifft(y, axes), x, atol=1e-5)
    assert fft(torch.from_numpy(x), axes).dtype == torch.complex64


@pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")
def test_agrees_with_bart(tmp_path):
    x = noise((10, 9), dtype=np.complex64)
    with open(tmp_path / "x.hdr", "w") as header:
        header.write("# Dimensions\n10 9\n")
    x.ravel(order="F").tofile(tmp_path / "x.cfl")
    subprocess.run(["bart", "fft", "-u", "3", "x", "y"], cwd=tmp_path, check=True)
    y = np.fromfile(tmp_path / "y.cfl", dtype=np.complex64).reshape((10, 9), order="F")
    np.testing.assert_allclose(fft(x), y, atol=2e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 64, 97, 320, 332, 333, 368])
def test_phases_turn_a_plain_fft_into_a_centred_one_for_any_length(n):
    d_in, d_out = centring_phases(n)
    x = noise((n,), seed=n)
    np.testing.assert_allclose(d_out * np.fft.fft(d_in * x, norm="ortho"), fft(x, (0,)), atol=1e-12)
    np.testing.assert_allclose(d_in.conj() * np.fft.ifft(d_out.conj() * x, norm="ortho"), ifft(x, (0,)), atol=1e-12)
    np.testing.assert_allclose(np.abs(d_in), 1, atol=1e-15)
    np.testing.assert_allclose(np.abs(d_out), 1, atol=1e-15)
