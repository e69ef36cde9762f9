"""A subject's leg: which share of every place in a scan is which tissue.

Bones and cartilage (and menisci where labelled) come from a real knee (`atlas`), moved, scaled, mirrored and bent at
random. Here the rest is drawn around them (`soft_tissue` has the shapes): skin, subcutaneous fat with its septa, fascia
and muscles, tendons and ligaments, capsule, joint fluid, vessels and nerves, the cortical rim, marrow with its
trabeculae, and lesions.

Leaves to others: what signal a tissue gives (`contrast`).

Anatomical coordinates are the atlas's: (x, y, z) in mm from the middle of the joint line, anterior→posterior,
superior→inferior, medial→lateral.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from recon.simulate import soft_tissue
from recon.simulate.atlas import Atlas, Field, atlas
from recon.simulate.canvas import Blob, Canvas, Float, Places
from recon.simulate.contrast import TISSUES
from recon.simulate.geometry import SUPERSAMPLING, Geometry
from recon.simulate.texture import Noise, inside, sheet, window

CHUNK = 32768
"""Places that are drawn at a time: few enough to stay in the processor's cache."""
KNOT_MM = 28.0
BEND_MM = 2.4
"""The elastic deformation: distance of its knots, and deviation of their displacement."""


class Subject:
    """One simulated person: a knee, and every random choice made of it. The same generator gives the same leg."""

    def __init__(self, knee: str, rng: np.random.Generator, coarse: bool) -> None:
        self.knee = knee
        self.atlas: Atlas = atlas(knee, coarse)
        self.side = "left" if rng.random() < 0.5 else "right"
        # Half of the knees' own difference in size is kept.
        self.scale = rng.uniform(0.93, 1.06) * rng.uniform(0.96, 1.04, 3) / self.atlas.size**0.5
        self.angles = np.deg2rad(rng.uniform(-6, 6, 3))
        self.shift = rng.uniform([-4, -9, -5], [4, 9, 5])
        self.fat_mm = rng.uniform(4.5, 12)
        self.girth = rng.uniform(0.95, 1.05)
        self.marbling = rng.uniform(0.01, 0.09)
        self.red_marrow = rng.uniform(-1.6, 0.4)
        self.physis = rng.uniform(0.0, 0.8)
        self.effusion = float(np.clip(rng.normal(0.3, 0.4), 0.05, 1.3))
        self.softening = rng.uniform(-2.2, -0.6)
        self.mucoid = rng.uniform(0.0, 0.35)
        self.torn = [(rng.random() < 0.2, rng.uniform(-0.6, 0.6), rng.uniform(-3, 3)) for _ in range(2)]
        self.cyst = rng.random() < 0.35
        self.swollen = rng.random() < 0.3
        self.oedema = [self._below_joint(rng, 6, 13) for _ in range(rng.choice(4, p=[0.35, 0.3, 0.2, 0.15]))]
        self.bone_cysts = [self._below_joint(rng, 1.5, 3.5) for _ in range(rng.choice(3, p=[0.6, 0.25, 0.15]))]
        self.spread = np.exp(0.06 * rng.standard_normal((2, len(TISSUES)))).astype(np.float32)
        """Factors on the water and fat signal of each tissue: people differ."""
        self._broad = Noise(rng, 6, 34.0)
        self._middle = Noise(rng, 6, 9.0)
        self._fine = Noise(rng, 4, 2.4)
        self._bend = rng.standard_normal((3, 9, 10, 9))
        self._vessels = soft_tissue.vessels(rng)

    @staticmethod
    def _below_joint(rng: np.random.Generator, smallest: float, largest: float) -> Blob:
        """A place for a lesion under the joint's surfaces."""
        above = rng.random() < 0.5
        y = rng.uniform(-26, -8) if above else rng.uniform(4, 16)
        return Blob(
            (rng.uniform(-15, 18), y, rng.choice([-1, 1]) * rng.uniform(10, 34)), rng.uniform(smallest, largest)
        )

    @cached_property
    def _displacement(self) -> Field:
        """The elastic part of the deformation in mm: cubic splines through random displacements of the knots."""
        values = np.stack([zoom(axis, 3, order=3, mode="reflect") for axis in BEND_MM * self._bend])
        steps = KNOT_MM * (self._bend.shape[1] - 1) / (values.shape[1] - 1)
        x, y, z = (-(n - 1) / 2 * KNOT_MM for n in self._bend.shape[1:])
        return Field(torch.from_numpy(values.astype(np.float32)), (x, y, z), steps)

    @cached_property
    def _rotation(self) -> NDArray[np.float64]:
        turn = np.eye(3)
        for axis, angle in enumerate(self.angles):
            first, second = (axis + 1) % 3, (axis + 2) % 3
            step = np.eye(3)
            step[first, first] = step[second, second] = np.cos(angle)
            step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
            turn = step @ turn
        return turn

    def to_anatomy(self, points: Float) -> Float:
        """Scanner coordinates (3, n) in mm to anatomical ones: mirrored, turned, scaled and bent."""
        moved = points - self.shift.astype(np.float32)[:, None]
        if self.side == "left":
            moved[2] *= -1
        matrix = (self._rotation / self.scale[:, None]).astype(np.float32)
        x, y, z = moved
        moved = np.stack([row[0] * x + row[1] * y + row[2] * z for row in matrix])
        return moved + self._displacement(moved)

    def fractions(self, geometry: Geometry, index: int, rng: np.random.Generator) -> Float:
        """Tissue shares (tissues, drawn rows, fine columns) of slice `index`, averaged over its thickness.

        `rng` draws the finest texture, which has no coherence between slices.
        """
        x, y, z = geometry.axes(index)
        step = geometry.pixel_mm / SUPERSAMPLING
        total = np.zeros((len(TISSUES), len(y) * len(z)), np.float32)
        grain = _grain((len(y), len(z)), step, rng)
        plane = np.empty((3, len(y), len(z)), np.float32)
        plane[1], plane[2] = y[:, None], z[None, :]
        # A surface that lies aslant in the slice moves between its parts. Neighbouring pixels look at four depths of a
        # part, so that its steps become a pattern of the fine grid's highest frequency, which is not acquired.
        dither = np.tile(np.array([[-3, 1], [3, -1]]) / 8, (len(y) // 2 + 1, len(z) // 2 + 1))[: len(y), : len(z)]
        dither = (dither * geometry.thickness_mm / len(x)).astype(np.float32)
        for position in x:
            plane[0] = np.float32(position) + dither
            everywhere = plane.reshape(3, -1)
            near_leg = np.flatnonzero(self._may_be_leg(everywhere))
            for start in range(0, len(near_leg), CHUNK):
                here = near_leg[start : start + CHUNK]
                points = self.to_anatomy(everywhere[:, here])
                far = self.atlas.far(points)
                skin = soft_tissue.outline(points / np.float32(self.atlas.size), far, self.girth, self.fat_mm)
                leg = skin < step
                here, points, far, skin = here[leg], points[:, leg], far[:, leg], skin[leg]
                if len(here):
                    total[:, here] += self._draw(points, far, skin, grain[:, here], step)
        total /= np.float32(len(x))
        return total.reshape(len(TISSUES), len(y), len(z))

    def _may_be_leg(self, points: Float) -> NDArray[np.bool_]:
        """A generous guess that spares the work on air."""
        return np.hypot(points[0], points[2]) < 92

    def _draw(self, points: Float, far: Float, skin: Float, grain: Float, step: float) -> Float:
        """Tissue shares (tissues, n) at points (3, n) in anatomical coordinates."""
        bone, cartilage, meniscus = self.atlas.near(points)
        femur, tibia, patella, fibula, to_cartilage, capsule = far
        deep = np.minimum(np.minimum(femur, tibia), np.minimum(patella, fibula))
        bone = np.where(bone > 2.2, np.maximum(-deep, 2.2), np.where(bone < -2.2, np.minimum(-deep, -2.2), bone))
        places = Places(
            points=points,
            soft=points / np.float32(self.atlas.size),
            skin=skin,
            bone=bone,
            cartilage=cartilage,
            meniscus=meniscus,
            femur=femur,
            tibia=tibia,
            to_cartilage=to_cartilage,
            capsule=capsule,
            broad=self._broad(points),
            middle=self._middle(points),
            fine=self._fine(points),
            grain=grain,
            step=step,
        )
        canvas = Canvas(len(skin))
        canvas.left *= inside(skin, step)  # outside there is air
        canvas.paint(sheet(skin + 0.7, 1.4, step), skin=1.0)
        # Each painter works only where its tissue can be and room is left.
        self._where(self._bones, places.bone > -step, canvas, places)
        self._where(self._cartilage, places.cartilage > 0.1, canvas, places)
        self._where(self._menisci, places.meniscus > 0.1, canvas, places)
        x, y, z = places.soft
        self._where(self._cruciates, (np.abs(z) < 16) & (np.abs(y + 4) < 24) & (np.abs(x - 10) < 26), canvas, places)
        self._where(self._joint, places.capsule < 8, canvas, places)
        self._where(self._around, np.True_, canvas, places)
        return canvas.shares

    @staticmethod
    def _where(
        painter: Callable[[Canvas, Places], None],
        possible: NDArray[np.bool_] | np.bool_,
        canvas: Canvas,
        places: Places,
    ) -> None:
        index = np.flatnonzero(possible & (canvas.left > 1e-3))
        if len(index):
            part = canvas.at(index)
            painter(part, places.at(index))
            canvas.update(index, part)

    def _bones(self, canvas: Canvas, p: Places) -> None:
        """Cortical rim, thin under the joint and thick along the shafts; marrow, its trabeculae and lesions."""
        y = p.points[1]
        cover = inside(-p.bone, p.step)
        shaft = np.clip((np.abs(y + 4) - 32) / 45, 0, 1)
        rim = 0.75 + 2.4 * shaft + 0.15 * p.middle[0]
        canvas.paint(cover * inside(p.bone - rim, p.step), cortex=0.92, marrow=0.08)

        for blob in self.bone_cysts:
            canvas.paint(cover * blob.within(p.points, p.middle[1], 1.0), fluid=0.8, synovium=0.2)
        swelling = np.zeros_like(y)
        for blob in self.oedema:
            swelling = np.maximum(swelling, blob.within(p.points, p.middle[1], 7.0))
        swelling *= np.clip(0.65 + 0.15 * p.middle[2], 0, 0.9)

        # Growth plates leave a scar across the ends of femur and tibia.
        x, z = p.soft[0], np.abs(p.soft[2])
        femoral = p.soft[1] + 27 + 5 * np.cos(z / 7) * np.exp(-z / 30) + 0.9 * p.middle[3]
        tibial = p.soft[1] - 16 - 2.5 * np.cos(z / 12) + 0.05 * x + 0.9 * p.middle[3]
        scar = np.where(p.femur < 0, sheet(femoral, 0.7, p.step), np.where(p.tibia < 0, sheet(tibial, 0.6, p.step), 0))
        scar = self.physis * scar * np.clip(0.6 + 0.4 * p.middle[4], 0, 1)

        red = np.clip(0.25 * (p.broad[1] + 0.5 * p.middle[2] + self.red_marrow + 1.2 * shaft), 0, 0.6)
        # Trabeculae are dense towards the joint and run along the load; the shaft's cavity has almost none.
        dense = np.clip(1.1 - 0.9 * shaft - p.bone / 40, 0.15, 1)
        trabeculae = dense * np.clip(0.09 + 0.05 * p.grain[0] + 0.03 * p.fine[0] + 0.02 * p.middle[5], 0, 0.4)
        bony = np.clip(trabeculae + 0.8 * scar, 0, 0.9)
        marrow = (1 - bony) * (1 - swelling)
        canvas.paint(
            cover, cortex=bony, oedema=(1 - bony) * swelling, red_marrow=marrow * red, marrow=marrow * (1 - red)
        )

    def _cartilage(self, canvas: Canvas, p: Places) -> None:
        """Dark next to the bone, brighter at the surface, and softened in spots."""
        cover = np.clip(0.5 + (p.cartilage - 0.5) / (0.66 * p.step), 0, 1)
        deep = np.clip(1 + p.bone / 1.3, 0, 1) * 0.9
        soft = np.clip(0.3 * (p.middle[1] + 0.4 * p.fine[2] + self.softening), 0, 0.5)
        canvas.paint(cover, deep_cartilage=deep * (1 - soft), cartilage=(1 - deep) * (1 - soft), fluid=soft)

    def _menisci(self, canvas: Canvas, p: Places) -> None:
        """Dark wedges, a little grey inside; a tear lets fluid in along an oblique cleft."""
        cover = np.clip(0.5 + (p.meniscus - 0.5) / (0.66 * p.step), 0, 1)
        x, y, z = p.soft
        for (torn, slope, offset), side in zip(self.torn, (z < 0, z > 0), strict=True):
            if torn:
                cleft = y + slope * (np.abs(z) - 28) + 0.5 * p.middle[0] + offset * 0.4
                canvas.paint(cover * side * sheet(cleft, 0.9, p.step) * window(x, -2, 30, 3), fluid=0.8, meniscus=0.2)
        grey = np.clip(self.mucoid * (0.5 + 0.5 * p.middle[2]) * np.clip((p.meniscus - 0.6) * 4, 0, 1), 0, 0.5)
        canvas.paint(cover, meniscus=1 - grey, synovium=grey)

    def _cruciates(self, canvas: Canvas, p: Places) -> None:
        """The anterior one is a loose bundle with fat and synovium between its threads, the posterior one is dense."""
        threads = np.clip(0.10 + 0.10 * p.fine[3], 0, 0.4)
        canvas.paint(soft_tissue.anterior_cruciate(p.soft, p.step), ligament=0.75 - threads, synovium=0.25, fat=threads)
        canvas.paint(
            soft_tissue.posterior_cruciate(p.soft, p.step),
            ligament=0.97 - 0.5 * threads,
            synovium=0.03,
            fat=0.5 * threads,
        )

    def _joint(self, canvas: Canvas, p: Places) -> None:
        """Collateral ligaments; inside the capsule fluid, synovial folds and fat pads; and the capsule itself."""
        threads = np.clip(0.06 + 0.06 * p.fine[3], 0, 0.25)
        for cover in soft_tissue.tendons(p.soft, p.capsule, p.step):
            canvas.paint(cover, ligament=1 - threads, fat=threads)

        x, y, z = p.soft
        within = inside(p.capsule - 0.5, p.step)
        # A film on the cartilage, pools where the noise allows, and the recesses beside and above the patella.
        pools = np.maximum(0, p.broad[0] + 0.35 * p.middle[3] + 0.4)
        film = 0.45 + 1.6 * self.effusion * pools
        canvas.paint(within * inside(p.to_cartilage - film, p.step), fluid=0.95, synovium=0.05)
        recess = window(y, -62, -2, 6) * window(x, -60, 12, 4)
        gutter = inside(-p.capsule - 3.2 * self.effusion * pools, p.step) * inside(-p.femur + 1.0, p.step)
        canvas.paint(within * recess * gutter * (self.effusion > 0.1), fluid=0.95, synovium=0.05)
        canvas.paint(soft_tissue.bursa(p.soft, p.femur, self.atlas, self.effusion, pools, p.step), fluid=1.0)
        if self.cyst:
            canvas.paint(
                soft_tissue.popliteal_cyst(p.soft, p.middle[2], self.effusion, p.step), fluid=0.97, synovium=0.03
            )
        canvas.paint(0.8 * sheet(p.capsule - 0.6 + 0.3 * p.middle[1], 0.9, p.step), ligament=0.9, fat=0.1)
        notch = window(np.abs(z), -1, 13, 3) * window(y, -22, 4, 4) * window(x, -8, 30, 4)
        moist = np.clip(0.08 + 0.30 * notch + 0.12 * p.middle[4], 0, 0.6)
        strands = 0.55 * sheet(3.0 * p.middle[0], 0.5, p.step)
        canvas.paint(within, fat=(1 - moist) * (1 - strands), synovium=moist * (1 - strands), ligament=strands)

    def _around(self, canvas: Canvas, p: Places) -> None:
        """Vessels and nerves, muscles in their fascia, and fat with septa everywhere else."""
        x, y, z = p.soft
        for cover in soft_tissue.extensors(p.soft, self.atlas, p.step):
            canvas.paint(cover, ligament=0.96, fat=0.04)
        thick = self.fat_mm * (1 + 0.3 * np.clip(-z / 40, -1, 1) + 0.12 * p.broad[4])
        warped = x + 2.0 * p.broad[2] + 0.7 * p.middle[3], y, z + 2.0 * p.broad[3] + 0.7 * p.middle[4]
        muscle, compartment, seam = soft_tissue.muscles(*warped)
        # The deep fascia wraps the compartments under the subcutaneous fat, and always the joint.
        fascia = np.minimum(np.maximum(p.skin + thick, -compartment - 1.5), p.capsule - 2.5)
        for tissue, cover in self._vessels(p.soft, p.skin, thick, p.bone, p.middle, p.broad, p.step):
            canvas.paint(cover, **{tissue: 1.0})
        band = window(x, -20, 6, 4) * window(y, -200, 14, 4) * (z > 0)
        sheath = sheet(fascia, 0.45 + 1.7 * band, p.step) * np.clip(0.7 + 0.25 * p.middle[4], 0, 1)
        canvas.paint(sheath, ligament=0.95, fat=0.05)

        if self.swollen:  # fluid between the fat lobules, in front of and beside the joint
            wet = np.clip(0.5 * (p.broad[5] + 0.4) + 0.3 * p.middle[2], 0, 0.8) * window(y, -30, 35, 15)
            canvas.paint(
                0.55 * wet * sheet(2.5 * p.middle[3], 0.7, p.step) * inside(-fascia, p.step), fluid=0.7, fat=0.3
            )

        belly = inside(-muscle, p.step) * inside(fascia + 0.4, p.step)
        index = np.flatnonzero(belly > 0)
        if len(index):
            fatty, tendinous = np.zeros_like(belly), np.zeros_like(belly)
            fatty[index], tendinous[index] = self._streaks(p.points[:, index], p.broad[5, index])
            fatty = np.clip(fatty + 0.8 * sheet(seam, 0.9, p.step), 0, 1)
            tendinous *= 1 - fatty
            canvas.paint(belly, muscle=1 - fatty - tendinous, fat=fatty, ligament=tendinous)

        # Septa part the fat's lobules; in places they are thick enough to be seen.
        septa = 0.45 * sheet(8.0 * p.broad[1] + 1.2 * p.middle[5] + 0.3 * p.fine[1], 0.35, p.step)
        septa += (
            0.22 * sheet(2.6 * p.middle[5] + 0.5 * p.fine[1], 0.35, p.step) * np.clip(p.broad[3] + p.middle[1], 0, 1)
        )
        damp = np.clip(0.04 + 0.025 * p.fine[2] + 0.02 * p.middle[0], 0, 0.2)
        canvas.paint(1.0, fat=(1 - septa) * (1 - damp), ligament=septa, synovium=(1 - septa) * damp)

    def _streaks(self, points: Float, broad: Float) -> tuple[Float, Float]:
        """Shares of fat and tendon between the fibres of muscle, drawn out along the leg."""
        strands = self._fine(points, (1.0, 6.0, 1.0))
        sheets = 3.0 * self._middle(points, (0.9, 9.0, 0.9))[5] + 0.4 * strands[2]
        fat = self.marbling + 0.07 * strands[0] + 0.28 * sheet(sheets, 0.6, 0.6) * np.clip(0.6 + 0.6 * broad, 0, 1)
        return np.clip(fat, 0, 0.6), np.clip(0.05 + 0.05 * strands[1], 0, 0.3)


def _grain(shape: tuple[int, int], step: float, rng: np.random.Generator) -> Float:
    """Fine texture of unit variance (1, pixels): trabeculae, longer along the leg."""
    white = rng.standard_normal(shape, np.float32)
    trabeculae = gaussian_filter(white, [0.55 / step, 0.28 / step], truncate=3)
    return (trabeculae / trabeculae.std()).reshape(1, -1)
