"""The U-Net that regularises an unrolled block: an encoder and a decoder, each of which tasks can share or own.

Its layers and parameters are those of fastMRI's ``NormUnet`` (Sriram et al. 2020, arXiv:2004.06688): it takes fastMRI's
weights and gives the same output. Only the speed differs. Pooling is two additions, and the image's size decides the
memory format of the feature maps and the form of instance norm (``memory_format``). ``recon.network.unrolled`` decides
which tasks share which parts.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recon.errors import InputError

MULTIPLE = 16
"""Images are padded with zeros to a multiple of this, whatever the number of poolings (as in fastMRI)."""

SLOPE = 0.2
"""Negative slope of the leaky ReLU (as in fastMRI)."""

EPSILON = 1e-5
"""Instance norm adds this to the variance (PyTorch's default, as in fastMRI)."""

UnetRunner = Callable[[nn.Module, nn.Module, Tensor], Tensor]
"""Runs encoder and decoder on an image, as ``run_unet`` does."""

CHANNELS_LAST_PIXELS = 128 * 128
"""Images with at least this many pixels go through the U-Net with their channels last in memory."""


def memory_format(image: Tensor) -> torch.memory_format:
    """The order of axes in memory in which the U-Net is fast on an image, (batch, channels, rows, columns).

    With channels last, convolutions are faster and norms are slower. On CPUs this pays from about 128 × 128 pixels on,
    for any number of channels and any batch size. PyTorch's norms then add up pixels one by one, so the rounding error
    is about three times that of the other order (twelve untrained blocks at 160 × 160, against double precision: 2.8e-4
    and 1.1e-4 of the largest value; fastMRI's 9e-5).
    """
    large = image.shape[-2] * image.shape[-1] >= CHANNELS_LAST_PIXELS
    return torch.channels_last if large else torch.contiguous_format


def norm_relu(x: Tensor) -> Tensor:
    """Instance norm (no parameters, eps 1e-5), then leaky ReLU: (batch, channels, rows, columns) → the same.

    Instance norm is a group norm with one channel per group; for a single sample it is also a batch norm. Group norm is
    fast when channels are first in memory, batch norm when they are last.
    """
    if x.is_contiguous():
        return F.leaky_relu(F.group_norm(x, x.shape[1]), SLOPE, inplace=True)
    result: Tensor = _NormRelu.apply(x)
    return result


class ConvBlock(nn.Module):
    """Twice: 3×3 convolution without bias, instance norm, leaky ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
        self.second = nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1, bias=False)

    def forward(self, *parts: Tensor) -> Tensor:
        """(batch, channels_in, rows, columns), whole or its channels in parts → (batch, channels_out, rows, columns).

        The sum of one convolution per part equals the convolution of the concatenated parts. With channels last it is
        as fast, and no copy of the parts is kept.
        """
        if len(parts) == 1 or parts[0].is_contiguous():
            x = self.first(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))
        else:
            weights = self.first.weight.split([part.shape[1] for part in parts], dim=1)
            x = F.conv2d(parts[0], weights[0], padding=1)
            for part, weight in zip(parts[1:], weights[1:], strict=True):
                x += F.conv2d(part, weight, padding=1)
        return norm_relu(self.second(norm_relu(x)))


class Encoder(nn.Module):
    """The contracting half of a U-Net, with its bottom block.

    Args:
        channels: of the first level; each further level has twice as many.
        pools: how often the image is halved.
        channels_in: channels of the input; 2 = real and imaginary part.
    """

    def __init__(self, channels: int, pools: int, channels_in: int = 2) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(pools + 1)]
        self.levels = nn.ModuleList(ConvBlock(a, b) for a, b in zip([channels_in, *widths[:-1]], widths, strict=True))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(batch, channels_in, rows, columns) → the output of every level, finest first, the bottom last.

        Raises InputError if the image is too small.
        """
        pools = len(self.levels) - 1
        rows, columns = x.shape[-2:]
        if (rows >> pools) * (columns >> pools) < 2:  # a single pixel has no standard deviation to divide by
            raise InputError(
                f"{rows} × {columns} pixels cannot be halved {pools} times and leave more than one: use fewer poolings"
            )
        outputs: list[Tensor] = []
        for level in self.levels:
            outputs.append(level(halve(outputs[-1]) if outputs else x))
        return outputs


class Decoder(nn.Module):
    """The expanding half of a U-Net.

    Args:
        channels: as in the encoder.
        pools: as in the encoder.
        channels_out: channels of the output; 2 = real and imaginary part.
        zero_init: start the last convolution at zero, weights and bias.
    """

    def __init__(self, channels: int, pools: int, channels_out: int = 2, zero_init: bool = False) -> None:
        super().__init__()
        widths = [channels * 2**level for level in reversed(range(pools))]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, kernel_size=2, stride=2, bias=False) for w in widths)
        self.levels = nn.ModuleList(ConvBlock(2 * w, w) for w in widths)
        self.last = nn.Conv2d(channels, channels_out, kernel_size=1)
        if zero_init:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]  # Conv2d has a bias unless told otherwise

    def forward(self, outputs: list[Tensor]) -> Tensor:
        """The encoder's outputs → (batch, channels_out, rows, columns)."""
        *skips, x = outputs
        for up, level, skip in zip(self.ups, self.levels, reversed(skips), strict=True):
            x = norm_relu(up(x))
            missing = (0, skip.shape[-1] - x.shape[-1], 0, skip.shape[-2] - x.shape[-2])
            if any(missing):  # pooling dropped the last row or column of an odd size
                x = F.pad(x, missing, "reflect")
            x = level(x, skip)
        return self.last(x)


