"""Reference methods are sigpy's, metrics scikit-image's, and the test split stays closed."""

from dataclasses import replace

import numpy as np
import pytest
import sigpy.mri.app
import sigpy.mri.linop
import torch
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from recon.config import MaskConfig
from recon.data.loading import Loader
from recon.data.prepared import PreparedData, Slice
from recon.errors import InputError
from recon.evaluation.compare import evaluate, measure_slice, reconstruct
from recon.evaluation.measure import measure, validate, validate_zero_filled
from recon.evaluation.methods import l1_wavelet, network_method, noise_free_truth, tune_l1_wavelet, zero_filled
from recon.physics.masks import Mask, fixed, given
from recon.physics.operators import centre_crop
from tests.recon.networks import MASKS, SAMPLE_MASKS, random_network, small
from tests.recon.soft_sense import soft_slice

TASKS = ("PDw", "PDw-FS")


@pytest.fixture(scope="module")
def data(prepared):
    return PreparedData(prepared)


def a_slice(data, task="PDw") -> Slice:
    """A slice through the middle of the knee."""
    ids = data.subset(task, split="val")
    return data.read(ids[len(ids) // 2])


def mask_of(piece: Slice) -> Mask:
    return fixed(MASKS.val, piece.row.shape, piece.row.padding)


def test_the_zero_filled_image_is_sigpys_adjoint_of_the_kept_lines(data):
    piece = a_slice(data)
    mask = mask_of(piece)
    weights = np.broadcast_to(mask.kept, piece.target.shape).astype(np.float32)
    sense = sigpy.mri.linop.Sense(piece.maps, weights=weights)
    found = zero_filled(piece, mask)
    assert 0 < mask.count < piece.row.columns
    np.testing.assert_allclose(found, sense.H(piece.kspace * weights), atol=1e-5 * np.abs(piece.target).max())


def test_methods_see_the_samples_that_a_mask_keeps_and_the_slice_has(data):
    """Both references against sigpy; the mask that a method gets lacks what the slice lacks."""
    piece = a_slice(data)
    kspace = piece.kspace.copy()
    kspace[:, :6, :6] = 0
    piece = piece._replace(kspace=kspace)
    seen = []
    found, _ = reconstruct(piece, lambda piece, mask: seen.append(mask) or zero_filled(piece, mask), SAMPLE_MASKS.test)
    drawn = fixed(SAMPLE_MASKS.test, piece.row.shape, piece.row.padding)
    np.testing.assert_array_equal(seen[0].kept, drawn.kept & kspace.any(axis=0))
    weights = seen[0].kept.astype(np.float32)
    sense = sigpy.mri.linop.Sense(piece.maps, weights=weights)
    expected = np.abs(centre_crop(sense.H(kspace * weights), found.shape))
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())
    app = sigpy.mri.app.L1WaveletRecon(
        kspace * weights / piece.row.scale, piece.maps, 3e-3, weights=weights, max_iter=300, show_pbar=False
    )
    wavelet = l1_wavelet(3e-3, iterations=300)(piece, seen[0])
    np.testing.assert_allclose(wavelet, app.run() * piece.row.scale, atol=2e-3 * np.abs(piece.target).max())


def test_a_network_takes_masks_of_single_samples_and_columns_alike(data):
    """Equal samples give an equal image, by the general operator and by the fast one."""
    config = small()
    piece, method = a_slice(data), network_method(random_network(config), "PDw")
    lines = mask_of(piece)
    plane = given(np.broadcast_to(lines.kept, piece.row.shape), piece.row.padding)
    one, other = method(piece, lines), method(piece, plane)
    np.testing.assert_allclose(other, one, atol=2e-5 * np.abs(one).max())
    assert measure_slice(piece, method, SAMPLE_MASKS.val)["ssim"] > 0


LINES = MaskConfig(accelerations=(2.0,), centre_fractions=(0.2,))


def test_methods_give_an_image_per_set_of_maps_and_magnitudes_are_of_all_sets():
    piece = soft_slice(2)
    every = fixed(MaskConfig(accelerations=(1.0,)), piece.row.shape)
    np.testing.assert_allclose(zero_filled(piece, every), piece.target, atol=1e-5)
    config = small()
    methods = (zero_filled, l1_wavelet(1e-4, 5), noise_free_truth, network_method(random_network(config), "PDw"))
    for method in methods:
        assert method(piece, fixed(LINES, piece.row.shape)).shape == piece.target.shape
        image, reference = reconstruct(piece, method, LINES)
        assert image.shape == reference.shape == (piece.row.crop_rows, piece.row.crop_columns)
    expected = centre_crop(np.sqrt((np.abs(piece.target) ** 2).sum(axis=0)), reference.shape)
    np.testing.assert_allclose(reference, expected, rtol=1e-5)
    assert measure_slice(piece, noise_free_truth, LINES)["ssim"] == pytest.approx(1)


def test_images_are_cut_to_where_any_set_of_maps_is():
    piece = soft_slice(2)
    piece.maps[0, :, :12] = 0  # there is a place with the second set alone
    union = centre_crop((piece.maps != 0).any(axis=(0, 1)), (20, 24))
    image, _ = reconstruct(piece, lambda piece, mask: piece.target + 1, LINES)
    np.testing.assert_array_equal(image != 0, union)
    assert (union & ~centre_crop((piece.maps[0] != 0).any(axis=0), (20, 24))).any()


def test_the_wavelet_reconstruction_of_one_set_is_sigpys_app_and_two_sets_with_one_empty_are_the_same(data):
    piece = a_slice(data)
    mask = mask_of(piece)
    app = sigpy.mri.app.L1WaveletRecon(
        piece.kspace * mask.kept / piece.row.scale, piece.maps, 3e-3, max_iter=20, alpha=1, show_pbar=False
    )
    found = l1_wavelet(3e-3, 20)(piece, mask)
    np.testing.assert_array_equal(found, app.run() * piece.row.scale)
    empty = piece._replace(
        maps=np.stack([piece.maps, 0 * piece.maps]), target=np.stack([piece.target, 0 * piece.target])
    )
    both = l1_wavelet(3e-3, 20)(empty, mask)
    np.testing.assert_allclose(both[0], found, atol=1e-6 * np.abs(found).max())
    assert not both[1].any()


def test_the_wavelet_reconstruction_of_two_sets_explains_what_one_set_cannot():
    piece = soft_slice(2)
    alone = piece._replace(maps=piece.maps[0], target=piece.target[0])
    before, after = measure_slice(piece, zero_filled, LINES), measure_slice(piece, l1_wavelet(1e-3), LINES)
    assert after["nrmse"] < 0.5 * before["nrmse"]
    one = np.abs(l1_wavelet(1e-3)(alone, fixed(LINES, piece.row.shape)))
    two = l1_wavelet(1e-3)(piece, fixed(LINES, piece.row.shape))
    error = np.linalg.norm(two[0] - piece.target[0])
    assert error < 0.5 * np.linalg.norm(one - np.abs(piece.target[0]))


def test_with_every_line_the_zero_filled_image_is_the_reference(data):
    piece = a_slice(data)
    every = replace(mask_of(piece), kept=np.ones(piece.row.columns, bool))
    np.testing.assert_allclose(zero_filled(piece, every), piece.target, atol=1e-5 * np.abs(piece.target).max())


@pytest.mark.parametrize("task", TASKS)
def test_the_wavelet_reconstruction_is_better_than_the_zero_filled_image_in_every_metric(data, task):
    piece = a_slice(data, task)
    before = measure_slice(piece, zero_filled, MASKS.val)
    after = measure_slice(piece, l1_wavelet(1e-2), MASKS.val)
    assert after["ssim"] > before["ssim"] + 0.01
    assert after["psnr"] > before["psnr"] + 0.5
    assert after["nrmse"] < before["nrmse"]


def test_the_wavelet_reconstruction_is_in_the_units_of_the_reference(data):
    piece = a_slice(data)
    brighter = Slice(10 * piece.kspace, piece.maps, 10 * piece.target, piece.row._replace(scale=10 * piece.row.scale))
    method, mask = l1_wavelet(1e-3, iterations=5), mask_of(piece)
    once, tenfold = method(piece, mask), method(brighter, mask)
    np.testing.assert_allclose(tenfold, 10 * once, atol=1e-5 * np.abs(tenfold).max())


def test_the_wavelet_reconstruction_is_the_same_every_time_and_draws_nothing(data):
    piece = a_slice(data)
    mask = mask_of(piece)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again = l1_wavelet(1e-3, iterations=5)(piece, mask), l1_wavelet(1e-3, iterations=5)(piece, mask)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_the_wavelet_reconstruction_converges_to_sigpys_own(data):
    piece = a_slice(data)
    mask = mask_of(piece)
    app = sigpy.mri.app.L1WaveletRecon(
        piece.kspace * mask.kept / piece.row.scale, piece.maps, 3e-3, max_iter=300, show_pbar=False
    )
    expected = app.run() * piece.row.scale
    found = l1_wavelet(3e-3, iterations=300)(piece, mask)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(piece.target).max())


