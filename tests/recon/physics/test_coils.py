import numpy as np
import pytest
import sigpy as sp
from sigpy import mri

from recon.errors import InputError
from recon.physics import coils, espirit
from recon.physics.fourier import fft, ifft
from tests.recon.bart import bart, needs_bart


def phantom_kspace(rows, columns, count, noise=5e-3, seed=0):
    """k-space (coils, rows, columns) of an object inside the field of view, and where the object is."""
    rng = np.random.default_rng(seed)
    image = np.abs(sp.shepp_logan((rows, columns))) * np.exp(1j * np.linspace(0, 2, columns))
    kspace = sp.fft(image * mri.birdcage_maps((count, rows, columns)), axes=(-2, -1))
    kspace = kspace + noise * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    return kspace.astype(np.complex64), np.abs(image) > 0.1


def agreement(a, b):
    """|⟨a, b⟩| at each pixel: maps of unit norm agree up to a phase where it is one."""
    return np.abs(np.sum(a.conj() * b, axis=0))


@pytest.fixture(params=[(64, 64, 8), (96, 80, 5), (65, 63, 4)], ids=lambda shape: "x".join(map(str, shape)))
def object_kspace(request):
    return phantom_kspace(*request.param)


def test_espirit_agrees_with_sigpy(object_kspace):
    kspace, inside = object_kspace
    theirs = mri.app.EspiritCalib(kspace, show_pbar=False).run()
    ours = espirit.espirit(kspace, crop=0.95)
    assert agreement(ours, theirs)[inside].mean() >= 0.999
    np.testing.assert_array_equal(np.abs(ours).sum(0) > 0, np.abs(theirs).sum(0) > 0)


@needs_bart
def test_espirit_agrees_with_bart(object_kspace, tmp_path):
    kspace, inside = object_kspace
    theirs = bart(tmp_path, "ecalib -m1 -r24 -k6 -c0", kspace)
    assert agreement(espirit.espirit(kspace), theirs)[inside].mean() >= 0.998


def test_maps_have_unit_norm_inside_and_are_zero_where_the_eigenvalue_is_cropped():
    kspace, inside = phantom_kspace(64, 64, 8)
    power = np.sum(np.abs(espirit.espirit(kspace)) ** 2, axis=0)
    assert np.all((np.abs(power - 1) < 1e-4) | (power == 0))
    assert (power[inside] > 0).mean() > 0.999
    assert (power == 0).mean() > 0.1


def test_maps_leave_no_more_of_the_data_unexplained_than_sigpys():
    kspace, inside = phantom_kspace(64, 64, 8, noise=1e-4)
    theirs = mri.app.EspiritCalib(kspace, show_pbar=False).run()
    left = espirit.espirit_residual(kspace, espirit.espirit(kspace, crop=0.95))[inside]
    assert left.mean() <= 1.02 * espirit.espirit_residual(kspace, theirs)[inside].mean()
    assert left.max() < 0.02
    wrong = np.roll(espirit.espirit(kspace), 1, axis=0)
    assert espirit.espirit_residual(kspace, wrong)[inside].mean() > 10 * left.mean()


def test_maps_of_oversampled_kspace_keep_the_edge_of_a_cut_object():
    rows, columns, count = 64, 48, 6
    # An object that is as long as the oversampled field of view allows: the rows that remain cut it.
    image = np.zeros((rows, columns))
    image[8:56, 12:36] = 1 + np.arange(48)[:, None] / 48
    kspace = fft(image * mri.birdcage_maps((count, rows, columns))).astype(np.complex64)
    maps = espirit.espirit(kspace, rows=32)
    assert maps.shape == (count, 32, columns)
    truth = ifft(kspace)[:, 16:48]
    truth = truth / np.linalg.norm(truth, axis=0)
    assert agreement(maps, truth)[:, 14:34].min() > 0.99
    # The centre is square in what it resolves: 48 of the oversampled rows, and 24 columns.
    square = espirit.calibration_region(kspace, 24, rows=32)
    np.testing.assert_array_equal(square, sp.resize(kspace, (count, 48, 24)))


def test_calibration_from_a_mask_uses_no_line_that_the_mask_drops():
    kspace, inside = phantom_kspace(64, 64, 8)
    mask = np.zeros(64, bool)
    mask[26:38] = True
    mask[::5] = True
    spoiled = kspace.copy()
    spoiled[..., ~mask] = 1e3
    ours = espirit.espirit(kspace, mask=mask)
    np.testing.assert_array_equal(ours, espirit.espirit(spoiled, mask=mask))
    assert agreement(ours, espirit.espirit(kspace))[inside].mean() > 0.98


def test_calibration_region_is_the_centre_that_is_kept():
    lines = np.broadcast_to(np.arange(64), (2, 32, 64)).astype(np.complex64)
    mask = np.zeros(64, bool)
    mask[29:36] = True
    mask[40:50] = True
    assert espirit.calibration_region(lines, 24)[0, 0].real.tolist() == list(range(20, 44))
    assert espirit.calibration_region(lines, 24, mask)[0, 0].real.tolist() == list(range(29, 36))
    assert espirit.calibration_region(lines, 24, mask).shape == (2, 24, 7)
    np.testing.assert_array_equal(espirit.calibration_region(lines, 24), sp.resize(lines, (2, 24, 24)))


