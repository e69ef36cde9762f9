"""Compare methods on a split: reconstruct and measure every slice, for tables and pictures.

The methods themselves are in ``recon.evaluation.methods``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from recon.config import MaskConfig
from recon.data.index import Split
from recon.data.prepared import PreparedData, Slice
from recon.evaluation.measure import measure
from recon.physics.masks import Mask, fixed
from recon.physics.operators import centre_crop, magnitude_of

Method = Callable[[Slice, Mask], "np.ndarray[Any, Any]"]
"""A function that reconstructs one slice from what the mask keeps → an image of the target's shape and units."""


def measure_slice(piece: Slice, method: Method, mask: MaskConfig) -> dict[str, float]:
    """The metrics of one slice under the definition ``paper``."""
    image, target = reconstruct(piece, method, mask)
    values = measure(torch.from_numpy(image)[None], torch.from_numpy(target)[None])
    return {name: float(value[0]) for name, value in values.items()}


def reconstruct(piece: Slice, method: Method, mask: MaskConfig) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The magnitude images of a method and of the reference for a slice, both (crop rows, crop columns)."""
    row = piece.row
    drawn = fixed(mask, row.shape, row.padding)
    target = centre_crop(torch.from_numpy(np.ascontiguousarray(piece.target)), (row.crop_rows, row.crop_columns))
    return magnitude(piece, method, drawn), magnitude_of(target[None])[0].numpy()


def magnitude(piece: Slice, method: Method, mask: Mask) -> np.ndarray[Any, Any]:
    """A method's magnitude image of a slice from what the mask keeps, (crop rows, crop columns).

    We mask the image to the support of the coil maps (of several sets: of any of them). The reference is zero
    elsewhere, so a method that puts signal there (a wavelet bleeds over the edge) would be penalised for pixels on
    which there are no data.
    """
    support = (piece.maps != 0).any(axis=tuple(range(piece.maps.ndim - 2)))
    if mask.by_sample:
        mask = mask.within(np.asarray(piece.kspace.any(axis=0)))
    image = torch.from_numpy(np.ascontiguousarray(method(piece, mask) * support))
    return magnitude_of(centre_crop(image, (piece.row.crop_rows, piece.row.crop_columns))[None])[0].numpy()


@dataclass(frozen=True)
class VolumeImages:
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
) -> Iterator[tuple[VolumeImages, pd.DataFrame]]:
    """Reconstruct a split volume by volume with every method and measure every slice.

    Args:
        data: prepared data; to read the test split, open them for testing.
        split: ``train``, ``val`` or ``test``.
        methods: the methods of each task, by name.
        mask: the fixed undersampling that every slice shares.
        definitions: names of ``recon.evaluation.definitions.DEFINITIONS``.

    Yields:
        the volume's pictures, and a table with the columns
        ``task, volume, slice, method, definition, ssim, psnr, nrmse``.
    """
    for task, by_name in methods.items():
        ids = data.subset(task, split=split)
        index = data.index.set_index("slice_id").loc[ids]
        for volume, rows in index.groupby("volume", sort=True):
            rows = rows.sort_values("slice")
            pieces = [data.read(int(one), truth=True) for one in rows.index]
            pairs = {name: [reconstruct(piece, method, mask) for piece in pieces] for name, method in by_name.items()}
            reference = np.stack([target for _, target in next(iter(pairs.values()))])
            images = {name: np.stack([image for image, _ in found]) for name, found in pairs.items()}
            yield (
                VolumeImages(task, str(volume), reference, images),
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