def test_the_regularisation_is_the_best_on_validation_slices_alone(data, monkeypatch):
    read = []
    original = PreparedData.read
    monkeypatch.setattr(PreparedData, "read", lambda self, one: (read.append(one), original(self, one))[1])
    tuning = tune_l1_wavelet(data, "PDw-FS", MASKS.val, candidates=(1e-4, 1e-2), most_slices=2, iterations=5)
    assert len(set(read)) == 2
    assert set(read) <= set(data.subset("PDw-FS", split="val"))
    assert len(tuning.scores) == 4, "the best of the grid has a neighbour on either side"
    assert tuning.scores[tuning.regularisation] == max(tuning.scores.values())
    again = [measure_slice(original(data, one), l1_wavelet(1e-2, 5), MASKS.val)["ssim"] for one in sorted(set(read))]
    assert tuning.scores[1e-2] == pytest.approx(np.mean(again))


def test_the_noise_free_truth_ignores_the_mask_and_is_cut_to_the_maps_support(data):
    piece = data.read(data.subset("PDw-FS", split="val")[0], truth=True)
    # The maps of so small an image reach everywhere.
    maps, target = piece.maps.copy(), piece.target.copy()
    maps[:, :5] = target[:5] = 0
    piece = piece._replace(maps=maps, target=target)
    image, reference = reconstruct(piece, noise_free_truth, MASKS.val)
    again, _ = reconstruct(piece, noise_free_truth, MASKS.test)
    np.testing.assert_array_equal(image, again)
    outside = ~centre_crop(torch.from_numpy((piece.maps != 0).any(axis=0)), image.shape).numpy()
    assert outside.any()
    assert not image[outside].any()
    assert not reference[outside].any()
    assert np.abs(image - reference).max() > 0.05 * reference.max()


