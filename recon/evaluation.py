"""How good a reconstruction is, slice by slice: a network's, the zero-filled image, sigpy's ℓ1-wavelet reconstruction.

Training asks for means and values over the validation split; the final test asks for a table of slices and for
pictures. Metrics are computed in ``recon.metrics``, their definitions are named in ``recon.definitions``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sigpy.mri.app
import torch
from torch import Tensor

from recon import metrics
from recon.config import MaskConfig
from recon.data.loading import Batch, slice_batch
from recon.data.prepared import PreparedData, Slice, Split
from recon.errors import InputError
from recon.fourier import ifft
from recon.masks import Mask, fixed
from recon.operators import centre_crop
from recon.unrolled import UnrolledNetwork

METRICS = ("ssim", "psnr", "nrmse")


def measure(prediction: Tensor, target: Tensor, definition: str = "paper") -> dict[str, Tensor]:
    """SSIM, pSNR (dB) and nRMSE of magnitude images, each of shape (batch,).

    Args:
        prediction: (batch, rows, columns), complex or real.
        target: the same shape.
        definition: a name of ``recon.definitions.DEFINITIONS``.
    """
    a, b = prediction.abs(), target.abs()
    return {
        "ssim": metrics.ssim(a, b, definition=definition),
        "psnr": metrics.psnr(a, b, definition=definition),
        "nrmse": metrics.nrmse(a, b, definition=definition),
    }


SliceMetrics = Mapping[str, Mapping[str, Sequence[float]]]
"""By task, parallel lists: ``slice_id`` (of the prepared data's index), ``ssim``, ``psnr`` (dB), ``nrmse``."""


class Validation(NamedTuple):
    """What a validation found, under the definition ``paper``."""

    metrics: dict[str, float]
    """``ssim/<task>``, ``psnr/<task>``, ``nrmse/<task>``: means over the task's slices; ``ssim``: mean over tasks."""
    slices: SliceMetrics
    """The values that those are the means of."""


def validate(network: UnrolledNetwork, batches: Iterable[Batch]) -> Validation:
    """Measure a network on every slice of the batches."""
    found: dict[str, dict[str, list[Tensor]]] = {}
    ids: dict[str, list[int]] = {}
    network.eval()
    with torch.no_grad():
        for batch in batches:
            prediction = centre_crop(network(batch, batch.task), batch.crop)
            target = centre_crop(batch.target, batch.crop)
            task = found.setdefault(batch.task, {name: [] for name in METRICS})
            ids.setdefault(batch.task, []).extend(batch.slice_ids)
            for name, values in measure(prediction, target).items():
                task[name].append(values)
    slices = {
        task: {"slice_id": ids[task], **{name: torch.cat(values).tolist() for name, values in by_name.items()}}
        for task, by_name in found.items()
    }
    means = {f"{name}/{task}": float(np.mean(values[name])) for task, values in slices.items() for name in METRICS}
    means["ssim"] = float(np.mean([means[f"ssim/{task}"] for task in found]))
    return Validation(means, slices)


Method = Callable[[Slice, Mask], "np.ndarray[Any, Any]"]
"""Reconstructs one slice from the lines that the mask keeps: -> (rows, columns), in the units of the slice's target."""


def network_method(network: UnrolledNetwork, task: str, device: torch.device | str = "cpu") -> Method:
    """The network as a Method for slices of one task."""

    def reconstruct(piece: Slice, mask: Mask) -> np.ndarray[Any, Any]:
        batch = slice_batch(piece, mask, task).to(device)
        with torch.no_grad():
            image = network(batch, task)[0] * batch.scale[0]
        return image.cpu().numpy()

    return reconstruct


def zero_filled(piece: Slice, mask: Mask) -> np.ndarray[Any, Any]:
    """Aᴴ of the kept lines: what the scanner shows without any reconstruction."""
    coils = ifft(piece.kspace * mask.columns, axes=(-2, -1))
    return np.asarray((piece.maps.conj() * coils).sum(axis=0))


def l1_wavelet(regularisation: float, iterations: int = 60) -> Method:
    """sigpy's ℓ1-wavelet SENSE reconstruction (db4), the classical reference.

    Args:
        regularisation: λ of ½‖Ax − y‖² + λ‖Wx‖₁ for k-space divided by the volume's scale.
        iterations: of FISTA.
    """

    def reconstruct(piece: Slice, mask: Mask) -> np.ndarray[Any, Any]:
        app = sigpy.mri.app.L1WaveletRecon(
            piece.kspace * mask.columns / piece.row.scale,
            piece.maps,
            regularisation,
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
    """What a regularisation was chosen from: mean validation SSIM (definition ``paper``) a candidate."""

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
    """Choose λ by mean SSIM on validation slices of the task, spread evenly over the split; no test slice is looked at.

    Args:
        data: prepared data.
        task: whose validation slices.
        mask: the fixed undersampling of validation.
        candidates: a coarse grid of λ; the best of it is refined once on either side.
        most_slices: how many slices at most.
        iterations: of each reconstruction.

    Raises InputError where the task has no validation slices.
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


def measure_slice(piece: Slice, method: Method, mask: MaskConfig) -> dict[str, float]:
    """The metrics of one slice under the definition ``paper``."""
    image, target = reconstruct(piece, method, mask)
    values = measure(torch.from_numpy(image)[None], torch.from_numpy(target)[None])
    return {name: float(value[0]) for name, value in values.items()}


def reconstruct(piece: Slice, method: Method, mask: MaskConfig) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A method's magnitude image of a slice and the reference's, both (crop rows, crop columns)."""
    row = piece.row
    drawn = fixed(mask, row.columns, padding=(row.pad_left, row.pad_right))
    target = centre_crop(torch.from_numpy(np.ascontiguousarray(piece.target)), (row.crop_rows, row.crop_columns))
    return magnitude(piece, method, drawn), target.abs().numpy()


def magnitude(piece: Slice, method: Method, mask: Mask) -> np.ndarray[Any, Any]:
    """A method's magnitude image of a slice from the lines that the mask keeps, (crop rows, crop columns).

    Every method's image is cut to where the coil maps are not all zero: the reference is zero elsewhere, and a method
    that is free there (a wavelet bleeds over the edge) would be charged for pixels that no data speak of.
    """
    support = (piece.maps != 0).any(axis=0)
    image = torch.from_numpy(np.ascontiguousarray(method(piece, mask) * support))
    return centre_crop(image, (piece.row.crop_rows, piece.row.crop_columns)).abs().numpy()


@dataclass(frozen=True)
class Pictures:
    """A volume's magnitude images: the reference's and each method's, (slices, rows, columns)."""

    task: str
    volume: str
    reference: np.ndarray[Any, Any]
    images: dict[str, np.ndarray[Any, Any]]


def evaluate(
    data: PreparedData,
    split: Split,
    methods: dict[str, dict[str, Method]],
    mask: MaskConfig,
    definitions: tuple[str, ...] = ("paper", "slice", "volume"),
) -> Iterator[tuple[Pictures, pd.DataFrame]]:
    """Reconstruct a split volume by volume with every method and measure every slice.

    Args:
        data: prepared data; the test split only where it was opened for testing.
        split: ``train``, ``val`` or ``test``.
        methods: for each task, its methods by name.
        mask: the fixed undersampling that every slice shares.
        definitions: names of ``recon.definitions.DEFINITIONS``.

    Yields:
        the volume's pictures, and a table with the columns
        ``task, volume, slice, method, definition, ssim, psnr, nrmse``.
    """
    for task, by_name in methods.items():
        ids = data.subset(task, split=split)
        index = data.index.set_index("slice_id").loc[ids]
        for volume, rows in index.groupby("volume", sort=True):
            rows = rows.sort_values("slice")
            pieces = [data.read(int(one)) for one in rows.index]
            pairs = {name: [reconstruct(piece, method, mask) for piece in pieces] for name, method in by_name.items()}
            reference = np.stack([target for _, target in next(iter(pairs.values()))])
            images = {name: np.stack([image for image, _ in found]) for name, found in pairs.items()}
            yield (
                Pictures(task, str(volume), reference, images),
                pd.concat(
                    _table(task, str(volume), rows["slice"].to_numpy(), name, reference, stack, definition)
                    for name, stack in images.items()
                    for definition in definitions
                ),
            )


def _table(
    task: str,
    volume: str,
    slices: np.ndarray[Any, Any],
    method: str,
    reference: np.ndarray[Any, Any],
    images: np.ndarray[Any, Any],
    definition: str,
) -> pd.DataFrame:
    values = measure(torch.from_numpy(images), torch.from_numpy(reference), definition)
    columns = {name: value.double().numpy() for name, value in values.items()}
    return pd.DataFrame(
        {"task": task, "volume": volume, "slice": slices, "method": method, "definition": definition, **columns}
    )