@pytest.mark.parametrize("kept", [slice(31, 34), slice(40, 60)])
def test_too_few_centre_lines_are_refused_with_their_number(kept):
    kspace, _ = phantom_kspace(32, 64, 4)
    mask = np.zeros(64, bool)
    mask[kept] = True
    with pytest.raises(InputError, match=r"needs 4 contiguous lines .* found [30];"):
        espirit.espirit(kspace, mask=mask)


@pytest.mark.parametrize("lines", [4, 5, 6, 8, 10, 12])
def test_few_calibration_lines_still_give_maps_of_the_whole_object(lines):
    kspace, inside = phantom_kspace(64, 64, 8)
    mask = np.zeros(64, bool)
    mask[32 - lines // 2 : 32 - lines // 2 + lines] = True
    maps = espirit.espirit(kspace, mask=mask)
    assert (np.abs(maps).sum(0)[inside] > 0).mean() > 0.98
    assert np.median(agreement(maps, espirit.espirit(kspace))[inside]) > 0.98


def test_kernels_are_six_wide_where_the_region_is_large_enough_and_narrower_where_not():
    assert [espirit.kernel_of((24, lines)) for lines in (24, 15, 14, 10, 9, 4)] == [6, 6, 5, 4, 3, 3]
    assert espirit.kernel_of((8, 24)) == 3


def test_a_mask_in_two_dimensions_calibrates_from_the_box_about_the_centre_that_it_keeps():
    kspace, inside = phantom_kspace(64, 48, 8)
    mask = np.random.default_rng(0).random((64, 48)) < 0.2
    mask[25:40, 17:31] = True
    mask[40, 17:31] = mask[24, 17:31] = mask[25:40, 16] = mask[25:40, 31] = False
    assert espirit.calibration_box((64, 48), 24, mask) == (slice(25, 40), slice(17, 31))
    spoiled = np.where(mask, kspace, np.complex64(1e3))
    ours = espirit.espirit(kspace, mask=mask)
    np.testing.assert_array_equal(ours, espirit.espirit(spoiled, mask=mask))
    assert agreement(ours, espirit.espirit(kspace))[inside].mean() > 0.98
    with pytest.raises(InputError, match="found 0"):
        espirit.espirit(kspace, mask=np.where(np.indices(mask.shape).sum(0) % 2, mask, False))


def test_a_mask_of_whole_columns_is_the_same_in_one_dimension_and_in_two():
    kspace, _ = phantom_kspace(64, 48, 4)
    columns = np.zeros(48, bool)
    columns[18:31] = True
    both = np.broadcast_to(columns, (64, 48))
    np.testing.assert_array_equal(espirit.espirit(kspace, mask=columns), espirit.espirit(kspace, mask=both))


def test_phase_is_fixed_alike_whatever_the_coils_phases_are():
    kspace, inside = phantom_kspace(64, 64, 6, noise=1e-4)
    turned = (kspace * np.exp(2j)).astype(np.complex64)
    maps, same = espirit.espirit(kspace), espirit.espirit(turned)
    both = (np.abs(maps).sum(0) > 0) & inside
    np.testing.assert_allclose(maps[:, both], same[:, both], atol=1e-3)
    principal = coils.compression_matrix(coils.coil_covariance(espirit.calibration_region(kspace, 24)), 1)[0]
    combination = np.tensordot(principal, maps, 1)
    np.testing.assert_allclose(combination.imag, 0, atol=1e-5)
    assert combination.real.min() >= -1e-5


def test_sense_combination_gives_the_image_back_whatever_the_maps_norm():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((9, 7)) + 1j * rng.standard_normal((9, 7))
    maps = (3 * (rng.standard_normal((4, 9, 7)) + 1j * rng.standard_normal((4, 9, 7)))).astype(np.complex64)
    maps[:, 2, 3] = 0
    combined = coils.sense_combine((image * maps).astype(np.complex64), maps)
    expected = image.copy()
    expected[2, 3] = 0
    np.testing.assert_allclose(combined, expected, atol=1e-5)
    assert combined.dtype == np.complex64


def test_compression_keeps_the_energy_that_svd_says_it_can():
    kspace, _ = phantom_kspace(48, 48, 8)
    flat = kspace.reshape(8, -1)
    matrix = coils.compression_matrix(coils.coil_covariance(kspace), 5)
    np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(5), atol=1e-5)
    energies = np.linalg.svd(flat, compute_uv=False) ** 2
    kept = np.sum(np.abs(coils.compress(kspace, matrix)) ** 2)
    np.testing.assert_allclose(kept, energies[:5].sum(), rtol=1e-4)
    largest = np.take_along_axis(matrix, np.abs(matrix).argmax(1, keepdims=True), 1)
    assert np.all(largest.real > 0)
    np.testing.assert_allclose(largest.imag, 0, atol=1e-7)


@needs_bart
def test_compression_keeps_as_much_as_barts(tmp_path):
    kspace, _ = phantom_kspace(48, 48, 8)
    theirs = bart(tmp_path, "cc -S -p 3 -A", kspace)
    ours = coils.compress(kspace, coils.compression_matrix(coils.coil_covariance(kspace), 3))
    np.testing.assert_allclose(np.sum(np.abs(ours) ** 2), np.sum(np.abs(theirs) ** 2), rtol=1e-4)
