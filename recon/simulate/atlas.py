"""The three labelled knees as smooth fields that can be sampled anywhere: shapes and distances, in millimetres.

What bone and meniscus the labels lack is added here, because it must fit the labelled surfaces: shafts beyond the
labels' ends, and for two of the knees fibula and menisci. Leaves to others: what each subject makes of a knee, and all
soft tissue (`anatomy`).

Coordinates are (x, y, z) in mm from the middle of the joint line: x anterior→posterior, y superior→inferior,
z medial→lateral (knees of the other side are mirrored). The labels' origin and licence: knee_labels.md.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter
from scipy.special import ndtri

REACH_MM = 105.0
"""The fields reach this far above and below the joint line."""
MARGIN_MM = 14.0
"""Room around the labels in the other directions, for beyond the grid its edge counts."""

FEMORAL_CARTILAGE, MEDIAL_CARTILAGE, LATERAL_CARTILAGE, PATELLAR_CARTILAGE = 1, 2, 3, 4
FEMUR, TIBIA, PATELLA, FIBULA, LATERAL_MENISCUS, MEDIAL_MENISCUS = 5, 6, 7, 8, 9, 10

FAR_MM = 2.1
BONE_BLUR_MM = 1.1
THIN_BLUR_MM = 0.6
CAPSULE_MM = 10.0

FIBULA_AXIS = (
    (9, 21, 33, 2),
    (14, 22, 34, 8),
    (22, 22, 34, 9),
    (32, 21, 34.5, 6.5),
    (45, 20, 34, 5.5),
    (110, 19, 32, 6),
)
"""Of knees whose labels lack it: y, x, z and radius in mm before scaling; drawn by us after ordinary anatomy."""

Bool = NDArray[np.bool_]
Float = NDArray[np.float32]
Labels = NDArray[np.uint8]
Place = tuple[float, float, float]


@dataclass(frozen=True)
class Field:
    """Channels (channels, x, y, z) on a regular grid from `origin` with `spacing`, both in mm."""

    values: torch.Tensor
    origin: Place
    spacing: float

    def __call__(self, points: Float) -> Float:
        """Trilinear interpolation at points (3, n) in mm; beyond the grid its edge counts. Returns (channels, n)."""
        last = np.array(self.values.shape[1:], np.float32)[:, None] - 1
        place = (points - np.array(self.origin, np.float32)[:, None]) / np.float32(self.spacing)
        return look_up(self.values, 2 * place / last - 1)


def look_up(values: torch.Tensor, unit: Float) -> Float:
    """Trilinear interpolation of values (channels, x, y, z) where unit (3, n) runs from −1 to 1 over each axis."""
    grid = torch.from_numpy(np.ascontiguousarray(unit[::-1].T, np.float32))[None, None, None]
    sampled = torch.nn.functional.grid_sample(
        values[None], grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return np.asarray(sampled[0, :, 0, 0].numpy())


@dataclass(frozen=True)
class Atlas:
    """One knee, ready to be sampled.

    near: bone (mm inside the surface, within ±2.5 mm), cartilage and meniscus (occupancy, the surface at 0.5).
    far: distances in mm, negative inside, to femur, tibia, patella, fibula, cartilage and capsule.
    landmarks: places in mm that the soft tissue is hung on. size: the bones' width over 84 mm.
    """

    near: Field
    far: Field
    landmarks: dict[str, Place]
    size: float


@lru_cache(maxsize=6)
def atlas(knee: str, coarse: bool) -> Atlas:
    """The fields of knee `knee` ('a', 'b' or 'c'); `coarse` samples shapes at 1.4 mm instead of 0.7 mm.

    Built once per process, in a second or two.
    """
    labels, spacing = _load(knee)
    labels, joint = _centred(labels, spacing)
    across = np.flatnonzero(((labels == FEMUR) | (labels == TIBIA)).any((0, 1)))
    size = float(across[-1] - across[0]) * spacing / 84.0
    far_factor = round(FAR_MM / spacing)
    if not (labels == FIBULA).any():
        _add_fibula(labels, joint, spacing, size)
    if not (labels == MEDIAL_MENISCUS).any():
        _add_menisci(labels, spacing)

    bones = (labels >= FEMUR) & (labels <= FIBULA)
    cartilages = (labels >= FEMORAL_CARTILAGE) & (labels <= PATELLAR_CARTILAGE)
    menisci = (labels == LATERAL_MENISCUS) | (labels == MEDIAL_MENISCUS)
    factor = 2 if coarse else 1

    def occupancy(mask: Bool, blur: float) -> Float:
        blurred = gaussian_filter(_coarser(mask, factor), blur / (spacing * factor), truncate=3)
        return np.asarray(blurred, np.float32)

    # Blurring a plane edge by a Gaussian makes its cumulative distribution, whose inverse is the depth.
    depth = BONE_BLUR_MM * ndtri(np.clip(occupancy(bones, BONE_BLUR_MM), 0.012, 0.988)).astype(np.float32)
    shapes = [depth, occupancy(cartilages, THIN_BLUR_MM), occupancy(menisci, THIN_BLUR_MM)]

    masks = [_coarser(labels == bone, far_factor) > 0.5 for bone in (FEMUR, TIBIA, PATELLA, FIBULA)]
    masks.append(_coarser(cartilages, far_factor) > 0.35)
    # The capsule spans the joint: the bones' closing by a ball.
    hull = distance_transform_edt(~np.logical_or.reduce(masks), FAR_MM) < CAPSULE_MM
    within = distance_transform_edt(np.logical_or.reduce(masks[:4]), FAR_MM)
    distances = [_distance(mask, within, FAR_MM) for mask in masks]
    distances.append(_distance(hull, distance_transform_edt(hull, FAR_MM), FAR_MM) + CAPSULE_MM)
    return Atlas(
        near=_field(shapes, joint, spacing, factor),
        far=_field(distances, joint, spacing, far_factor),
        landmarks=_landmarks(labels, joint, spacing),
        size=size,
    )


def _load(knee: str) -> tuple[Labels, float]:
    """Labels with the lateral side at the high end of the last axis, and their spacing in mm."""
    with files("recon.simulate").joinpath("knee_labels.npz").open("rb") as stream, np.load(stream) as archive:
        labels = archive[f"knee_{knee}"]
        spacing = float(archive["voxel_mm"])
    if _middle(labels == MEDIAL_CARTILAGE)[2] > _middle(labels == LATERAL_CARTILAGE)[2]:
        labels = labels[:, :, ::-1]
    margin = round(MARGIN_MM / spacing)
    return np.pad(labels, ((margin, margin), (0, 0), (margin, margin))), spacing


def _middle(mask: Bool) -> NDArray[np.float64]:
    """Centre of gravity in voxels."""
    axes = range(mask.ndim)
    sums = [mask.sum(tuple(other for other in axes if other != axis)) for axis in axes]
    return np.array([np.average(np.arange(len(weights)), weights=weights) for weights in sums])


def _centred(labels: Labels, spacing: float) -> tuple[Labels, NDArray[np.float64]]:
    """Labels cut or continued to ±REACH_MM around the joint line along y, and the joint's middle in voxels."""
    joint = (_middle(labels == MEDIAL_CARTILAGE) + _middle(labels == LATERAL_CARTILAGE)) / 2
    reach = round(REACH_MM / spacing)
    above = max(0, reach - round(joint[1]))
    below = max(0, reach - (labels.shape[1] - round(joint[1])))
    labels = _continue_shafts(labels, above, below)
    top = round(joint[1]) + above - reach
    joint[1] += above - top
    return labels[:, top : top + 2 * reach].copy(), joint


