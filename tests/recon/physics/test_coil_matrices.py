"""What coils are multiplied by: whitening, compression along the readout; and BART's maps in place of ours."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import sigpy as sp
from sigpy import mri

from recon.errors import InputError
from recon.physics import coils, espirit
from recon.physics.fourier import fft, ifft
from tests.recon.bart import bart, needs_bart


def complex_normal(rng, *shape: int):
    """Of variance one."""
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) * np.sqrt(0.5)


def random_covariance(count, seed=0):
    factor = complex_normal(np.random.default_rng(seed), count, 2 * count)
    return factor @ factor.conj().T


def phantom_kspace(rows, columns, count, noise=5e-3, seed=0):
    """k-space (coils, rows, columns) of an object inside the field of view, and where the object is."""
    rng = np.random.default_rng(seed)
    image = np.abs(sp.shepp_logan((rows, columns))) * np.exp(1j * np.linspace(0, 2, columns))
    kspace = fft(image * mri.birdcage_maps((count, rows, columns)))
    return (kspace + noise * complex_normal(rng, *kspace.shape)).astype(np.complex64), np.abs(image) > 0.1


def spine_kspace(rows=48, columns=32, count=12, noise=1e-3, seed=0):
    """k-space of coils that lie along the readout, in two rows, as a spine array's: at no place are all heard."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    along = np.repeat(np.linspace(-1, 1, count // 2), 2)[:, None, None]
    side = np.tile([-0.6, 0.6], count // 2)[:, None, None]
    phase = np.exp(1j * rng.uniform(0, 6, (count, 1, 1)) + 1j * y * side)
    maps = phase / (0.05 + (y - along) ** 2 + (x - side) ** 2) ** 1.5
    image = (np.abs(x) < 0.8) * (1 + 0.3 * np.sin(9 * y))
    return (fft(image * maps) + noise * complex_normal(rng, *maps.shape)).astype(np.complex64)


def energy(array):
    return float(np.sum(np.abs(array.astype(np.complex128)) ** 2))


def agreement(a, b):
    """|⟨a, b⟩| at each pixel: maps of unit norm agree up to a phase where it is one."""
    return np.abs(np.sum(a.conj() * b, axis=0))


@pytest.mark.parametrize("scale", [1e-14, 1, 1e8])
def test_whitened_noise_is_uncorrelated_and_of_variance_one(scale):
    covariance = scale * random_covariance(6)
    noise = np.linalg.cholesky(covariance) @ complex_normal(np.random.default_rng(1), 6, 20_000)
    # From other noise than it is applied to, as with a noise scan.
    scan = np.linalg.cholesky(covariance) @ complex_normal(np.random.default_rng(2), 6, 20_000)
    matrix = coils.whitening_matrix(coils.coil_covariance(scan) / 20_000)
    white = matrix @ noise
    np.testing.assert_allclose(white @ white.conj().T / 20_000, np.eye(6), atol=0.05)
    np.testing.assert_allclose(matrix @ covariance @ matrix.conj().T, np.eye(6), atol=0.05)
    np.testing.assert_array_equal(matrix, np.tril(matrix))
    assert matrix.dtype == np.complex64


def test_whitening_of_white_noise_only_scales():
    np.testing.assert_allclose(coils.whitening_matrix(4.0 * np.eye(5)), 0.5 * np.eye(5), rtol=1e-6)


def covariance_of(kind):
    rng = np.random.default_rng(0)
    samples = complex_normal(rng, 6, 100)
    if kind == "a silent coil":
        samples[3] = 0
    elif kind == "two coils the same":
        samples[3] = 2j * samples[1]
    elif kind == "fewer samples than coils":
        samples = samples[:, :5]
    elif kind == "no samples":
        samples = samples[:, :0]
    elif kind == "not finite":
        samples[0, 0] = np.nan
    return coils.coil_covariance(samples) / samples.shape[1] if samples.size else np.zeros((6, 6), complex)


@pytest.mark.parametrize(
    "kind", ["a silent coil", "two coils the same", "fewer samples than coils", "no samples", "not finite"]
)
def test_noise_that_cannot_be_whitened_is_refused(kind):
    coils.whitening_matrix(covariance_of("all well"))
    with pytest.raises(
        InputError, match=r"the coils' noise cannot be whitened: its covariance is not positive definite"
    ):
        coils.whitening_matrix(covariance_of(kind))


def test_edge_samples_are_kspaces_corners_and_no_padding():
    rows, columns = np.meshgrid(np.arange(32), np.arange(24), indexing="ij")
    places = np.stack([rows + 1j * columns, 100 + rows + 1j * columns])
    found = coils.edge_samples(places.astype(np.complex64))
    assert set(found[0].real.astype(int)) == {*range(4), *range(29, 32)}
    assert set(found[0].imag.astype(int)) == {*range(3), *range(22, 24)}
    np.testing.assert_array_equal(found[1], 100 + found[0])
    padded = coils.edge_samples(places.astype(np.complex64), 4, 3)
    # Of columns 4 to 20, the outer quarter of the farthest's distance: more than six from column 12.
    assert set(padded[0].imag.astype(int)) == {4, 5, 19, 20}


def test_edge_samples_leave_out_what_no_coil_has():
    kspace = complex_normal(np.random.default_rng(0), 3, 32, 24).astype(np.complex64)
    whole = coils.edge_samples(kspace)
    # A coil that is zero somewhere was acquired there.
    kspace[1] = 0
    assert coils.edge_samples(kspace).shape == whole.shape
    kspace[..., ::2] = 0
    half = coils.edge_samples(kspace)
    assert 0 < half.shape[1] < whole.shape[1]
    assert half[0].all()


def test_calibration_columns_are_the_contiguous_ones_about_the_centre():
    assert espirit.calibration_columns(64, 24) == (20, 44)
    assert espirit.calibration_columns(64, 25) == (20, 45)
    assert espirit.calibration_columns(65, 24) == (20, 44)
    assert espirit.calibration_columns(16, 24) == (0, 16)
    mask = np.zeros(64, bool)
    mask[29:36] = mask[40:50] = True
    assert espirit.calibration_columns(64, 24, mask) == (29, 36)
    assert espirit.calibration_columns(64, 4, mask) == (30, 34)
    mask[24:33] = False
    left, right = espirit.calibration_columns(64, 24, mask)
    assert left == right


@pytest.mark.parametrize("columns", [31, 32])
@pytest.mark.parametrize("width", [7, 8, 40])
def test_calibration_columns_are_those_of_the_region(columns, width):
    lines = np.broadcast_to(np.arange(columns), (2, 16, columns)).astype(np.complex64)
    mask = np.ones(columns, bool)
    mask[columns // 2 + 2] = False
    left, right = espirit.calibration_columns(columns, width, mask)
    assert espirit.calibration_region(lines, width, mask)[0, 0].real.tolist() == list(range(left, right))
    assert right == columns // 2 + 2


def test_readout_covariances_are_of_the_lines_at_each_position():
    kspace = spine_kspace()
    hybrid = ifft(kspace, (-2,))
    found = coils.readout_covariance(kspace)
    for row in (0, 17, 47):
        np.testing.assert_allclose(found[row], coils.coil_covariance(hybrid[:, row]), rtol=1e-5, atol=1e-6)
    # The transform is unitary: together they are the covariance of all.
    np.testing.assert_allclose(found.sum(axis=0), coils.coil_covariance(kspace), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("virtual", [1, 3, 5])
def test_geometric_compression_keeps_more_than_one_matrix_where_coils_change_along_the_readout(virtual):
    kspace = spine_kspace()
    matrices = coils.geometric_compression(coils.readout_covariance(kspace), virtual)
    geometric = coils.compress(kspace, matrices)
    svd = coils.compress(kspace, coils.compression_matrix(coils.coil_covariance(kspace), virtual))
    assert geometric.shape == svd.shape == (virtual, *kspace.shape[1:])
    assert geometric.dtype == np.complex64
    lost = [1 - energy(one) / energy(kspace) for one in (geometric, svd)]
    assert 0 <= lost[0] < 0.8 * lost[1]
    # No matrix of so many rows could keep more at any position.
    best = np.linalg.eigvalsh(coils.readout_covariance(kspace))[:, -virtual:].sum()
    assert energy(geometric) == pytest.approx(best, rel=1e-4)


def test_geometric_compression_keeps_no_less_than_one_matrix_where_coils_do_not_change():
    kspace, _ = phantom_kspace(48, 40, 8)
    geometric = coils.compress(kspace, coils.geometric_compression(coils.readout_covariance(kspace), 4))
    svd = coils.compress(kspace, coils.compression_matrix(coils.coil_covariance(kspace), 4))
    assert energy(geometric) >= energy(svd)


@needs_bart
@pytest.mark.parametrize("virtual", [2, 4])
def test_geometric_compression_keeps_as_much_as_barts(tmp_path, virtual):
    kspace = spine_kspace()
    theirs = bart(tmp_path, f"cc -G -A -p {virtual}", kspace)
    ours = coils.compress(kspace, coils.geometric_compression(coils.readout_covariance(kspace), virtual))
    assert theirs.shape == ours.shape
    assert energy(ours) == pytest.approx(energy(theirs), rel=1e-4)


def test_geometric_matrices_have_orthonormal_rows():
    matrices = coils.geometric_compression(coils.readout_covariance(spine_kspace()), 4)
    assert matrices.shape == (48, 4, 12)
    np.testing.assert_allclose(
        matrices @ matrices.conj().swapaxes(1, 2), np.broadcast_to(np.eye(4), (48, 4, 4)), atol=1e-5
    )


def test_geometric_matrices_follow_their_neighbours_as_closely_as_any_rotation_can():
    covariances = coils.readout_covariance(spine_kspace())
    aligned = coils.geometric_compression(covariances, 4).astype(np.complex128)
    alone = coils.compression_matrix(covariances, 4)
    steps = np.linalg.norm(np.diff(aligned, axis=0), axis=(1, 2))
    # The least distance that rotating one of two matrices leaves: 2n − 2 Σσ of their product.
    singular = np.linalg.svd(aligned[1:] @ aligned[:-1].conj().swapaxes(1, 2), compute_uv=False)
    least = np.sqrt(np.maximum(0, 2 * 4 - 2 * singular.sum(axis=1)))
    np.testing.assert_allclose(steps, least, atol=1e-3)
    assert steps.mean() < 0.5 * np.linalg.norm(np.diff(alone, axis=0), axis=(1, 2)).mean()


def test_virtual_coils_images_are_smooth_along_the_readout():
    """Unaligned, a virtual coil changes sign and order from row to row, and its k-space is spread along the readout."""
    kspace = spine_kspace(noise=0)
    covariances = coils.readout_covariance(kspace)
    outer = np.abs(np.arange(48) - 24) > 12
    part = []
    for matrices in (coils.geometric_compression(covariances, 4), coils.compression_matrix(covariances, 4)):
        compressed = coils.compress(kspace, matrices)
        part.append(energy(compressed[:, outer]) / energy(compressed))
    assert part[0] < 0.2 * part[1]


def test_positions_without_any_signal_have_matrices_too():
    covariances = coils.readout_covariance(spine_kspace())
    covariances[:10] = 0
    covariances[30] = 0
    matrices = coils.geometric_compression(covariances, 4)
    np.testing.assert_allclose(
        matrices @ matrices.conj().swapaxes(1, 2), np.broadcast_to(np.eye(4), (48, 4, 4)), atol=1e-5
    )


def test_matrices_along_the_readout_act_on_each_row_of_the_image():
    rng = np.random.default_rng(0)
    kspace = complex_normal(rng, 5, 9, 7).astype(np.complex64)
    matrices = complex_normal(rng, 9, 3, 5).astype(np.complex64)
    images, compressed = ifft(kspace), ifft(coils.compress(kspace, matrices))
    for row in range(9):
        np.testing.assert_allclose(compressed[:, row], matrices[row] @ images[:, row], atol=1e-5)
    same = np.broadcast_to(matrices[0], matrices.shape)
    np.testing.assert_allclose(coils.compress(kspace, same), coils.compress(kspace, matrices[0]), atol=1e-5)


@needs_bart
def test_barts_maps_agree_with_ours():
    kspace, inside = phantom_kspace(64, 48, 6)
    ours, theirs = espirit.espirit(kspace), espirit.espirit_bart(kspace)
    assert theirs.shape == ours.shape
    assert theirs.dtype == np.complex64
    assert agreement(ours, theirs)[inside].mean() >= 0.998
    # With our phase, so that either's combined images can be compared.
    both = inside & (np.abs(ours).sum(0) > 0) & (np.abs(theirs).sum(0) > 0)
    assert both.sum() > 0.95 * inside.sum()
    assert np.abs(ours - theirs)[:, both].mean() < 0.02


@needs_bart
def test_barts_maps_of_oversampled_kspace_are_ours_in_the_rows_that_remain():
    kspace, inside = phantom_kspace(64, 48, 6)
    ours, theirs = espirit.espirit(kspace, rows=32), espirit.espirit_bart(kspace, rows=32)
    assert agreement(ours, theirs)[inside[16:48]].mean() >= 0.998


@needs_bart
def test_barts_maps_are_cropped_where_the_eigenvalue_is_small():
    kspace, _ = phantom_kspace(64, 48, 6)
    all_of_them = np.abs(espirit.espirit_bart(kspace, crop=0)).sum(0) > 0
    some = np.abs(espirit.espirit_bart(kspace, crop=0.95)).sum(0) > 0
    assert all_of_them.mean() > 0.99
    assert some.mean() < 0.95


@needs_bart
def test_barts_calibration_uses_no_line_that_the_mask_drops():
    kspace, inside = phantom_kspace(64, 64, 6)
    mask = np.arange(64) % 5 == 0
    mask[24:40] = True
    spoiled = kspace.copy()
    spoiled[..., ~mask] = 1e3
    theirs = espirit.espirit_bart(spoiled, mask=mask)
    np.testing.assert_array_equal(theirs, espirit.espirit_bart(kspace, mask=mask))
    assert agreement(theirs, espirit.espirit(kspace, mask=mask))[inside].mean() >= 0.998


@needs_bart
def test_too_few_lines_for_bart_are_refused_as_ours_are():
    kspace, _ = phantom_kspace(32, 64, 4)
    mask = np.arange(64) % 3 == 0
    mask[31:34] = True
    mask[[30, 34]] = False
    with pytest.raises(InputError, match=r"needs 4 contiguous lines about the centre of k-space, found 3;"):
        espirit.espirit_bart(kspace, mask=mask)


def test_what_bart_refuses_is_said_in_one_line_without_colours(monkeypatch, tmp_path):
    program = tmp_path / "bart"
    program.write_text("#!/bin/sh\nprintf '\\033[31mERROR: no region\\nwas found!\\033[0m\\n' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InputError, match=r"^BART's ecalib refused, with 24 lines about the centre: ERROR: no region was found!$"
    ):
        espirit.espirit_bart(phantom_kspace(32, 32, 4)[0])


@needs_bart
@pytest.mark.parametrize("empty", [0, 3])
def test_a_coil_that_holds_nothing_does_not_spoil_barts_maps(empty):
    kspace, inside = phantom_kspace(48, 64, 5)
    kspace[empty] = 0
    ours, theirs = espirit.espirit(kspace), espirit.espirit_bart(kspace)
    assert np.isfinite(theirs).all()
    np.testing.assert_allclose(theirs[empty], 0, atol=1e-6)
    assert agreement(ours, theirs)[inside].mean() >= 0.998


def test_no_bart_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("BART_TOOLBOX_PATH", "TOOLBOX_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"^BART is not here: neither is bart on the PATH, nor does TOOLBOX_PATH"):
        espirit.espirit_bart(phantom_kspace(32, 32, 4)[0])


@needs_bart
@pytest.mark.parametrize("name", ["BART_TOOLBOX_PATH", "TOOLBOX_PATH"])
def test_bart_is_found_where_its_own_variable_says(monkeypatch, tmp_path, name):
    home = Path(shutil.which("bart")).parent
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BART_TOOLBOX_PATH", raising=False)
    monkeypatch.setenv(name, str(home))
    assert Path(espirit.bart()).parent == home
    assert espirit.espirit_bart(phantom_kspace(32, 32, 4)[0]).shape == (4, 32, 32)