def test_a_slice_that_was_read_without_its_truth_is_refused(data):
    piece = a_slice(data)
    with pytest.raises(InputError, match=f"the noise-free truth of volume {piece.row.volume} is not known"):
        reconstruct(piece, noise_free_truth, MASKS.val)


def test_measure_agrees_with_scikit_image_under_the_definition_that_is_asked_for(data):
    piece = a_slice(data)
    image, reference = reconstruct(piece, zero_filled, MASKS.val)
    found = measure(torch.from_numpy(image)[None], torch.from_numpy(reference)[None], "slice")
    top = reference.max()
    assert found["ssim"].item() == pytest.approx(structural_similarity(reference, image, data_range=top), abs=1e-5)
    assert found["psnr"].item() == pytest.approx(peak_signal_noise_ratio(reference, image, data_range=top), abs=1e-4)
    assert found["nrmse"].item() == pytest.approx(normalized_root_mse(reference, image), abs=1e-5)
    paper = measure(torch.from_numpy(image)[None], torch.from_numpy(reference)[None])
    assert abs(paper["ssim"].item() - found["ssim"].item()) > 1e-3, "another definition is another number"


def test_measure_takes_complex_images_by_their_magnitude():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 9, 10, dtype=torch.complex64, generator=generator)
    turned = a * torch.exp(torch.tensor(1.3j))
    for name, values in measure(turned, b).items():
        torch.testing.assert_close(values, measure(a.abs(), b)[name], rtol=1e-5, atol=1e-5)


def test_reconstruct_gives_magnitudes_of_the_centre_crop(data):
    piece = a_slice(data)
    cut = Slice(piece.kspace, piece.maps, piece.target, piece.row._replace(crop_rows=10, crop_columns=12))
    image, reference = reconstruct(cut, lambda piece, mask: 2j * piece.target, MASKS.val)
    rows, columns = piece.target.shape
    top, left = rows // 2 - 5, columns // 2 - 6
    expected = np.abs(piece.target[top : top + 10, left : left + 12])
    np.testing.assert_allclose(reference, expected, rtol=1e-6)
    np.testing.assert_allclose(image, 2 * expected, rtol=1e-6)


