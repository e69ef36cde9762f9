"""A subject's leg: which share of every place in a scan is which tissue.

Bones, cartilage and (where labelled) menisci come from a real knee (`atlas`), moved, scaled, mirrored and bent at
random; everything else is drawn around them here: skin, subcutaneous fat with septa, fascia and muscles, tendons and
ligaments, capsule, joint fluid, vessels and nerve, cortical bone, marrow with its trabeculae, and lesions.

Leaves to others: what signal a tissue gives (`contrast`).

Anatomical coordinates are the atlas's: (x, y, z) in mm from the middle of the joint line, anterior→posterior,
superior→inferior, medial→lateral. The shapes of what the labels lack are drawn by hand in these coordinates after
ordinary anatomy; they are plausible, not measured.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from recon.simulate.atlas import Atlas, Field, atlas
from recon.simulate.contrast import TISSUES
from recon.simulate.geometry import SUPERSAMPLING, Geometry
from recon.simulate.texture import Noise, inside, sheet

Float = NDArray[np.float32]

TISSUE_INDEX = {name: index for index, name in enumerate(TISSUES)}


def _profile(y: Float, knots: list[tuple[float, ...]], column: int) -> Float:
    """Smooth interpolation along y of one column of knots (y, value, …), flat beyond the ends."""
    table = np.array(knots)
    fine = np.linspace(table[0, 0], table[-1, 0], 200)
    values = gaussian_filter(np.interp(fine, table[:, 0], table[:, column]), 8, mode="nearest")
    return np.interp(y, fine, values).astype(np.float32)


OUTLINE: list[tuple[float, ...]] = [
    # y, centre x, centre z, half depth, half width
    (-105, -10, 2, 72, 70),
    (-45, -13, 1, 62, 61),
    (0, -13, 0, 58, 57),
    (35, -6, 0, 54, 54),
    (105, 3, 1, 60, 57),
]

MUSCLES: dict[str, list[tuple[float, ...]]] = {
    # y, centre x, centre z, half depth, half width (before scaling by the knee's size)
    "vastus medialis": [(-110, -22, -36, 34, 26), (-60, -22, -38, 28, 20), (-25, -22, -43, 18, 10), (-8, -22, -44, 4, 2)],
    "vastus lateralis": [(-110, -18, 36, 36, 26), (-60, -20, 38, 28, 17), (-40, -22, 43, 18, 9), (-22, -24, 45, 4, 2)],
    "vastus intermedius": [(-110, -46, 2, 20, 24), (-70, -46, 2, 12, 18), (-58, -46, 2, 3, 3)],
    "biceps femoris": [(-110, 34, 28, 24, 20), (-60, 34, 32, 18, 13), (-15, 28, 42, 11, 7), (16, 24, 44, 3, 2)],
    "semimembranosus": [(-110, 34, -18, 22, 18), (-60, 36, -22, 17, 14), (-15, 34, -34, 11, 9), (10, 28, -38, 3, 2)],
    "semitendinosus": [(-110, 54, -8, 10, 14), (-50, 54, -18, 7, 8), (0, 42, -40, 3, 3), (30, 24, -44, 2, 2)],
    "sartorius": [(-110, 14, -50, 18, 11), (-50, 20, -48, 14, 7), (10, 22, -46, 10, 4), (45, 4, -42, 4, 2)],
    "gastrocnemius, medial": [(-34, 36, -20, 2, 3), (-18, 38, -21, 9, 10), (20, 40, -25, 15, 16), (105, 44, -26, 24, 28)],
    "gastrocnemius, lateral": [(-30, 36, 20, 2, 3), (-14, 37, 21, 8, 9), (20, 40, 23, 13, 14), (105, 44, 26, 22, 26)],
    "soleus": [(22, 30, 14, 3, 5), (45, 30, 4, 9, 22), (105, 32, 2, 14, 36)],
    "popliteus": [(2, 28, 12, 2, 2), (18, 27, 2, 6, 14), (48, 20, -12, 8, 16), (66, 16, -18, 2, 3)],
    "tibialis anterior": [(12, -12, 34, 2, 2), (30, -10, 34, 14, 9), (105, -8, 30, 28, 22)],
    "peroneus": [(24, 14, 44, 2, 2), (45, 14, 43, 9, 8), (105, 14, 42, 14, 12)],
}


def tube(points: Float, path: list[tuple[float, float, float]], squeeze: tuple[float, float, float] = (1, 1, 1)) -> Float:
    """Distance in mm from points (3, n) to a polyline, in a metric that stretches x, y, z by `squeeze`."""
    metric = np.array(squeeze, np.float32)
    scaled = points * metric[:, None]
    best = np.full(points.shape[1], np.inf, np.float32)
    for start, end in zip(path[:-1], path[1:], strict=True):
        a = np.array(start, np.float32) * metric
        direction = np.array(end, np.float32) * metric - a
        along = np.clip(direction @ (scaled - a[:, None]) / (direction @ direction), 0, 1)
        offset = scaled - a[:, None] - direction[:, None] * along
        np.minimum(best, np.einsum("ij,ij->j", offset, offset), out=best)
    return np.sqrt(best)


@dataclass
class Canvas:
    """Tissue shares of n places, painted from the front to the back: what is painted later shows where room is left."""

    places: int
    shares: Float = field(init=False)
    left: Float = field(init=False)

    def __post_init__(self) -> None:
        self.shares = np.zeros((len(TISSUES), self.places), np.float32)
        self.left = np.ones(self.places, np.float32)

    def paint(self, cover: Float, **mixture: float | Float) -> None:
        """Cover a share of what is left with a mixture of tissues, whose parts sum to one."""
        taken = self.left * cover
        for name, part in mixture.items():
            self.shares[TISSUE_INDEX[name]] += taken * part
        self.left -= taken


class Subject:
    """One simulated person: a knee, and every random choice made of it. The same seed words give the same leg."""

    def __init__(self, knee: str, seed: np.random.SeedSequence, coarse: bool) -> None:
        rng = np.random.default_rng(seed)
        self.knee = knee
        self.atlas: Atlas = atlas(knee, coarse)
        self.side = "left" if rng.random() < 0.5 else "right"
        self.scale = rng.uniform(0.92, 1.06) * rng.uniform(0.97, 1.03, 3) / self.atlas.size**0.5
        self.angles = np.deg2rad(rng.uniform(-6, 6, 3))
        self.shift = rng.uniform([-4, -9, -5], [4, 9, 5])
        self.fat_mm = rng.uniform(5, 13)
        self.girth = rng.uniform(0.94, 1.05)
        self.marbling = rng.uniform(0.01, 0.10)
        self.red_marrow = rng.uniform(-1.2, 0.6)
        self.effusion = float(np.clip(rng.normal(0.25, 0.45), 0, 1.4))
        self.oedema = [self._lesion(rng) for _ in range(rng.choice([0, 1, 2, 3], p=[0.35, 0.3, 0.2, 0.15]))]
        self.broad = Noise(rng, 6, 34.0)
        self.middle = Noise(rng, 6, 9.0)
        self.fine = Noise(rng, 4, 2.2)
        self._bend = rng.standard_normal((3, 9, 10, 9)).astype(np.float32)

    def _lesion(self, rng: np.random.Generator) -> tuple[float, float, float, float]:
        """Centre (x, y, z) and radius in mm of a marrow oedema under the joint surfaces."""
        above = rng.random() < 0.5
        y = rng.uniform(-28, -6) if above else rng.uniform(4, 18)
        return rng.uniform(-15, 20), y, rng.choice([-1, 1]) * rng.uniform(8, 34), rng.uniform(6, 13)

    @cached_property
    def _displacement(self) -> Field:
        """The elastic part of the deformation: cubic splines over knots 28 mm apart, a few mm strong."""
        values = zoom(self._bend, (1, 4, 4, 4), order=3, mode="reflect")
        import torch

        return Field(torch.from_numpy(np.ascontiguousarray(2.2 * values)), (-112.0, -126.0, -112.0), 6.5)

    def _to_atlas(self, points: Float) -> Float:
        """Scanner coordinates (3, n) to the atlas's: mirrored, turned, scaled and bent."""
        moved = points - self.shift.astype(np.float32)[:, None]
        if self.side == "left":
            moved = moved * np.array([1, 1, -1], np.float32)[:, None]
        turn = np.eye(3)
        for axis, angle in enumerate(self.angles):
            first, second = (axis + 1) % 3, (axis + 2) % 3
            step = np.eye(3)
            step[first, first] = step[second, second] = np.cos(angle)
            step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
            turn = step @ turn
        moved = (turn / self.scale[:, None]).astype(np.float32) @ moved
        return moved + self._displacement(moved)

    def fractions(self, geometry: Geometry, index: int, rng: np.random.Generator) -> Float:
        """Tissue shares (tissues, drawn rows, fine columns) of slice `index`, averaged over its thickness.

        `rng` draws the finest texture, which has no coherence between slices.
        """
        x, y, z = geometry.axes(index)
        step = geometry.pixel_mm / SUPERSAMPLING
        total = np.zeros((len(TISSUES), len(y) * len(z)), np.float32)
        grain = self._grain((len(y), len(z)), step, rng)
        plane = np.empty((3, len(y), len(z)), np.float32)
        plane[1], plane[2] = y[:, None], z[None, :]
        for position in x:
            plane[0] = position
            points = self._to_atlas(plane.reshape(3, -1))
            far = self.atlas.far(points)
            skin = self._outline(points, far)
            here = np.flatnonzero(skin < step)
            canvas = self._draw(points[:, here], far[:, here], skin[here], grain[:, here], step)
            total[:, here] += canvas.shares / np.float32(len(x))
        return total.reshape(len(TISSUES), len(y), len(z))

    @staticmethod
    def _grain(shape: tuple[int, int], step: float, rng: np.random.Generator) -> Float:
        """Fine texture of unit variance (2, pixels): trabeculae (0.5 by 0.25 mm) and specks (0.35 mm)."""
        white = rng.standard_normal((2, *shape), np.float32)
        trabeculae = gaussian_filter(white[0], [0.5 / step, 0.25 / step])
        specks = gaussian_filter(white[1], 0.35 / step)
        return np.stack([t.ravel() / t.std() for t in (trabeculae, specks)])

    def _outline(self, points: Float, far: Float) -> Float:
        """Distance to the skin's outer surface in mm, negative inside: a tube of the leg's shape around all bones."""
        x, y, z = points / np.float32(self.atlas.size)
        depth = self.girth * _profile(y, OUTLINE, 3)
        width = self.girth * _profile(y, OUTLINE, 4)
        u = (x - _profile(y, OUTLINE, 1)) / depth
        w = (z - _profile(y, OUTLINE, 2)) / width
        radius = (np.abs(u) ** 2.3 + np.abs(w) ** 2.3) ** np.float32(1 / 2.3)
        leg = (radius - 1) * np.minimum(depth, width)
        bones = np.min(far[:4], axis=0) - (4 + 0.4 * self.fat_mm)
        # Smooth union of the two, 8 mm wide.
        blend = np.clip(0.5 + (bones - leg) / 16, 0, 1)
        return bones * (1 - blend) + leg * blend - 8 * blend * (1 - blend)

    def _draw(self, points: Float, far: Float, skin: Float, grain: Float, step: float) -> Canvas:
        """Tissues at points (3, n) in atlas coordinates."""
        depth, cartilage, meniscus = self.atlas.near(points)
        femur, tibia, patella, fibula, to_cartilage, capsule = far
        bone_distance = np.min(far[:4], axis=0)
        depth = np.where(np.abs(depth) < 2.2, depth, np.where(depth > 0, np.maximum(-bone_distance, 2.2), -2.5))
        broad, middle, fine = self.broad(points), self.middle(points), self.fine(points)
        canvas = Canvas(points.shape[1])
        paint = canvas.paint
        soft = points / np.float32(self.atlas.size)

        # Outside the leg there is air: nothing.
        canvas.left *= inside(skin, step)
        paint(inside(-(skin + 1.6), step), skin=1.0)
        self._bones(canvas, points, depth, broad, middle, fine, grain, step)
        cover = np.clip(0.5 + (cartilage - 0.5) / (0.66 * step), 0, 1)
        paint(cover, cartilage=1.0)
        paint(np.clip(0.5 + (meniscus - 0.5) / (0.66 * step), 0, 1), meniscus=1.0)
        within = inside(capsule, step)
        film = 0.5 + self.effusion * np.maximum(0, 1.5 + 1.5 * broad[0])
        paint(within * inside(to_cartilage - film, step), fluid=1.0)
        paint(within, fat=1.0)
        self._muscles(canvas, soft, skin, broad, middle, fine, step)
        paint(np.ones_like(skin), fat=1.0)
        return canvas

    def _bones(
        self, canvas: Canvas, points: Float, depth: Float, broad: Float, middle: Float, fine: Float, grain: Float, step: float
    ) -> None:
        y = points[1]
        bone = inside(-depth, step)
        shaft = np.clip((np.abs(y + 5) - 35) / 40, 0, 1)
        rim = 0.8 + 2.2 * shaft + 0.2 * middle[0]
        canvas.paint(bone * inside(depth - rim, step), cortex=1.0)
        swelling = np.zeros_like(y)
        for *centre, radius in self.oedema:
            away = np.sqrt(np.sum((points - np.array(centre, np.float32)[:, None]) ** 2, axis=0))
            swelling = np.maximum(swelling, np.clip((radius + 3 * middle[1] - away) / 6, 0, 1))
        swelling *= 0.8
        red = np.clip(0.35 * (broad[1] + 0.6 * middle[2] + self.red_marrow + 1.2 * shaft), 0, 0.8)
        trabeculae = np.clip(0.12 + 0.07 * grain[0] + 0.03 * fine[0], 0, 0.4)
        trabeculae *= 1 - 0.7 * shaft
        marrow = (1 - trabeculae) * (1 - swelling)
        canvas.paint(
            bone, cortex=trabeculae, oedema=(1 - trabeculae) * swelling, red_marrow=marrow * red, marrow=marrow * (1 - red)
        )

    def _muscles(
        self, canvas: Canvas, soft: Float, skin: Float, broad: Float, middle: Float, fine: Float, step: float
    ) -> None:
        x = soft[0] + 2.5 * broad[2] + 0.8 * middle[3]
        z = soft[2] + 2.5 * broad[3] + 0.8 * middle[4]
        y = soft[1]
        best = np.full(len(x), -100, np.float32)
        second = best.copy()
        for knots in MUSCLES.values():
            rx, rz = _profile(y, knots, 3), _profile(y, knots, 4)
            radius = np.sqrt(((x - _profile(y, knots, 1)) / rx) ** 2 + ((z - _profile(y, knots, 2)) / rz) ** 2)
            score = (1 - radius) * np.minimum(rx, rz)
            score[(y < knots[0][0]) | (y > knots[-1][0])] = -100
            second = np.maximum(second, np.minimum(best, score))
            best = np.maximum(best, score)
        fascia = skin + self.fat_mm * (1 + 0.25 * np.clip(-soft[2] / 40, -1, 1) + 0.15 * broad[4])
        belly = inside(np.maximum(-best, fascia), step) * inside(0.7 - (best - second), step)
        streaks = np.clip(self.marbling + 0.06 * fine[1] + 0.05 * middle[5], 0.0, 0.7)
        canvas.paint(belly, muscle=1 - streaks, fat=streaks)
