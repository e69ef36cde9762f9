"""A trained network on arrays: k-space in, image out, without files and without prepared data.

Without a mask, we find it from the zeros of k-space. Without maps, ESPIRiT computes them. ``recon.reconstruct`` reads
raw files, with their headers, noise scans and oversampling.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.errors import InputError
from recon.network.unrolled import UnrolledNetwork
from recon.physics.coils import magnitude_of, sense_combine
from recon.physics.espirit import EIGENVALUE_CROP, espirit
from recon.physics.fourier import ifft
from recon.physics.operators import Cartesian, ColumnSense, Sense, to_hybrid

NEARLY_ALL = 0.9
"""For finding a mask from k-space: a line counts as fully acquired if more than this share of it is not zero."""

Array = TypeVar("Array", "np.ndarray[Any, Any]", Tensor)


def reconstruct_arrays(
    network: UnrolledNetwork,
    kspace: Array,
    task: str,
    mask: Any = None,
    maps: Any = None,
    *,
    calibration_width: int = 24,
    eigenvalue_crop: float = EIGENVALUE_CROP,
    maps_sets: int = 1,
) -> Array:
    """Reconstruct slices of k-space.

    Args:
        network: the network, in evaluation mode, on the device where it is to run.
        kspace: (coils, rows, columns) or (slices, coils, rows, columns), complex, NumPy or torch: centred, by the
            orthonormal Fourier transform (``recon.physics.fourier``), without readout oversampling, zero where nothing
            was acquired.
        task: one of the network's tasks.
        mask: the acquired samples, bool or 0 and 1, the same for all slices: (columns,) for whole columns, or (rows,
            columns). Without it, the samples that are not zero.
        maps: coil maps in ``kspace``'s shape, with Σ|s|² of 1 inside the object and 0 outside; or several sets of them,
            (sets, coils, rows, columns) or (slices, sets, coils, rows, columns), orthonormal at each pixel or zero
            (soft SENSE). Without maps, ESPIRiT computes them from the centre that the mask keeps.
        calibration_width: edge of ESPIRiT's calibration region, in samples.
        eigenvalue_crop: ESPIRiT's maps are zero where the eigenvalue is at most this.
        maps_sets: number of sets that ESPIRiT computes, 1 or 2.

    Returns:
        The complex images, (rows, columns) or (slices, rows, columns), of ``kspace``'s kind and device and in its
        units: a network on fully sampled data gives about Σ s̄ F⁻¹k. With several sets of maps, one image per set:
        (sets, rows, columns) or (slices, sets, rows, columns); the magnitude of all is √Σ|x|² over sets.

    Raises:
        InputError: arrays have other shapes or types, samples are not finite, nothing was acquired, ESPIRiT has too few
            lines, or the network does not know the task.
    """
    samples = _samples(kspace)
    keep = _mask(mask, samples)
    samples = samples * keep
    if maps is None:
        calibrate = partial(espirit, mask=keep, crop=eigenvalue_crop, sets=maps_sets)
        sensitivities = np.stack([calibrate(one, calibration_width) for one in samples])
    else:
        sensitivities = _given_maps(maps, samples, several=kspace.ndim == 4)
    device = next(network.parameters()).device
    images = []
    for one, own in zip(samples, sensitivities, strict=True):
        # Training divides by the volume's largest target magnitude; here the zero-filled image replaces the target.
        scale = float(magnitude_of(sense_combine(ifft(one, (-2, -1)), own)).max()) or 1.0
        operator, given = _operator(one / np.float32(scale), own, keep, device)
        with torch.no_grad():
            images.append(network(operator, given, task)[0] * scale)
    result = torch.stack(images) if kspace.ndim == 4 else images[0]
    if isinstance(kspace, Tensor):
        return result.to(kspace.device)
    return result.cpu().numpy()


def _samples(kspace: Any) -> NDArray[np.complex64]:
    """The k-space as (slices, coils, rows, columns), complex64."""
    array = _numpy(kspace)
    if not np.iscomplexobj(array) or array.ndim not in (3, 4) or 0 in array.shape:
        raise InputError(
            "k-space is complex, (coils, rows, columns) or (slices, coils, rows, columns); "
            f"found {array.dtype} of shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise InputError("k-space holds samples that are not finite")
    if not array.any():
        raise InputError("k-space is zero everywhere")
    return np.ascontiguousarray(array.reshape(-1, *array.shape[-3:]), np.complex64)


def _mask(mask: Any, samples: NDArray[np.complex64]) -> NDArray[np.bool_]:
    """The mask: (columns,) if whole columns are kept, else (rows, columns)."""
    rows, columns = samples.shape[-2:]
    keep: NDArray[np.bool_]
    if mask is None:
        keep = _found_mask(samples)
    else:
        keep = np.atleast_1d(_numpy(mask) != 0)
        if keep.shape not in ((columns,), (rows, columns)):
            raise InputError(f"the mask is ({columns},) or ({rows}, {columns}) here; found {keep.shape}")
        keep = np.broadcast_to(keep, (rows, columns))
    acquired: NDArray[np.bool_] = np.asarray(keep.any(axis=0))
    if not acquired.any():
        raise InputError("the mask keeps nothing")
    return acquired if keep[:, acquired].all() else keep


def _found_mask(samples: NDArray[np.complex64]) -> NDArray[np.bool_]:
    """Where at least one slice and coil has a sample, (rows, columns)."""
    there: NDArray[np.bool_] = (samples != 0).any(axis=(0, 1))
    lines = np.outer(there.any(axis=1), there.any(axis=0))
    # A sample may be zero by chance; lines of which nearly all are there were acquired whole.
    return lines if there[lines].mean() > NEARLY_ALL else there


def _given_maps(maps: Any, samples: NDArray[np.complex64], several: bool) -> NDArray[np.complex64]:
    """Maps of each slice, (slices, coils, rows, columns) or (slices, sets, coils, rows, columns).

    ``several`` says whether slices were given, or a single one.
    """
    given = _numpy(maps)
    each = given if several else given[None]
    one_set, sets = samples.shape, (len(samples), each.shape[1] if each.ndim > 1 else 0, *samples.shape[1:])
    if each.shape not in (one_set, sets):
        raise InputError(
            f"the maps have k-space's shape, {samples.shape[-3:]} for each slice, or sets of it; found {given.shape}"
        )
    return np.ascontiguousarray(each, np.complex64)


def _operator(
    kspace: NDArray[np.complex64], maps: NDArray[np.complex64], keep: NDArray[np.bool_], device: torch.device
) -> tuple[Cartesian, Tensor]:
    """The operator of one slice, and the slice's k-space in the operator's space."""
    samples, sensitivities = (torch.from_numpy(one)[None].to(device) for one in (kspace, maps))
    mask = torch.from_numpy(np.array(keep)).to(device)  # a copy: what was broadcast cannot be written to
    if keep.ndim == 1:
        samples, sensitivities = to_hybrid(samples, sensitivities)
        return ColumnSense(sensitivities, mask[None, None, None, :]), samples
    return Sense(sensitivities, mask[None, None]), samples


def _numpy(array: Any) -> NDArray[Any]:
    return array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
