"""Where the slices of an ISMRMRD file lie in the patient: their order in space, and the volume's geometry.

ISMRMRD's positions and directions are in the patient's coordinates (left, posterior, superior), like DICOM's. A slice's
position is that of its sample n // 2, where the centred Fourier transform has its origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data.readers import header
from recon.data.readers.raw import Geometry

APART_MM = 1e-3
"""Slices that lie closer have no positions of their own."""
STRAIGHT = 1e-2
"""Tolerance of the directions: lengths of one, right angles, and the same in all slices."""


@dataclass(frozen=True)
class Slices:
    """The slices of an image.

    Attributes:
        counters: their counters, in ascending order.
        place: of each of these counters, from 0 in the order of space, else of the counters.
        positions: (slices, 3) in mm, in the order of place; None where the file does not say.
        directions: (3, 3): unit vectors of readout, phase encoding and slice; None where the file does not say, or the
            slices do not share them.
        note: what a user should know; may be empty.
    """

    counters: NDArray[np.int64]
    place: NDArray[np.int64]
    positions: NDArray[np.float64] | None
    directions: NDArray[np.float64] | None
    note: str

    def of(self, counters: Any) -> NDArray[np.int64]:
        """Place of each of some slice counters; -1 for one that the image does not have."""
        found = np.minimum(np.searchsorted(self.counters, counters), self.counters.size - 1)
        return np.where(self.counters[found] == counters, self.place[found], -1)


def slices_of(heads: Any) -> Slices:
    """The slices that readouts belong to."""
    counters, first = np.unique(heads["idx"]["slice"], return_index=True)
    one_each = heads[first]
    vectors = np.stack([one_each[name] for name in ("read_dir", "phase_dir", "slice_dir")], axis=1).astype(float)
    positions, normals = one_each["position"].astype(float), vectors[:, 2]
    alike = bool(np.isfinite(normals).all() and np.abs(normals - normals[0]).max() <= STRAIGHT)
    along = np.einsum("nd,nd->n", positions, normals)
    order = np.argsort(along, kind="stable")
    spread = alike and bool(np.isfinite(along).all() and (np.diff(along[order]) > APART_MM).all())
    place = np.arange(counters.size)
    if spread:
        place[order] = np.arange(counters.size)
    else:
        order = place
    return Slices(
        counters=counters.astype(np.int64),
        place=place,
        positions=positions[order] if spread and np.isfinite(positions).all() else None,
        directions=_directions(vectors),
        note="" if alike else "its slices do not have the same orientation; they are taken in the order of counting",
    )


def _directions(vectors: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The orthonormal axes (3, 3) that all slices share, from (slices, 3, 3)."""
    if not np.isfinite(vectors).all() or np.abs(vectors - vectors[0]).max() > STRAIGHT:
        return None
    axes = vectors[0]
    if np.abs(axes @ axes.T - np.eye(3)).max() > STRAIGHT:
        return None
    return np.asarray(axes / np.linalg.norm(axes, axis=1, keepdims=True))


def of_slices(encoding: Any, found: Slices, rows: int, image_rows: int, columns: int) -> Geometry | None:
    """Geometry of a stack of slices, with the columns along the phase encoding; None without fields of view.

    Args:
        encoding: of the image.
        found: its slices.
        rows: samples along the readout.
        image_rows: rows of the image.
        columns: of k-space.
    """
    readout, phase = header.readout_field(encoding, rows), header.fields(encoding, "y")
    if readout is None or phase is None:
        return None
    thickness = header.fields(encoding, "z")
    spacing = thickness and thickness[1]
    if found.positions is not None and len(found.positions) > 1:
        spacing = float(np.median(np.linalg.norm(np.diff(found.positions, axis=0), axis=1)))
    if not spacing:
        return None
    voxel = readout / rows, phase[0] / columns, spacing
    middle = None if found.positions is None else (found.positions[0] + found.positions[-1]) / 2
    return _geometry(voxel, (image_rows, columns, 1), found.directions, middle)


def of_slab(encoding: Any, found: Slices, rows: int, shape: tuple[int, int, int]) -> Geometry | None:
    """Geometry of a three-dimensional scan, whose slices lie along the readout; None without fields of view.

    Args:
        encoding: of the image.
        found: the slab, as the only slice.
        rows: samples along the readout.
        shape: slices, rows and columns of the volume.
    """
    readout = header.readout_field(encoding, rows)
    first, second = header.fields(encoding, "y"), header.fields(encoding, "z")
    if readout is None or first is None or second is None:
        return None
    voxel = first[0] / shape[1], second[0] / shape[2], readout / rows
    directions = None if found.directions is None else found.directions[[1, 2, 0]]
    middle = None if found.positions is None else found.positions[0]
    return _geometry(voxel, (shape[1], shape[2], shape[0]), directions, middle)


def _geometry(
    voxel: tuple[float, float, float],
    shape: tuple[int, int, int],
    directions: NDArray[np.float64] | None,
    origin: NDArray[np.float64] | None,
) -> Geometry:
    """The geometry of an array whose sample n // 2 along each axis lies at ``origin``."""
    centre = None
    if directions is not None and origin is not None:
        size = np.asarray(shape)
        centre = origin + ((size - 1) / 2 - size // 2) * np.asarray(voxel) @ directions
    return Geometry(voxel, directions, centre)
