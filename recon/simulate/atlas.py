"""The three labelled knees as smooth fields that can be sampled anywhere: shapes and distances, in millimetres.

Leaves to others: what each subject makes of a knee, and every tissue that the labels lack (`anatomy`).

Coordinates are (x, y, z) in mm from the middle of the joint line: x anterior→posterior, y superior→inferior,
z medial→lateral (knees of the other side are mirrored). The labels' origin and licence: knee_labels.md.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import (
    affine_transform,
    binary_fill_holes,
    distance_transform_edt,
    gaussian_filter,
)
from scipy.special import ndtri

KNEES = ("a", "b", "c")
REACH_MM = 105.0
"""The fields reach this far above and below the joint line; shafts that the labels cut off are continued."""

MARGIN_MM = 14.0

FEMORAL_CARTILAGE, MEDIAL_CARTILAGE, LATERAL_CARTILAGE, PATELLAR_CARTILAGE = 1, 2, 3, 4
FEMUR, TIBIA, PATELLA, FIBULA, LATERAL_MENISCUS, MEDIAL_MENISCUS = 5, 6, 7, 8, 9, 10

FAR_MM = 2.1
BONE_BLUR_MM = 1.2
THIN_BLUR_MM = 0.6

Bool = NDArray[np.bool_]
Float = NDArray[np.float32]


@dataclass(frozen=True)
class Field:
    """Channels (channels, x, y, z) on a regular grid from `origin` with `spacing`, both in mm."""

    values: torch.Tensor
    origin: tuple[float, float, float]
    spacing: float

    def __call__(self, points: Float) -> Float:
        """Trilinear interpolation at points (3, n) in mm; beyond the grid its edge counts. Returns (channels, n)."""
        shape = np.array(self.values.shape[1:], np.float32)[:, None]
        place = (points - np.array(self.origin, np.float32)[:, None]) / np.float32(self.spacing)
        unit = (2 * place / (shape - 1) - 1)[::-1]
        grid = torch.from_numpy(np.ascontiguousarray(unit.T, np.float32))[None, None, None]
        sampled = torch.nn.functional.grid_sample(
            self.values[None], grid, mode="bilinear", padding_mode="border", align_corners=True
        )
        return np.asarray(sampled[0, :, 0, 0].numpy())


@dataclass(frozen=True)
class Atlas:
    """One knee, ready to be sampled.

    near: bone (mm inside the surface, within ±2.5 mm), cartilage and meniscus (occupancy, the surface at 0.5).
    far: distances in mm, negative inside, to femur, tibia, patella, fibula, cartilage and capsule.
    landmarks: places (x, y, z) in mm that the soft tissue is hung on. size: the bones' width over 84 mm.
    """

    near: Field
    far: Field
    landmarks: dict[str, tuple[float, float, float]]
    size: float


def _load(knee: str) -> tuple[NDArray[np.uint8], float]:
    with files("recon.simulate").joinpath("knee_labels.npz").open("rb") as stream, np.load(stream) as archive:
        labels = archive[f"knee_{knee}"]
        spacing = float(archive["voxel_mm"])
    if _centre(labels == MEDIAL_CARTILAGE)[2] > _centre(labels == LATERAL_CARTILAGE)[2]:
        labels = labels[:, :, ::-1]
    # Room at the sides, for beyond the grid its edge counts.
    margin = round(MARGIN_MM / spacing)
    return np.pad(labels, ((margin, margin), (0, 0), (margin, margin))), spacing


def _centre(mask: Bool) -> NDArray[np.float64]:
    return np.array([np.average(np.arange(n), weights=mask.sum(tuple({0, 1, 2} - {i}))) for i, n in enumerate(mask.shape)])


def _continue_shafts(labels: NDArray[np.uint8], above: int, below: int) -> NDArray[np.uint8]:
    """Add `above` and `below` voxels along y: the last cross-section of each bone, tapering towards its own centre."""
    result = np.pad(labels, ((0, 0), (above, below), (0, 0)))
    height = labels.shape[1]
    for count, edge, sign in ((above, 1, -1), (below, height - 2, 1)):
        for bone, taper in ((FEMUR, 0.001), (TIBIA, 0.0045), (FIBULA, 0.0)):
            section = (labels[:, edge] == bone).astype(np.float32)
            if not section.any():
                continue
            section = np.asarray(binary_fill_holes(section > 0), np.float32)
            centre = np.array([np.average(np.arange(n), weights=section.sum(1 - i)) for i, n in enumerate(section.shape)])
            for step in range(1, count + 2):
                grow = 1 + taper * step
                moved = affine_transform(section, [grow, grow], centre - grow * centre, order=1) > 0.5
                row = above + edge + sign * step
                result[:, row][moved & (result[:, row] == 0)] = bone
    return result


def _distance(mask: Bool, spacing: float) -> Float:
    """Signed distance in mm, negative inside."""
    if not mask.any():
        return np.full(mask.shape, 200.0, np.float32)
    outside = distance_transform_edt(~mask, spacing)
    inside = distance_transform_edt(mask, spacing)
    return np.asarray(np.where(mask, spacing / 2 - inside, outside - spacing / 2), np.float32)


def _coarser(occupancy: Float, factor: int) -> Float:
    """Means over cubes of `factor` voxels a side; an incomplete last cube is left out."""
    shape = [n // factor for n in occupancy.shape]
    cut = occupancy[tuple(slice(0, n * factor) for n in shape)]
    return np.asarray(cut.reshape(shape[0], factor, shape[1], factor, shape[2], factor).mean((1, 3, 5)), np.float32)


@lru_cache(maxsize=6)
def atlas(knee: str, coarse: bool) -> Atlas:
    """The fields of knee `knee` ('a', 'b' or 'c'); `coarse` samples shapes at 1.4 mm instead of 0.7 mm.

    Built once a process, in about a second (coarse) or a few.
    """
    labels, spacing = _load(knee)
    medial, lateral = _centre(labels == MEDIAL_CARTILAGE), _centre(labels == LATERAL_CARTILAGE)
    joint = (medial + lateral) / 2
    reach = round(REACH_MM / spacing)
    above, below = max(0, reach - round(joint[1])), max(0, reach - (labels.shape[1] - round(joint[1])))
    labels = _continue_shafts(labels, above, below)
    joint[1] += above
    top = round(joint[1]) - reach
    labels = labels[:, top : top + 2 * reach]
    joint[1] -= top

    def place(voxel: NDArray[np.float64]) -> tuple[float, float, float]:
        x, y, z = ((voxel - joint) * spacing).tolist()
        return x, y, z

    bones = (labels >= FEMUR) & (labels <= FIBULA)
    across = np.flatnonzero(((labels == FEMUR) | (labels == TIBIA)).any((0, 1)))
    size = float(across[-1] - across[0]) * spacing / 84.0
    cartilages = (labels >= FEMORAL_CARTILAGE) & (labels <= PATELLAR_CARTILAGE)
    menisci = (labels == LATERAL_MENISCUS) | (labels == MEDIAL_MENISCUS)

    factor = 2 if coarse else 1
    near_spacing = spacing * factor

    def near(mask: Bool, blur: float) -> Float:
        occupancy = _coarser(mask.astype(np.float32), factor)
        return np.asarray(gaussian_filter(occupancy, blur / near_spacing, truncate=3), np.float32)

    inside = near(bones, BONE_BLUR_MM)
    depth = BONE_BLUR_MM * ndtri(np.clip(inside, 0.018, 0.982)).astype(np.float32)
    near_field = _field([depth, near(cartilages, THIN_BLUR_MM), near(menisci, THIN_BLUR_MM)], joint, spacing, factor)

    far_factor = round(FAR_MM / spacing)
    masks = [_coarser((labels == bone).astype(np.float32), far_factor) > 0.5 for bone in (FEMUR, TIBIA, PATELLA, FIBULA)]
    masks.append(_coarser(cartilages.astype(np.float32), far_factor) > 0.35)
    hull = np.logical_or.reduce(masks)
    distances = [_distance(mask, FAR_MM) for mask in masks]
    # The capsule spans the joint: the bones' closing by a ball of 10 mm.
    capsule = _distance(_distance(hull, FAR_MM) < 10.0, FAR_MM) + 10.0
    far_field = _field([*distances, capsule], joint, spacing, far_factor)

    patella = np.argwhere(labels == PATELLA)
    landmarks = {
        "patella": place(patella.mean(0)),
        "patella_front": place(np.array([patella[:, 0].min(), *patella.mean(0)[1:]])),
        "patella_top": place(np.array([patella[:, 0].mean(), patella[:, 1].min(), patella[:, 2].mean()])),
        "patella_bottom": place(np.array([patella[:, 0].mean(), patella[:, 1].max(), patella[:, 2].mean()])),
        "medial": place(_centre(labels == MEDIAL_CARTILAGE)),
        "lateral": place(_centre(labels == LATERAL_CARTILAGE)),
    }
    return Atlas(near_field, far_field, landmarks, size)


def _field(channels: list[Float], joint: NDArray[np.float64], spacing: float, factor: int) -> Field:
    """Channels sampled at the centres of cubes of `factor` voxels, as a Field."""
    x, y, z = (((factor - 1) / 2 - joint) * spacing).tolist()
    return Field(torch.from_numpy(np.stack(channels)), (x, y, z), spacing * factor)
