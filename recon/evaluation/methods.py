"""Methods that reconstruct a slice: a network, the zero-filled image, sigpy's ℓ1-wavelet.

Simulated data also have a ceiling: their noise-free truth, measured like a reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recon.config import MaskConfig
from recon.data.loading import slice_batch
from recon.data.prepared import PreparedData, Slice
from recon.errors import InputError
from recon.evaluation.compare import Method, measure_slice
from recon.evaluation.definitions import TRUTH
from recon.network.unrolled import UnrolledNetwork
from recon.physics.fourier import ifft
from recon.physics.masks import Mask


def network_method(network: UnrolledNetwork, task: str, device: torch.device | str = "cpu") -> Method:
    """The network as a Method for slices of one task."""

    def reconstruct(piece: Slice, mask: Mask) -> np.ndarray[Any, Any]:
        batch = slice_batch(piece, mask, task).to(device)
        with torch.no_grad():
            image = network(batch.operator(), batch.kspace, task)[0] * batch.scale[0]
        return image.cpu().numpy()

    return reconstruct


def zero_filled(piece: Slice, mask: Mask) -> np.ndarray[Any, Any]:
    """Aᴴ of what the mask keeps: what the scanner shows without any reconstruction."""
    coils = ifft(piece.kspace * mask.kept, axes=(-2, -1))
    return np.asarray((piece.maps.conj() * coils).sum(axis=-3))


def noise_free_truth(piece: Slice, mask: Mask) -> np.ndarray[Any, Any]:
    """The target without its noise, for any mask: not a reconstruction, but the ceiling of all reconstructions.

    Raises InputError if the slice was read without its truth, or the data do not know it.
    """
    if piece.truth is None:
        raise InputError(f"the {TRUTH} of volume {piece.row.volume} is not known; only simulated data have one")
    return piece.truth


def l1_wavelet(regularisation: float, iterations: int = 60) -> Method:
    """sigpy's ℓ1-wavelet SENSE reconstruction (db4), the classical reference.

    It is ``sigpy.mri.app.L1WaveletRecon``, put together from sigpy's operators so that it takes several sets of maps:
    each set's image has its own wavelet transform.

    Args:
        regularisation: λ of ½‖Ax − y‖² + λ‖Wx‖₁ for k-space divided by the volume's scale.
        iterations: number of FISTA iterations.
    """

    import sigpy.mri.linop  # imports numba, a second of CPU: not in every worker

    def reconstruct(piece: Slice, mask: Mask) -> np.ndarray[Any, Any]:
        kspace = piece.kspace * mask.kept / piece.row.scale
        sampled = kspace.any(axis=0).astype(np.float32)
        shape, plane = piece.target.shape, piece.target.shape[-2:]
        sets = piece.maps.reshape(-1, *piece.maps.shape[-3:])
        one_below_the_other = sigpy.linop.Reshape((len(sets) * plane[0], plane[1]), shape)
        each = [sigpy.mri.linop.Sense(maps, weights=sampled) for maps in sets]
        wavelet = sigpy.linop.Wavelet(shape, axes=(-2, -1), wave_name="db4")
        app = sigpy.app.LinearLeastSquares(
            sigpy.linop.Hstack(each, axis=0) * one_below_the_other,
            kspace,
            proxg=sigpy.prox.UnitaryTransform(sigpy.prox.L1Reg(wavelet.oshape, regularisation), wavelet),
            max_iter=iterations,
            # 1 / ‖AᴴA‖: F is unitary, the mask a projection, and Σ|s|² is at most one. Left to itself, sigpy estimates
            # the norm from NumPy's global random state, and gives another image every time.
            alpha=1,
            show_pbar=False,
        )
        return np.asarray(app.run()) * piece.row.scale

    return reconstruct


@dataclass(frozen=True)
class Tuning:
    """The search for a regularisation: the mean validation SSIM (definition ``paper``) of each candidate."""

    regularisation: float
    scores: dict[float, float]


def tune_l1_wavelet(
    data: PreparedData,
    task: str,
    mask: MaskConfig,
    *,
    candidates: Iterable[float] = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    most_slices: int = 6,
    iterations: int = 60,
) -> Tuning:
    """Choose λ by mean SSIM on validation slices of the task, spread evenly over the split. No test slice is used.

    Args:
        data: prepared data.
        task: the task whose validation slices are used.
        mask: the fixed undersampling of validation.
        candidates: a coarse grid of λ; the best of it is refined once on either side.
        most_slices: the largest number of slices to use.
        iterations: number of FISTA iterations of each reconstruction.

    Raises InputError if the task has no validation slices.
    """
    ids = data.subset(task, split="val")
    if not ids:
        raise InputError(f"{data.path} has no validation slices of {task} to choose a regularisation on")
    chosen = [ids[i] for i in np.unique(np.linspace(0, len(ids) - 1, most_slices).round().astype(int))]
    pieces = [data.read(one) for one in chosen]

    def score(candidate: float) -> float:
        method = l1_wavelet(candidate, iterations)
        return float(np.mean([measure_slice(piece, method, mask)["ssim"] for piece in pieces]))

    scores = {candidate: score(candidate) for candidate in candidates}
    coarse = max(scores, key=scores.__getitem__)
    scores |= {candidate: score(candidate) for candidate in (coarse / 1.7, coarse * 1.7)}
    return Tuning(max(scores, key=scores.__getitem__), scores)