def run_unet(encoder: nn.Module, decoder: nn.Module, image: Tensor) -> Tensor:
    """Run the U-Net of these two halves: (batch, 2, rows, columns), real → the same shape."""
    result: Tensor = decoder(encoder(image))
    return result


def regularise(
    encoder: nn.Module,
    decoder: nn.Module,
    x: Tensor,
    restore_mean: bool = True,
    multiple: int = MULTIPLE,
    run: UnetRunner = run_unet,
) -> Tensor:
    """Run the U-Net of these two halves on complex images, normalised per sample: (batch, rows, columns) → the same.

    The real and the imaginary part are each normalised to zero mean and unit standard deviation over the image.
    Afterwards their standard deviation and mean are restored (fastMRI's ``NormUnet``). A constant part, such as an
    empty slice, has no standard deviation: the U-Net then adds nothing to its mean and gets no gradient, where
    fastMRI's would be NaN.

    Args:
        encoder: an ``Encoder``.
        decoder: its ``Decoder``.
        x: (batch, rows, columns), complex.
        restore_mean: add the mean to the output, as fastMRI does. Without it, a U-Net whose last convolution is zero
            returns zero.
        multiple: rows and columns are padded with zeros to a multiple of this for the U-Net.
        run: runs the two halves on the padded image, as ``run_unet`` does; it may compute less precisely.
    """
    rows, columns = x.shape[-2:]
    mean = x.mean(dim=(1, 2), keepdim=True)
    planes = torch.view_as_real(x - mean)  # (batch, rows, columns, 2)
    # torch.std takes four times as long as mean and norm together.
    std = torch.linalg.vector_norm(planes, dim=(1, 2), keepdim=True) / math.sqrt(rows * columns - 1)
    normalised = planes / torch.where(std > 0, std, 1)
    top, left = (-rows % multiple) // 2, (-columns % multiple) // 2
    margins = (left, -columns % multiple - left, top, -rows % multiple - top)
    image = normalised.permute(0, 3, 1, 2)
    if any(margins):
        image = F.pad(image, margins)
    image = run(encoder, decoder, image.contiguous(memory_format=memory_format(image)))
    if any(margins):
        image = image[..., top : top + rows, left : left + columns]
    output = torch.view_as_complex((image.permute(0, 2, 3, 1) * std).contiguous())
    return output + mean if restore_mean else output


class UNet(nn.Module):
    """An encoder and a decoder as one network on complex images, normalised per sample.

    Args:
        channels: of the first level.
        pools: how often the image is halved.
        zero_init: start as a network that returns zero: the last convolution starts at zero, and the mean is not
            restored. Without it, this is fastMRI's ``NormUnet``.
    """

    def __init__(self, channels: int, pools: int, zero_init: bool = False) -> None:
        super().__init__()
        self.encoder = Encoder(channels, pools)
        self.decoder = Decoder(channels, pools, zero_init=zero_init)
        self.restore_mean = not zero_init

    def forward(self, x: Tensor) -> Tensor:
        """(batch, rows, columns) complex → the same."""
        return regularise(self.encoder, self.decoder, x, self.restore_mean)


def halve(x: Tensor) -> Tensor:
    """Average over 2×2 pixels, without an odd last row or column: (…, rows, columns) → (…, rows // 2, columns // 2)."""
    if x.is_cuda:
        return F.avg_pool2d(x, 2)  # one kernel on a GPU, but slow on a CPU
    result: Tensor = _Halve.apply(x)
    return result


class _NormRelu(torch.autograd.Function):
    """``norm_relu`` by batch norm, one sample at a time. It keeps only its output, from which the ReLU's input follows.

    Keeping the input would double the memory: the next convolution keeps the output in any case.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        found = [torch.native_batch_norm(one, None, None, None, None, True, 0.0, EPSILON) for one in x.split(1)]
        output = _joined([normed for normed, _, _ in found])
        F.leaky_relu(output, SLOPE, inplace=True)
        ctx.save_for_backward(output, *(inverse_deviation for _, _, inverse_deviation in found))
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        output, *inverse_deviations = ctx.saved_tensors
        grad = torch.ops.aten.leaky_relu_backward(grad, output, SLOPE, True)
        normed = F.leaky_relu(output, 1 / SLOPE)
        zero, one = torch.zeros_like(inverse_deviations[0]), torch.ones_like(inverse_deviations[0])
        # Its input has mean 0 and standard deviation 1, so the original standard deviation is put back afterwards.
        pieces = [
            torch.ops.aten.native_batch_norm_backward(
                g, n, None, None, None, zero, one, True, EPSILON, [True, False, False]
            )[0].mul_(inverse_deviation[:, None, None])
            for g, n, inverse_deviation in zip(grad.split(1), normed.split(1), inverse_deviations, strict=True)
        ]
        return _joined(pieces)


def _joined(samples: list[Tensor]) -> Tensor:
    return samples[0] if len(samples) == 1 else torch.cat(samples)


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        rows, columns = x.shape[-2] // 2 * 2, x.shape[-1] // 2 * 2
        pairs = x[..., 0:rows:2, :columns] + x[..., 1:rows:2, :columns]
        return pairs[..., 0::2].add(pairs[..., 1::2]).mul_(0.25)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        spread = F.interpolate(grad * 0.25, scale_factor=2, mode="nearest")
        rows, columns = ctx.shape[-2] - spread.shape[-2], ctx.shape[-1] - spread.shape[-1]
        return F.pad(spread, (0, columns, 0, rows)) if rows or columns else spread
