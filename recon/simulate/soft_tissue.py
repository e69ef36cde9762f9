"""The shapes of what the labels lack: the leg's outline, muscles, tendons and ligaments, bursae, vessels and nerves.

All are drawn by hand after ordinary anatomy, in atlas coordinates (mm, x anterior→posterior, y superior→inferior,
z medial→lateral) divided by the knee's size. They are plausible, not measured. Leaves to others: which tissue they are
and what hides what (`anatomy`).
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from recon.simulate.atlas import Atlas, Place
from recon.simulate.texture import inside, sheet, window

Float = NDArray[np.float32]

LOW, HIGH, PER_MM = -130.0, 130.0, 4
"""Profiles along y are tabulated over this range."""

OUTLINE = (
    # y, centre x, centre z, half depth, half width
    (-105, -8, 2, 74, 69),
    (-45, -13, 1, 62, 60),
    (0, -13, 0, 58, 55),
    (35, -6, 0, 54, 50),
    (105, 3, 1, 60, 57),
)
MUSCLES = {
    # y, centre x, centre z, half depth, half width
    "vastus medialis": (
        (-110, -18, -38, 40, 30),
        (-60, -20, -42, 34, 24),
        (-28, -20, -46, 22, 12),
        (-10, -20, -46, 4, 2),
    ),
    "vastus lateralis": ((-110, -14, 38, 40, 30), (-60, -16, 42, 34, 20), (-42, -18, 46, 22, 11), (-26, -22, 46, 4, 2)),
    "vastus intermedius": ((-110, -44, 2, 24, 26), (-72, -46, 2, 13, 20), (-60, -46, 2, 3, 3)),
    "biceps femoris": ((-110, 36, 30, 28, 26), (-60, 34, 36, 22, 17), (-15, 29, 44, 14, 8), (14, 24, 46, 3, 3)),
    "semimembranosus": ((-110, 36, -20, 26, 22), (-60, 37, -25, 21, 18), (-15, 34, -37, 14, 11), (8, 28, -42, 3, 2)),
    "semitendinosus": ((-110, 56, -6, 12, 18), (-50, 55, -18, 8, 10), (0, 44, -42, 4, 4), (30, 24, -46, 2, 2)),
    "sartorius": ((-110, 14, -52, 20, 14), (-50, 20, -51, 16, 8), (10, 22, -49, 12, 5), (45, 4, -44, 5, 2)),
    "gastrocnemius medial": (
        (-36, 38, -20, 2, 4),
        (-20, 40, -21, 11, 13),
        (20, 42, -25, 18, 21),
        (105, 46, -26, 28, 32),
    ),
    "gastrocnemius lateral": ((-32, 38, 21, 2, 4), (-16, 39, 22, 10, 12), (20, 42, 24, 17, 19), (105, 46, 26, 26, 30)),
    "soleus": ((18, 28, 16, 3, 6), (42, 29, 5, 11, 28), (105, 32, 2, 16, 42)),
    "popliteus": ((0, 28, 14, 2, 2), (16, 27, 2, 8, 17), (46, 20, -12, 10, 20), (66, 16, -18, 2, 3)),
    "tibialis anterior": ((8, -14, 35, 2, 2), (28, -12, 36, 18, 13), (105, -8, 32, 32, 28)),
    "peroneus": ((20, 14, 46, 2, 2), (42, 14, 45, 12, 11), (105, 14, 44, 18, 16)),
    "popliteal fat": (
        (-110, 46, 8, 8, 8),
        (-55, 42, 6, 15, 11),
        (-20, 40, 1, 17, 9),
        (12, 42, 0, 9, 5),
        (30, 42, 0, 2, 2),
    ),
}
"""Bellies, and the fat of the popliteal fossa that parts them."""

ARTERY = ((34, -110, -8), (38, -50, -2), (37, -15, 0), (36, 12, 1), (32, 45, 2), (32, 110, 6))
PERONEAL_NERVE = ((44, -75, 12), (38, -40, 24), (34, -10, 34), (26, 12, 44), (14, 30, 48))


def _table(knots: tuple[tuple[float, ...], ...]) -> Float:
    """Profiles (columns, y): each column of knots (y, value, …) over y, smoothed, flat beyond the ends."""
    y = np.arange(int((HIGH - LOW) * PER_MM) + 1) / PER_MM + LOW
    columns = np.array(knots, float).T
    values = [np.interp(y, columns[0], column) for column in columns[1:]]
    return np.asarray(gaussian_filter1d(values, 5.0 * PER_MM, axis=1, mode="nearest"), np.float32)


def _rows(y: Float) -> NDArray[np.intp]:
    """Where in a table of profiles y is found."""
    return np.clip((y - np.float32(LOW)) * PER_MM + np.float32(0.5), 0, (HIGH - LOW) * PER_MM).astype(np.intp)


_OUTLINE = _table(OUTLINE)
_MUSCLES = {name: _table(knots) for name, knots in MUSCLES.items()}


def outline(soft: Float, far: Float, girth: float, fat_mm: float) -> Float:
    """Distance to the skin's outer surface in mm, negative inside: a tube of the leg's shape around all bones."""
    x, y, z = soft
    centre_x, centre_z, depth, width = _OUTLINE[:, _rows(y)]
    size = np.float32(girth * (1 + 0.008 * (fat_mm - 8)))
    depth, width = size * depth, size * width
    u, w = np.abs(x - centre_x) / depth, np.abs(z - centre_z) / width
    # A superellipse with exponent 2.5: legs are a little squarer than ellipses.
    radius = (u * u * np.sqrt(u) + w * w * np.sqrt(w)) ** np.float32(0.4)
    leg = (radius - 1) * np.minimum(depth, width)
    cover = np.float32(4 + 0.4 * fat_mm)
    bones = np.minimum(np.minimum(far[0], far[1]), far[2]) - cover
    return _union(_union(leg, far[3] - 0.6 * cover, 14), bones, 8)


def _union(first: Float, second: Float, soft: float) -> Float:
    """The union of two signed distances whose seam is rounded over `soft` mm."""
    blend = np.clip(0.5 + (second - first) / np.float32(2 * soft), 0, 1)
    return second * (1 - blend) + first * blend - np.float32(soft) * blend * (1 - blend)


def muscles(x: Float, y: Float, z: Float) -> tuple[Float, Float, Float]:
    """How deep places lie in a belly, and in any compartment (mm, negative outside), and how far from a neighbour.

    Bellies push each other aside: between two that overlap, each keeps its side. The fat of the popliteal fossa is a
    compartment that is no belly.
    """
    rows = _rows(y)
    best = np.full(len(x), -100, np.float32)
    second = best.copy()
    fat = best
    for name, table in _MUSCLES.items():
        centre_x, centre_z, depth, width = table[:, rows]
        radius = np.sqrt(((x - centre_x) / depth) ** 2 + ((z - centre_z) / width) ** 2)
        score = (1 - radius) * np.minimum(depth, width)
        # Towards its ends a belly runs out into its tendon.
        top, bottom = np.float32(MUSCLES[name][0][0]), np.float32(MUSCLES[name][-1][0])
        if top > -105:
            score = score - np.maximum(0, 9 - 0.4 * (y - top))
        if bottom < 105:
            score = score - np.maximum(0, 9 - 0.4 * (bottom - y))
        if name == "popliteal fat":
            fat = score
        else:
            second = np.maximum(second, np.minimum(best, score))
            best = np.maximum(best, score)
    return np.minimum(best, best - fat), np.maximum(best, fat), best - second


def tube(soft: Float, path: tuple[Place, ...], squeeze: Place = (1, 1, 1)) -> Float:
    """Distance in mm from places (3, n) to a polyline, in a metric that stretches x, y, z by `squeeze`."""
    metric = np.array(squeeze, np.float32)
    x, y, z = (soft[axis] * metric[axis] for axis in range(3))
    best = np.full(soft.shape[1], np.inf, np.float32)
    for start, end in itertools.pairwise(path):
        a = np.array(start, np.float32) * metric
        d = np.array(end, np.float32) * metric - a
        dx, dy, dz = x - a[0], y - a[1], z - a[2]
        along = np.clip((dx * d[0] + dy * d[1] + dz * d[2]) / np.float32(np.sum(d * d)), 0, 1)
        away = (dx - along * d[0]) ** 2 + (dy - along * d[1]) ** 2 + (dz - along * d[2]) ** 2
        np.minimum(best, away, out=best)
    return np.sqrt(best)


def anterior_cruciate(soft: Float, step: float) -> Float:
    """From the lateral wall of the notch down and forward to the middle of the plateau."""
    return inside(tube(soft, ((17, -19, 8), (5, -9, 3), (-7, -2, -2))) - 3.6, step)


def posterior_cruciate(soft: Float, step: float) -> Float:
    """From the medial wall of the notch, bowed, to the back of the tibia."""
    return inside(tube(soft, ((2, -15, -7), (13, -11, -5), (23, -2, -2), (26, 10, 0))) - 4.6, step)


def tendons(soft: Float, capsule: Float, step: float) -> Iterator[Float]:
    """The collateral ligaments and the popliteus tendon, which follow the capsule."""
    x, y, z = soft
    medial = window(x + 0.08 * y, -5, 11, 2) * window(y, -30, 46, 3) * (z < 0)
    yield medial * sheet(capsule - 1.3, 2.4, step)
    # On the lateral side, cords that follow the capsule: their course in x and y, their depth by the capsule.
    for start, end, depth, radius in (((3, -26), (21, 14), 1.6, 1.9), ((4, -18), (24, 4), -1.2, 2.0)):
        dx, dy = end[0] - start[0], end[1] - start[1]
        along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0, 1)
        away = np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
        yield (z > 15) * inside(np.hypot(away, capsule - depth) - radius, step)


def extensors(soft: Float, atlas: Atlas, step: float) -> Iterator[Float]:
    """The flat patellar tendon, from the patella to the tibial tuberosity, and the quadriceps tendon above."""
    scaled = {name: (x / atlas.size, y / atlas.size, z / atlas.size) for name, (x, y, z) in atlas.landmarks.items()}
    top, bottom, tuberosity = (scaled[name] for name in ("patella_top", "patella_bottom", "tuberosity"))
    path = ((bottom[0] - 4, bottom[1] - 6, bottom[2]), (tuberosity[0] - 1, tuberosity[1], tuberosity[2]))
    yield inside(tube(soft, path, (1, 1, 0.2)) - 2.6, step)
    path = ((top[0] - 2, top[1] + 6, top[2]), (top[0] + 2, top[1] - 60, top[2]))
    yield inside(tube(soft, path, (1, 1, 0.22)) - 3.0, step)


def bursa(soft: Float, femur: Float, atlas: Atlas, effusion: float, pools: Float, step: float) -> Float:
    """The suprapatellar recess: a sheet of fluid in front of the femur, above the patella."""
    x, y, z = soft
    top = atlas.landmarks["patella_top"][1] / atlas.size
    reach = window(y, top - 10 - 22 * effusion, top + 24, 6) * window(np.abs(z), -1, 12 + 12 * effusion, 5) * (x < -12)
    thickness = reach * (0.5 + 5.0 * effusion * np.minimum(pools, 1.2))
    return sheet(femur - 4.5, thickness, step) * (thickness > 0.1)


def popliteal_cyst(soft: Float, noise: Float, effusion: float, step: float) -> Float:
    """A Baker cyst between semimembranosus and the medial head of gastrocnemius."""
    size = np.float32(3 + 5 * effusion)
    away = tube(soft, ((33, -8, -24), (39, 2, -30), (40, 16, -31)), (1, 0.8, 1))
    return inside(away - size * (1 + 0.12 * noise), step)


Vessels = Callable[[Float, Float, Float, Float, Float, Float, float], Iterator[tuple[str, Float]]]


def vessels(rng: np.random.Generator) -> Vessels:
    """A subject's vessels and nerves: a function of places that yields a tissue and its cover, front to back."""
    bend = rng.normal(0, 1.5, (len(ARTERY), 3)) * [1, 0, 1]
    artery = tuple((float(x), float(y), float(z)) for x, y, z in np.array(ARTERY, float) + bend)
    sizes = rng.uniform(0.85, 1.2, 4)
    beside = rng.uniform(2, 6)
    saphenous = rng.uniform(18, 34)
    genicular = rng.uniform([-44, -14, 16], [-36, -8, 24])

    def draw(
        soft: Float, skin: Float, fat: Float, bone: Float, middle: Float, broad: Float, step: float
    ) -> Iterator[tuple[str, Float]]:
        x, y, z = soft
        vein = tuple((px + 5.5, py, pz + beside) for px, py, pz in artery)
        nerve = tuple((px + 12, py, pz + beside + 3) for px, py, pz in artery)
        pipe = tube(soft, artery)
        yield "ligament", sheet(pipe - 3.2 * sizes[0], 0.7, step)
        yield "artery", inside(pipe - 3.0 * sizes[0], step)
        yield "vein", inside(tube(soft, vein) - 3.6 * sizes[1], step)
        yield "nerve", inside(tube(soft, nerve, (1, 1, 0.8)) - 2.4, step)
        yield "nerve", inside(tube(soft, PERONEAL_NERVE) - 1.7, step)
        # The great saphenous vein runs in the fat of the medial side.
        medial = np.hypot(skin + 0.6 * fat, x - saphenous + 6 * broad[0])
        yield "vein", (z < 0) * inside(medial - 1.4 * sizes[2], step)
        # Small veins wind through the fat.
        small = np.hypot(skin + 0.55 * fat + 1.2 * middle[1], 10.0 * broad[2] + 1.5 * middle[2])
        yield "vein", 0.8 * inside(small - 0.75 * sizes[3], step)
        # Genicular vessels run around the bones.
        for level in genicular:
            ring = np.hypot(bone + 2.6, y - level + 2.5 * middle[3])
            yield "vein", 0.8 * inside(ring - 0.8, step) * (broad[4] > 0.1)

    return draw