def _continue_shafts(labels: Labels, above: int, below: int) -> Labels:
    """Add voxels along y: the last cross-section of each bone, tapering towards its own centre."""
    result = np.pad(labels, ((0, 0), (above, below), (0, 0)))
    for count, edge, sign in ((above, 1, -1), (below, labels.shape[1] - 2, 1)):
        for bone, taper in ((FEMUR, 0.001), (TIBIA, 0.0045), (FIBULA, 0.0)):
            section = binary_fill_holes(labels[:, edge] == bone)
            if not section.any():
                continue
            centre = _middle(section)
            for step in range(1, count + 2):
                wanted = [
                    np.rint(middle + (1 + taper * step) * (np.arange(n) - middle)).astype(int).clip(0, n - 1)
                    for middle, n in zip(centre, section.shape, strict=True)
                ]
                row = result[:, above + edge + sign * step]
                row[section[np.ix_(*wanted)] & (row == 0)] = bone
    return result


def _add_fibula(labels: Labels, joint: NDArray[np.float64], spacing: float, size: float) -> None:
    """Draw a fibula behind and lateral to the tibia, clear of it."""
    table = np.array(FIBULA_AXIS, float)
    # Only around it is there anything to do.
    low = np.array([table[:, 1].min() - 14, table[0, 0] - 4, table[:, 2].min() - 14])
    high = np.array([table[:, 1].max() + 14, np.inf, table[:, 2].max() + 14])
    first = np.maximum(0, joint + low * size / spacing).astype(int)
    end = np.minimum(labels.shape, joint + high * size / spacing).astype(int)
    part = labels[tuple(slice(a, b) for a, b in zip(first, end, strict=True))]
    x, y, z = ((np.arange(a, b) - m) * spacing / size for a, b, m in zip(first, end, joint, strict=True))
    centre_x, centre_z, radius = (np.interp(y, table[:, 0], table[:, column]) for column in (1, 2, 3))
    radius[y < table[0, 0]] = 0
    away = np.hypot(x[:, None, None] - centre_x[:, None], (z - centre_z[:, None]) * 1.1)
    clear = distance_transform_edt(part == 0, spacing) > 1.8
    part[(away < radius[:, None]) & clear] = FIBULA


