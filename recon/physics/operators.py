"""The acquisition A = sampling · Fourier transform · coil maps on Cartesian k-space, with Aᴴ and AᴴA.

``Sense`` takes centred k-space and any mask. ``ColumnSense`` is the fast path for masks that keep whole columns:
k-space stays in *hybrid* space, (row position, column frequency), so that only the columns are transformed. Both run
plain FFTs and never shift: the diagonals of ``recon.physics.fourier.centring_phases`` sit in maps and sampling
(``Sense``) or were folded into maps and k-space beforehand (``ColumnSense``; ``to_hybrid`` does it).
``recon.physics.espirit`` computes the maps, ``recon.data.loading`` makes the batches.
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

    Attributes:
        maps: s, (batch, coils, rows, columns), complex, phases folded in.
        sampling: the mask, times output phases where there are any; broadcasts against k-space; complex.
        coverage: Σ|s|² over the coils, (batch, rows, columns), real. It is 1 where ESPIRiT saw signal.
    """

    def __init__(self, maps: Tensor, sampling: Tensor, axes: tuple[int, ...]) -> None:
        self.maps = maps
        self.sampling = sampling
        self.coverage = torch.view_as_real(maps).square().sum(dim=(1, -1))
        self._axes = axes
        self._maps_conj = maps.conj().resolve_conj()
        self._sampling_conj = sampling.conj().resolve_conj()
        self._mask = (sampling * self._sampling_conj).real.to(maps.dtype)
        # AᴴA transforms there and back by unscaled FFTs (orthonormal ones pass once more over the data), and the scale
        # of the pair stands in the mask.
        self._scaled_mask = self._mask / math.prod(maps.shape[axis] for axis in axes)

    def forward(self, x: Tensor) -> Tensor:
        """A x: image (batch, rows, columns) → k-space (batch, coils, rows, columns)."""
        return self.sampling * self._fft(self.maps * x.unsqueeze(1))

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᴴ y: k-space (batch, coils, rows, columns) → image (batch, rows, columns)."""
        return (self._maps_conj * self._ifft(self._sampling_conj * y)).sum(dim=1)

    def normal(self, x: Tensor) -> Tensor:
        """AᴴA x: image (batch, rows, columns) → the same. Differentiable in x; the maps are taken as constants.

        AᴴA is its own adjoint, so its gradient is another AᴴA, and nothing of the coils' size is kept for it.
        """
        if not x.requires_grad:  # a Function costs as much as two of the operations in it, where an image is small
            return self._normal(x)
        result: Tensor = _Normal.apply(x, self)
        return result

    def _fft(self, x: Tensor) -> Tensor:
        return torch.fft.fftn(x, dim=self._axes, norm="ortho")

    def _ifft(self, x: Tensor) -> Tensor:
        return torch.fft.ifftn(x, dim=self._axes, norm="ortho")

    def _normal(self, x: Tensor) -> Tensor:
        y = torch.fft.fftn(self.maps * x.unsqueeze(1), dim=self._axes)
        y *= self._scaled_mask
        y = torch.fft.ifftn(y, dim=self._axes, norm="forward")
        y *= self._maps_conj
        return y.sum(dim=1)


class Sense(Cartesian):
    """A on centred two-dimensional k-space: the general path, for any Cartesian mask.

    Args:
        maps: (batch, coils, rows, columns), complex, as stored.
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
        maps: (batch, coils, rows, columns), complex, with the columns' phases folded in by ``to_hybrid``.
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