def test_every_method_is_measured_where_the_maps_are(data):
    piece = a_slice(data)
    inside = (np.abs(piece.maps) ** 2).sum(0) > 0
    image, reference = reconstruct(piece, lambda piece, mask: piece.target + 1, MASKS.val)
    outside = centre_crop(~inside, image.shape)
    assert outside.any()
    assert not outside.all()
    assert np.all(image[outside] == 0)
    assert np.all(reference[outside] == 0)
    expected = np.abs(centre_crop(piece.target + 1, image.shape))
    np.testing.assert_allclose(image[~outside], expected[~outside], rtol=1e-6)


def test_a_validation_measures_every_slice_and_means_over_slices_whatever_the_batches(data):
    config = small(batch_size=3)
    network = random_network(config)
    found, slices = validate(network, Loader(data, config).validation_batches())
    assert list(slices) == list(TASKS)
    for task in TASKS:
        ids = data.subset(task, split="val")
        assert len(ids) % config.batch_size, "the last batch is smaller, so a mean of batch means would differ"
        assert sorted(slices[task]["slice_id"]) == sorted(ids)
        method = network_method(network, task)
        each = {one: measure_slice(data.read(one), method, MASKS.val) for one in ids}
        for name in ("ssim", "psnr", "nrmse"):
            expected = [each[one][name] for one in slices[task]["slice_id"]]
            assert slices[task][name] == pytest.approx(expected, rel=1e-4)
            assert found[f"{name}/{task}"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert found["ssim"] == pytest.approx((found["ssim/PDw"] + found["ssim/PDw-FS"]) / 2)


@pytest.mark.parametrize("masks", [MASKS, SAMPLE_MASKS])
def test_a_validation_measures_the_zero_filled_images_as_the_final_test_does(data, masks):
    config = small(batch_size=3, masks=masks.model_dump())
    found = validate_zero_filled(Loader(data, config).validation_batches())
    assert list(found) == [f"zero_filled/{task}" for task in TASKS]
    for task in TASKS:
        each = [measure_slice(data.read(one), zero_filled, masks.val) for one in data.subset(task, split="val")]
        assert found[f"zero_filled/{task}"] == pytest.approx(np.mean([one["ssim"] for one in each]), rel=1e-4)


def test_a_split_is_measured_slice_by_slice_with_every_method_and_definition(data):
    methods = {"PDw": {"zero-filled": zero_filled, "the truth": lambda piece, mask: piece.target}}
    ((pictures, table),) = evaluate(data, "val", methods, MASKS.val, definitions=("paper", "slice"))
    count = len(data.subset("PDw", split="val"))
    assert len(table) == count * 2 * 2
    assert list(table.columns) == ["task", "volume", "slice", "method", "definition", "ssim", "psnr", "nrmse"]
    assert pictures.images["zero-filled"].shape == pictures.reference.shape == (count, 32, 32)
    truth = table[table["method"] == "the truth"]
    assert truth["ssim"].to_numpy() == pytest.approx(1)
    assert truth["nrmse"].to_numpy() == pytest.approx(0)
    one = table[(table["method"] == "zero-filled") & (table["definition"] == "paper")].iloc[1]
    piece = data.read(data.subset("PDw", split="val")[1])
    assert one["slice"] == piece.row.slice
    assert one["ssim"] == pytest.approx(measure_slice(piece, zero_filled, MASKS.val)["ssim"])


def test_a_volumes_slices_share_the_range_that_the_definition_volume_names(data):
    ((pictures, table),) = evaluate(data, "val", {"PDw": {"zf": zero_filled}}, MASKS.val, definitions=("volume",))
    top = pictures.reference.max()
    for row, image, reference in zip(table.itertuples(), pictures.images["zf"], pictures.reference, strict=True):
        assert row.ssim == pytest.approx(structural_similarity(reference, image, data_range=top), abs=1e-5)


def test_the_test_split_is_refused_unless_it_was_opened(prepared):
    methods = {"PDw": {"zero-filled": zero_filled}}
    with pytest.raises(InputError, match="the test split is opened by `splitpoint test` alone"):
        next(evaluate(PreparedData(prepared), "test", methods, MASKS.test))
    pictures, _ = next(evaluate(PreparedData(prepared, open_test=True), "test", methods, MASKS.test))
    assert pictures.task == "PDw"