def _add_menisci(labels: Labels, spacing: float) -> None:
    """Draw a wedge around each compartment where femur and tibia part, open towards the middle of the knee."""
    plateau = (labels == MEDIAL_CARTILAGE) | (labels == LATERAL_CARTILAGE)
    extents = [np.flatnonzero(plateau.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    margin = round(12 / spacing)
    part = labels[tuple(slice(extent[0] - margin, extent[-1] + margin) for extent in extents)]
    to_femur = distance_transform_edt((part != FEMUR) & (part != FEMORAL_CARTILAGE), spacing)
    to_tibia = distance_transform_edt(
        (part != TIBIA) & (part != MEDIAL_CARTILAGE) & (part != LATERAL_CARTILAGE), spacing
    )
    for cartilage, meniscus, inwards, opening in (
        (MEDIAL_CARTILAGE, MEDIAL_MENISCUS, 1, 0.62),
        (LATERAL_CARTILAGE, LATERAL_MENISCUS, -1, 0.80),
    ):
        footprint = (part == cartilage).any(1)
        x, z = np.nonzero(footprint)
        u = (np.arange(part.shape[0]) - (x.min() + x.max()) / 2) / ((x.max() - x.min()) / 2)
        w = (np.arange(part.shape[2]) - (z.min() + z.max()) / 2) / ((z.max() - z.min()) / 2)
        radius = np.hypot(u[:, None], w[None, :])
        ring = (radius > 0.62) & (radius < 1.12) & (inwards * w[None, :] < opening * radius)
        # The roots lie nearer to the middle than the body's edge, at the front and at the back.
        wedge = (to_femur + to_tibia < 7.5) & (to_femur > 0.2) & (to_tibia > 0.2) & (to_tibia < 6.0)
        part[ring[:, None, :] & wedge & (part == 0)] = meniscus


def _distance(mask: Bool, within: NDArray[np.float64], spacing: float) -> Float:
    """Signed distance in mm, negative inside, where `within` gives the depth."""
    outside = distance_transform_edt(~mask, spacing)
    return np.asarray(np.where(mask, spacing / 2 - within, outside - spacing / 2), np.float32)


def _coarser(mask: Bool, factor: int) -> Float:
    """Means over cubes of `factor` voxels a side; an incomplete last cube is left out."""
    if factor == 1:
        return mask.astype(np.float32)
    shape = [n // factor for n in mask.shape]
    total = np.zeros(shape, np.float32)
    for offset in np.ndindex(factor, factor, factor):
        total += mask[tuple(slice(o, o + n * factor, factor) for o, n in zip(offset, shape, strict=True))]
    return total / np.float32(factor**3)


def _field(channels: list[Float], joint: NDArray[np.float64], spacing: float, factor: int) -> Field:
    """Channels sampled at the centres of cubes of `factor` voxels, as a Field."""
    x, y, z = (((factor - 1) / 2 - joint) * spacing).tolist()
    return Field(torch.from_numpy(np.stack(channels)), (x, y, z), spacing * factor)


def _landmarks(labels: Labels, joint: NDArray[np.float64], spacing: float) -> dict[str, Place]:
    def place(*voxel: float) -> Place:
        x, y, z = ((np.array(voxel) - joint) * spacing).tolist()
        return x, y, z

    patella = np.argwhere(labels == PATELLA)
    x, _, z = patella.mean(0)
    level = round(joint[1] + 36 / spacing)
    tibia = np.argwhere(labels[:, level] == TIBIA)
    front = tibia[tibia[:, 0] <= tibia[:, 0].min() + 3]
    return {
        "patella_top": place(x, patella[:, 1].min(), z),
        "patella_bottom": place(x, patella[:, 1].max(), z),
        "tuberosity": place(tibia[:, 0].min(), level, front[:, 1].mean()),
    }
