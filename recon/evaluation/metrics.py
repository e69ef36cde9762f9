"""The distance of a magnitude image from its reference: SSIM, pSNR and nRMSE, each by a named definition.

One pair of images has many SSIMs (the same pair can give .55 or .89), so every number that leaves this project carries
the name of its definition (``recon.evaluation.definitions``). ``recon.evaluation.compare`` chooses the slices.

All metrics run in double precision, batched, on the tensors' device. If a reference is constant or zero, pSNR and nRMSE
are undefined and come out as infinite or NaN.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from recon.errors import InputError
from recon.evaluation.definitions import DEFINITIONS

WINDOW = 7


def ssim(prediction: Tensor, reference: Tensor, definition: str = "paper") -> Tensor:
    """Structural similarity (Wang et al. 2004; K1 = .01, K2 = .03), the mean over all windows inside the image.

    Args:
        prediction: magnitudes, (batch, rows, columns), at least 7 × 7.
        reference: the same shape. For ``volume`` the batch is one volume.
        definition: a name of ``recon.evaluation.definitions.DEFINITIONS``.

    Returns:
        (batch,) double.

    Raises:
        InputError: an unknown definition, shapes that differ, or an image that is too small.
    """
    x, y = _checked(prediction, reference, definition)
    if min(x.shape[-2:]) < WINDOW:
        raise InputError(f"SSIM needs images of at least {WINDOW} × {WINDOW}, found {x.shape[-2]} × {x.shape[-1]}")
    if definition == "paper":
        x, y = _to_unit_range(x), _to_unit_range(y)
        data_range = torch.ones((), dtype=x.dtype, device=x.device)
    else:
        data_range = _range(y, definition)
    moments = torch.stack([x, y, x * x, y * y, x * y])
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _window_means(moments)
    sample = WINDOW**2 / (WINDOW**2 - 1)  # from the population covariance to the sample covariance
    var_x, var_y = sample * (mean_xx - mean_x**2), sample * (mean_yy - mean_y**2)
    covariance = sample * (mean_xy - mean_x * mean_y)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return similarity.mean(dim=(-2, -1))


def psnr(prediction: Tensor, reference: Tensor, definition: str = "paper") -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(range² / mean squared error); arguments and errors as in ``ssim``."""
    x, y = _checked(prediction, reference, definition)
    error = (x - y).square().mean(dim=(-2, -1))
    return 10 * torch.log10(_range(y, definition).flatten().square() / error)


def nrmse(prediction: Tensor, reference: Tensor, definition: str = "paper") -> Tensor:
    """Root mean squared error over the reference's root mean square, ‖d‖ / ‖g‖, the same in every definition.

    Arguments and errors as in ``ssim``.
    """
    x, y = _checked(prediction, reference, definition)
    return torch.linalg.vector_norm(x - y, dim=(-2, -1)) / torch.linalg.vector_norm(y, dim=(-2, -1))


def _checked(prediction: Tensor, reference: Tensor, definition: str) -> tuple[Tensor, Tensor]:
    if definition not in DEFINITIONS:
        raise InputError(f"there is no metric definition {definition!r}; they are {', '.join(DEFINITIONS)}")
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise InputError(
            "prediction and reference are of one shape (batch, rows, columns), "
            f"found {tuple(prediction.shape)} and {tuple(reference.shape)}"
        )
    return prediction.double(), reference.double()


def _range(reference: Tensor, definition: str) -> Tensor:
    """The data range of a definition: (batch, 1, 1), or (1, 1, 1) for the range of a volume."""
    if definition == "volume":
        return reference.max().reshape(1, 1, 1)
    highest = reference.amax(dim=(-2, -1), keepdim=True)
    return highest if definition == "slice" else highest - reference.amin(dim=(-2, -1), keepdim=True)


def _to_unit_range(x: Tensor) -> Tensor:
    """Scale every image to [0, 1] by its own minimum and maximum; a constant image becomes zero."""
    shifted = x - x.amin(dim=(-2, -1), keepdim=True)
    highest = shifted.amax(dim=(-2, -1), keepdim=True)
    return shifted / torch.where(highest > 0, highest, 1)


def _window_means(x: Tensor) -> Tensor:
    """Means over every 7 × 7 window that lies inside the image: (…, rows, columns) → (…, rows - 6, columns - 6)."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    means = F.avg_pool2d(F.avg_pool2d(flat, (WINDOW, 1), stride=1), (1, WINDOW), stride=1)
    return means.reshape(*x.shape[:-2], *means.shape[-2:])
