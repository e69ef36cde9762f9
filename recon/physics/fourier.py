"""Centred, orthonormal Fourier transforms for NumPy and torch, and the phases that do without their shifts.

The convention is that of sigpy, fastMRI and ``bart fft -u``: index n // 2 is position (or frequency) zero, and the
transform is unitary. Training calls neither function: it uses plain FFTs with the phases of ``centring_phases`` folded
into maps and k-space (``recon.physics.operators``). Preparing and inspecting data transform NumPy's arrays alone, and
need no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")


def fft(x: Array, axes: Sequence[int] = (-2, -1)) -> Array:
    """Image → k-space along ``axes``: F_c x, of the shape and (complex) precision of ``x``."""
    axes = tuple(axes)
    if isinstance(x, np.ndarray):
        return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)
    from torch import fft as transforms

    return transforms.fftshift(transforms.fftn(transforms.ifftshift(x, axes), dim=axes, norm="ortho"), axes)


def ifft(x: Array, axes: Sequence[int] = (-2, -1)) -> Array:
    """K-space → image along ``axes``: F_cᴴ x = F_c⁻¹ x, of the shape and (complex) precision of ``x``."""
    axes = tuple(axes)
    if isinstance(x, np.ndarray):
        return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)
    from torch import fft as transforms

    return transforms.fftshift(transforms.ifftn(transforms.ifftshift(x, axes), dim=axes, norm="ortho"), axes)


def centring_phases(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The diagonals D_in, D_out, each (n,) complex128, with F_c = D_out · FFT · D_in for a length of ``n``.

    With c = n // 2, F_c[k, j] = exp(-2πi (k - c)(j - c) / n) / √n, so D_in[j] = exp(2πi c j / n) and
    D_out[k] = exp(2πi c (k - c) / n). Both are unitary, hence F_c⁻¹ = conj(D_in) · IFFT · conj(D_out).
    """
    centre = n // 2
    index = np.arange(n)
    # The angle is reduced in whole numbers, so that a long axis costs no accuracy.
    d_in = np.exp(2j * np.pi * ((centre * index) % n) / n)
    d_out = np.exp(2j * np.pi * ((centre * (index - centre)) % n) / n)
    return d_in, d_out
