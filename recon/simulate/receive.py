"""The coils' signal: Biot–Savart receive fields, k-space of the drawn object, and the covariance of the noise.

Leaves to others: the object itself (`anatomy`, `contrast`), drawing the noise (`recon.data.readers.drawn`) and the file
(`write`).
"""

import functools
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import spline_filter1d

from recon.simulate.geometry import REACH, STACK_CENTRE_MM, Geometry

SEGMENTS = 24
"""Straight pieces that a loop is cut into."""
COARSE_MM = 10.0
"""Distance of the places where the fields are computed; between them they are interpolated by cubic splines."""


@dataclass(frozen=True)
class Loop:
    """A circular receive loop: centre and unit normal (x, y, z) and radius in mm, and complex gain."""

    centre: tuple[float, float, float]
    normal: tuple[float, float, float]
    radius: float
    gain: complex


def loops(count: int, rng: np.random.Generator) -> list[Loop]:
    """`count` loops in rings around the leg, about five to a ring (three rings of five make the usual 15).

    The rings are stacked along y and turned against each other; every subject's coil sits a little differently.
    """
    rings = max(1, round(count / 5))
    sizes = [count // rings + (ring < count % rings) for ring in range(rings)]
    pitch = 150.0 / rings
    turn = rng.uniform(0, 2 * np.pi)
    shift = rng.uniform(-8, 8, 3)
    result = []
    for ring, size in enumerate(sizes):
        for place in range(size):
            angle = turn + 2 * np.pi * (place + 0.5 * (ring % 2)) / size
            distance = 92.0 + rng.uniform(-5, 5)
            normal = np.array([np.cos(angle), 0.0, np.sin(angle)])
            centre = normal * distance + shift + np.array([0.0, (ring - (rings - 1) / 2) * pitch, 0.0])
            radius = float(np.clip(1.15 * np.pi * distance / size, 30.0, 60.0))
            gain = rng.uniform(0.8, 1.2) * np.exp(2j * np.pi * rng.uniform())
            x, y, z = (float(v) for v in centre)
            result.append(Loop((x, y, z), (float(normal[0]), 0.0, float(normal[2])), radius, complex(gain)))
    return result


def receive_field(loop: Loop, points: NDArray[np.float64]) -> NDArray[np.complex128]:
    """The loop's receive field B1⁻ = (Bx − i Bz)·gain at points (n, 3) in mm, B0 along y; a unit current's, times 1e3.

    Biot–Savart over straight segments: B = Σ dl × r / |r|³ (the constant μ0/4π is left out).
    """
    normal = np.array(loop.normal)
    first = np.cross(normal, [0.0, 1.0, 0.0])
    second = np.cross(normal, first)
    angles = 2 * np.pi * (np.arange(SEGMENTS) + 0.5) / SEGMENTS
    around = np.cos(angles)[:, None] * first + np.sin(angles)[:, None] * second
    along = -np.sin(angles)[:, None] * first + np.cos(angles)[:, None] * second
    field = np.zeros(points.shape)
    for place, direction in zip(np.array(loop.centre) + loop.radius * around, along, strict=True):
        r = points - place
        inverse = (
            np.einsum("ij,ij->i", r, r) + 9.0
        ) ** -1.5  # a wire of 3 mm: finite wherever a loop touches the object
        for axis in (0, 2):
            following, last = (axis + 1) % 3, (axis + 2) % 3
            field[:, axis] += (direction[following] * r[:, last] - direction[last] * r[:, following]) * inverse
    field *= 1e3 * 2 * np.pi * loop.radius / SEGMENTS
    return loop.gain * (field[:, 0] - 1j * field[:, 2])


class Receiver:
    """The coil array of one examination: its fields everywhere in the scan, and its noise covariance.

    Fields are scaled so that their root sum of squares in the centre is 1.
    """

    def __init__(self, geometry: Geometry, coils: int, rng: np.random.Generator) -> None:
        self.loops = loops(coils, rng)
        self._field_of_view = geometry.field_of_view_mm
        half = [
            abs(STACK_CENTRE_MM) + geometry.slices * geometry.spacing_mm / 2 + 2 * COARSE_MM,
            0.65 * geometry.field_of_view_mm + 2 * COARSE_MM,
            geometry.columns * geometry.pixel_mm / 2 + 2 * COARSE_MM,
        ]
        self._axes = [np.linspace(-h, h, max(6, int(np.ceil(2 * h / COARSE_MM)) + 1)) for h in half]
        grid = np.stack(np.meshgrid(*self._axes, indexing="ij"), -1)
        points = grid.reshape(-1, 3)
        fields = np.stack([receive_field(loop, points) for loop in self.loops])
        centre = np.argmin(np.sum(points**2, 1))
        fields /= np.linalg.norm(fields[:, centre])
        splines = fields.reshape(coils, *grid.shape[:3])
        for axis in (1, 2, 3):
            splines = spline_filter1d(splines, 3, axis, np.complex128)
        self._coefficients: NDArray[np.complex64] = splines.astype(np.complex64)
        self.covariance = self._covariance(fields[:, np.linalg.norm(points[:, [0, 2]], axis=1) < 60], rng)

    @staticmethod
    def _covariance(fields: NDArray[np.complex128], rng: np.random.Generator) -> NDArray[np.complex128]:
        """Coil noise: what all coils pick up from the leg in common, and each coil's own; the mean variance is 1."""
        common = np.einsum("in,jn->ij", fields, fields.conj())  # not a matrix product: see _spline
        deviation = np.sqrt(np.diag(common).real)
        common /= np.outer(deviation, deviation)
        size = len(common)
        strength = rng.uniform(0.85, 1.2, size)
        covariance = (0.5 * common + 0.5 * np.eye(size)) * np.outer(strength, strength)
        return covariance / (np.trace(covariance).real / size)

    def sensitivities(self, x: float, y: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.complex64]:
        """Receive fields (coils, rows, columns) in the plane x at rows y and columns z, all in mm.

        Cubic splines along one axis after the other: the fields are smooth at the scale of the coarse grid. Towards the
        ends of the drawn rows, outside the field of view, they fade to zero, as the transmit coil's field does.
        """
        planes = _spline(self._coefficients, 1, self._axes[0], np.array([x]))[:, 0]
        heard = np.clip((REACH - np.abs(y) / self._field_of_view) / 0.1, 0, 1)
        fade = (heard**2 * (3 - 2 * heard)).astype(np.float32)[:, None]
        result = np.empty((len(planes), len(y), len(z)), np.complex64)
        for coil, plane in enumerate(planes):
            result[coil] = _spline(fade * _spline(plane, 0, self._axes[1], y), 1, self._axes[2], z)
        return result


def _spline(
    coefficients: NDArray[np.complex64], axis: int, places: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.complex64]:
    """A cubic spline along one axis, whose coefficients belong to evenly spaced `places`, at the places `wanted`.

    Written out, for a matrix product's last bits can depend on the number of threads.
    """
    index = (wanted - places[0]) / (places[1] - places[0])
    first = np.floor(index).astype(int)
    t = (index - first).astype(np.float32)
    weights = ((1 - t) ** 3 / 6, (4 - 6 * t**2 + 3 * t**3) / 6, (1 + 3 * t + 3 * t**2 - 3 * t**3) / 6, t**3 / 6)
    shape = [-1 if other == axis else 1 for other in range(coefficients.ndim)]
    parts = (
        np.take(coefficients, first + offset - 1, axis) * weight.astype(np.float32).reshape(shape)
        for offset, weight in enumerate(weights)
    )
    return functools.reduce(np.add, parts)


def acquire(
    image: NDArray[np.complex64], sensitivities: NDArray[np.complex64], geometry: Geometry
) -> NDArray[np.complex64]:
    """Noiseless k-space (coils, rows, columns) of one slice; columns in the padding are zero.

    image: (drawn rows, fine columns) on the fine grid of `geometry`; sensitivities: (coils, …) at the same places.
    The fine grid's transform is cut to the acquired band, so that the object is truncated as a scanner truncates it.
    """
    rows, columns = geometry.fine_shape
    window, half = geometry.drawn_rows, columns // 2
    up, left = rows // 2 - window.start, columns - half
    # The centred transform without shifts: the object is laid down with its centre at the origin, …
    full = np.zeros((len(sensitivities), rows, columns), np.complex64)
    for here, there in ((slice(0, up), slice(rows - up, rows)), (slice(up, None), slice(0, window.stop - rows // 2))):
        full[:, there, :left] = sensitivities[:, here, half:] * image[here, half:]
        full[:, there, left:] = sensitivities[:, here, :half] * image[here, :half]
    # … and of its spectrum the low frequencies are taken, the negative ones first. Of the rows, before the columns'.
    spectrum = _low(scipy.fft.fft(full, axis=1, norm="ortho", overwrite_x=True), geometry.rows, 1)
    kspace = _low(scipy.fft.fft(spectrum, axis=2, norm="ortho", overwrite_x=True), geometry.columns, 2)
    # An orthonormal transform cut to a band keeps energy, not amplitude; this keeps the amplitude.
    kspace *= np.float32(np.sqrt(geometry.rows * geometry.columns / (rows * columns)))
    first, last = geometry.padding
    kspace[..., :first] = 0
    kspace[..., last:] = 0
    return kspace


def _low(spectrum: NDArray[np.complex64], size: int, axis: int) -> NDArray[np.complex64]:
    """The `size` lowest frequencies of an uncentred spectrum, centred."""
    length = spectrum.shape[axis]
    ends = [slice(length - size // 2, length), slice(0, (size + 1) // 2)]
    before = (slice(None),) * axis
    return np.concatenate([spectrum[(*before, end)] for end in ends], axis)
