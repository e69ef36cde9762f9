"""What the coils hear: Biot–Savart receive fields, k-space of the drawn object, and correlated noise.

Leaves to others: the object itself (`anatomy`, `contrast`) and the file (`write`).
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from recon.simulate.geometry import STACK_CENTRE_MM, Geometry

SEGMENTS = 24
"""Straight pieces that a loop is cut into."""
COARSE_MM = 7.0
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
        field += np.cross(direction, r) * inverse[:, None]
    field *= 1e3 * 2 * np.pi * loop.radius / SEGMENTS
    return loop.gain * (field[:, 0] - 1j * field[:, 2])


class Receiver:
    """The coil array of one examination: its fields everywhere in the scan, and its noise covariance.

    Fields are scaled so that their root sum of squares in the centre is 1.
    """

    def __init__(self, geometry: Geometry, coils: int, rng: np.random.Generator) -> None:
        self.loops = loops(coils, rng)
        half = [
            abs(STACK_CENTRE_MM) + geometry.slices * geometry.spacing_mm / 2 + COARSE_MM,
            0.65 * geometry.field_of_view_mm + COARSE_MM,
            geometry.columns * geometry.pixel_mm / 2 + COARSE_MM,
        ]
        self._axes = [np.linspace(-h, h, max(6, int(np.ceil(2 * h / COARSE_MM)) + 1)) for h in half]
        grid = np.stack(np.meshgrid(*self._axes, indexing="ij"), -1)
        points = grid.reshape(-1, 3)
        fields = np.stack([receive_field(loop, points) for loop in self.loops])
        centre = np.argmin(np.sum(points**2, 1))
        fields /= np.linalg.norm(fields[:, centre])
        self._fields = fields.reshape(coils, *grid.shape[:3])
        self.covariance = self._covariance(fields[:, np.linalg.norm(points[:, [0, 2]], axis=1) < 60], rng)

    @staticmethod
    def _covariance(fields: NDArray[np.complex128], rng: np.random.Generator) -> NDArray[np.complex128]:
        """Coil noise: what all coils pick up from the leg in common, and each coil's own; the mean variance is 1."""
        common = fields @ fields.conj().T
        deviation = np.sqrt(np.diag(common).real)
        common /= np.outer(deviation, deviation)
        size = len(common)
        strength = rng.uniform(0.85, 1.2, size)
        covariance = (0.5 * common + 0.5 * np.eye(size)) * np.outer(strength, strength)
        return covariance / (np.trace(covariance).real / size)

    def sensitivities(self, x: float, y: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.complex64]:
        """Receive fields (coils, rows, columns) in the plane x at rows y and columns z, all in mm.

        Cubic splines along one axis after the other: the fields are smooth at the scale of the coarse grid.
        """

        def index(axis: int, positions: NDArray[np.float64]) -> NDArray[np.float64]:
            values = self._axes[axis]
            return (positions - values[0]) / (values[1] - values[0])

        weights = [
            _spline_weights(index(axis, np.atleast_1d(positions)), len(self._axes[axis]))
            for axis, positions in enumerate((np.array([x]), y, z))
        ]
        plane = np.einsum("x,cxyz->cyz", weights[0][0], self._fields)
        rows, columns = (w.astype(np.complex64) for w in weights[1:])
        return np.asarray(rows @ plane.astype(np.complex64) @ columns.T)


def _spline_weights(index: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The matrix (len(index), size) of cubic-spline interpolation from `size` samples to fractional indices."""
    columns = [map_coordinates(column, [index], order=3, mode="nearest") for column in np.eye(size)]
    return np.stack(columns, 1)


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


def noise(
    shape: tuple[int, ...], covariance: NDArray[np.complex128], rng: np.random.Generator
) -> NDArray[np.complex64]:
    """Complex normal noise (coils, …) of `shape` whose coils have the given covariance E[n nᴴ] (coils, coils)."""
    white = rng.standard_normal((2, *shape), np.float32)
    samples = (white[0] + 1j * white[1]).reshape(shape[0], -1) * np.float32(np.sqrt(0.5))
    factor = scipy.linalg.cholesky(covariance, lower=True).astype(np.complex64)
    return (factor @ samples).reshape(shape).astype(np.complex64)
