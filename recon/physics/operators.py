"""The acquisition A = sampling · Fourier transform · coil maps on Cartesian k-space, with Aᴴ and AᴴA.

``Sense`` takes centred k-space and any mask. ``ColumnSense`` is the fast path for masks that keep whole columns:
k-space stays in *hybrid* space, (row position, column frequency), so that only the columns are transformed. Both run
plain FFTs and never shift: the diagonals of ``recon.physics.fourier.centring_phases`` sit in maps and sampling
(``Sense``) or were folded into maps and k-space beforehand (``ColumnSense``; ``to_hybrid`` does it).
``recon.physics.espirit`` computes the maps, ``recon.data.loading`` makes the batches.

Soft SENSE (Uecker et al. 2014, Magn Reson Med 71:990-1001): where an object is larger than the field of view, several
parts of it lie in one pixel, and one set of maps cannot explain them. With several sets the image has one part per set,
A x = sampling · FFT · Σ_j s_j x_j. The sets of a pixel are orthonormal or zero, so ‖AᴴA‖ ≤ 1 as with one set.
"""

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from recon.physics.fourier import centring_phases, ifft

Image = TypeVar("Image", np.ndarray, Tensor)


class Cartesian:
    """A by plain FFTs, ``sampling`` · FFT over ``axes`` · ``maps``: what the two operators below have in common.

    An image is (batch, rows, columns) with one set of maps, (batch, sets, rows, columns) with several.

    Attributes:
        maps: s, (batch, coils, rows, columns) or (batch, sets, coils, rows, columns), complex, phases folded in.
        sampling: the mask, times output phases where there are any; broadcasts against k-space; complex.
        coverage: Σ|s|² over the coils, the shape of an image, real. It is 1 where ESPIRiT saw signal.
    """

    def __init__(self, maps: Tensor, sampling: Tensor, axes: tuple[int, ...]) -> None:
        self.maps = maps
        self.sampling = sampling
        self.coverage = torch.view_as_real(maps).square().sum(dim=(-4, -1))
        self._axes = axes
        self._several = maps.ndim == 5
        self._maps_conj = maps.conj().resolve_conj()
        self._sampling_conj = sampling.conj().resolve_conj()
        self._mask = (sampling * self._sampling_conj).real.to(maps.dtype)
        # AᴴA transforms there and back by unscaled FFTs (orthonormal ones pass once more over the data), and the scale
        # of the pair stands in the mask.
        self._scaled_mask = self._mask / math.prod(maps.shape[axis] for axis in axes)

    def forward(self, x: Tensor) -> Tensor:
        """A x: image → k-space (batch, coils, rows, columns)."""
        return self.sampling * self._fft(self._coil_images(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᴴ y: k-space (batch, coils, rows, columns) → image."""
        coils = self._ifft(self._sampling_conj * y)
        return (self._maps_conj * (coils.unsqueeze(1) if self._several else coils)).sum(dim=-3)

    def normal(self, x: Tensor) -> Tensor:
        """AᴴA x: image → image. Differentiable in x; the maps are taken as constants.

        AᴴA is its own adjoint, so its gradient is another AᴴA, and nothing of the coils' size is kept for it.
        """
        if not x.requires_grad:  # a Function costs as much as two of the operations in it, where an image is small
            return self._normal(x)
        result: Tensor = _Normal.apply(x, self)
        return result

    def _coil_images(self, x: Tensor) -> Tensor:
        """Σ_j s_j x_j: image → (batch, coils, rows, columns)."""
        y = self.maps * x.unsqueeze(-3)
        return y.sum(dim=1) if self._several else y

    def _fft(self, x: Tensor) -> Tensor:
        return torch.fft.fftn(x, dim=self._axes, norm="ortho")

    def _ifft(self, x: Tensor) -> Tensor:
        return torch.fft.ifftn(x, dim=self._axes, norm="ortho")

    def _normal(self, x: Tensor) -> Tensor:
        y = torch.fft.fftn(self._coil_images(x), dim=self._axes)
        y *= self._scaled_mask
        y = torch.fft.ifftn(y, dim=self._axes, norm="forward")
        if self._several:
            return (y.unsqueeze(1) * self._maps_conj).sum(dim=2)
        y *= self._maps_conj
        return y.sum(dim=1)


class Sense(Cartesian):
    """A on centred two-dimensional k-space: the general path, for any Cartesian mask.

    Args:
        maps: (batch, coils, rows, columns) or (batch, sets, coils, rows, columns), complex, as stored.
        mask: broadcasts against k-space, for instance (batch, 1, rows, columns); bool or 0 and 1.
    """

    def __init__(self, maps: Tensor, mask: Tensor) -> None:
        rows_in, rows_out = phases(maps.shape[-2], maps)
        columns_in, columns_out = phases(maps.shape[-1], maps)
        folded = maps * (rows_in[:, None] * columns_in)
        super().__init__(folded, mask * (rows_out[:, None] * columns_out), axes=(-2, -1))


class ColumnSense(Cartesian):
    """A in hybrid space, for masks that keep whole columns: the fast path, one-dimensional FFTs only.

    Args:
        maps: (batch, coils, rows, columns) or (batch, sets, coils, rows, columns), complex, with the columns' phases
            folded in by ``to_hybrid``.
        mask: (batch, 1, 1, columns), bool or 0 and 1.
    """

    def __init__(self, maps: Tensor, mask: Tensor) -> None:
        super().__init__(maps, mask.to(maps.dtype), axes=(-1,))


def to_hybrid(kspace: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Bring centred k-space and maps, each (…, rows, columns), to where ``ColumnSense`` works.

    K-space: F_c⁻¹ along the rows (the readout), times conj(D_out) along the columns. Maps: times D_in along the
    columns.
    """
    columns_in, columns_out = phases(kspace.shape[-1], kspace)
    return ifft(kspace, (-2,)) * columns_out.conj(), maps * columns_in


def magnitude_of(image: Tensor) -> Tensor:
    """Magnitudes, (batch, rows, columns), of images with one set of maps or several: √Σ_j|x_j|².

    Args:
        image: (batch, rows, columns) or (batch, sets, rows, columns), complex or real.
    """
    return image.abs() if image.ndim == 3 else torch.linalg.vector_norm(image, dim=1)


def phases(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """``centring_phases(n)`` as tensors of another's precision and device."""
    d_in, d_out = centring_phases(n)
    return torch.from_numpy(d_in).to(like), torch.from_numpy(d_out).to(like)


def centre_crop(image: Image, shape: tuple[int, int]) -> Image:
    """The region of ``shape`` = (rows, columns) about the centre of the last two axes, a view.

    The centre is sample n // 2, as in the Fourier transform.
    """
    top = image.shape[-2] // 2 - shape[0] // 2
    left = image.shape[-1] // 2 - shape[1] // 2
    return image[..., top : top + shape[0], left : left + shape[1]]


class _Normal(torch.autograd.Function):
    """AᴴA with itself as its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Cartesian) -> Tensor:
        ctx.operator = operator
        return operator._normal(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.operator.normal(grad), None
