"""The coils: Biot–Savart against a closed formula, the Fourier cut against sigpy, noise against its covariance."""

import numpy as np
import pytest
import sigpy

from recon.simulate.geometry import Geometry
from recon.simulate.receive import Loop, Receiver, acquire, loops, receive_field

GEOMETRY = Geometry(matrix=32, columns=36, lines=34, slices=4, field_of_view_mm=160.0, spacing_mm=8.0, thickness_mm=3.0)


def test_field_on_the_axis_of_a_loop():
    """B(d) ∝ 2π R² / (R² + d²)^{3/2}, the closed formula on the axis of a circular loop."""
    loop = Loop((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), 40.0, 1.0)
    distance = np.array([20.0, 40.0, 80.0, 120.0])
    points = np.stack([distance, 0 * distance, 0 * distance], 1)
    field = receive_field(loop, points)
    expected = 1e3 * 2 * np.pi * 40**2 / (40**2 + distance**2) ** 1.5
    np.testing.assert_allclose(np.abs(field), expected, rtol=0.01)


def test_interpolated_maps_are_the_field():
    receiver = Receiver(GEOMETRY, 5, np.random.default_rng(0))
    x, y, z = GEOMETRY.axes(1)
    y = y[np.abs(y) < 70]
    maps = receiver.sensitivities(float(x[0]), y, z)
    rows, columns = np.meshgrid(y, z, indexing="ij")
    points = np.stack([np.full(rows.size, x[0]), rows.ravel(), columns.ravel()], 1)
    exact = np.stack([receive_field(loop, points) for loop in receiver.loops]).reshape(maps.shape)
    leg = np.hypot(rows, columns) < 60
    ratio = np.vdot(exact[:, leg], maps[:, leg]) / np.vdot(exact[:, leg], exact[:, leg])
    assert np.abs(maps - ratio * exact)[:, leg].max() < 0.01 * np.abs(maps[:, leg]).max()


@pytest.mark.parametrize("coils", [1, 2, 8, 15, 23])
def test_any_number_of_coils(coils):
    assert len(loops(coils, np.random.default_rng(0))) == coils
    receiver = Receiver(GEOMETRY, coils, np.random.default_rng(0))
    assert receiver.covariance.shape == (coils, coils)
    assert np.trace(receiver.covariance).real == pytest.approx(coils)
    _, y, z = GEOMETRY.axes(0)
    maps = receiver.sensitivities(0.0, y, z)
    assert maps.shape == (coils, len(y), len(z))
    assert np.isfinite(maps).all()


def test_coils_see_different_parts():
    receiver = Receiver(GEOMETRY, 8, np.random.default_rng(0))
    _, y, z = GEOMETRY.axes(2)
    maps = receiver.sensitivities(0.0, y, z).reshape(8, -1)
    gram = np.abs(maps @ maps.conj().T)
    norms = np.sqrt(np.diag(gram))
    overlap = gram / np.outer(norms, norms)
    assert (overlap - np.eye(8)).max() < 0.95
    assert np.linalg.cond(maps @ maps.conj().T) < 1e4


@pytest.mark.parametrize(("matrix", "columns"), [(32, 36), (36, 42), (50, 58)])
def test_acquired_band_is_the_centre_of_the_fine_spectrum(matrix, columns):
    geometry = Geometry(matrix, columns, columns - 4, 1, 160.0, 3.0, 3.0)
    rng = np.random.default_rng(0)
    _, y, z = geometry.axes(0)
    shape = (len(y), len(z))
    image = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    maps = (rng.standard_normal((3, *shape)) + 1j * rng.standard_normal((3, *shape))).astype(np.complex64)
    full = sigpy.resize(maps * image, (3, *geometry.fine_shape))
    expected = sigpy.resize(sigpy.fft(full, axes=(-2, -1)), (3, geometry.rows, columns)) / 2
    expected[..., :2] = 0
    expected[..., -2:] = 0
    np.testing.assert_allclose(acquire(image, maps, geometry), expected, atol=2e-4)


def test_truncation_rings():
    """A sharp edge overshoots in the image, as acquired objects do, by Gibbs' 9 % of the step."""
    geometry = Geometry(64, 74, 74, 1, 160.0, 3.0, 3.0)
    _, y, z = geometry.axes(0)
    image = np.broadcast_to((np.abs(z) < 41.3)[None, :], (len(y), len(z))).astype(np.complex64)
    kspace = acquire(image, np.ones((1, *image.shape), np.complex64), geometry)
    row = np.abs(sigpy.ifft(kspace, axes=(-2, -1)))[0, 64]
    assert 1.03 < row.max() < 1.15
