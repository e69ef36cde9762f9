"""Reference methods are sigpy's, metrics scikit-image's, and the test split stays closed."""

from dataclasses import replace

import numpy as np
import pytest
import sigpy.mri.app
import sigpy.mri.linop
import torch
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from recon.data.loading import Loader
from recon.data.prepared import PreparedData, Slice
from recon.errors import InputError
from recon.evaluation.compare import evaluate, measure_slice, reconstruct
from recon.evaluation.measure import measure, validate
from recon.evaluation.methods import l1_wavelet, network_method, noise_free_truth, tune_l1_wavelet, zero_filled
from recon.physics.masks import Mask, fixed
from recon.physics.operators import centre_crop
from tests.recon.networks import MASKS, random_network, small

TASKS = ("PDw", "PDw-FS")


@pytest.fixture(scope="module")
def data(prepared):
    return PreparedData(prepared)


def a_slice(data, task="PDw") -> Slice:
    """A slice through the middle of the knee."""
    ids = data.subset(task, split="val")
    return data.read(ids[len(ids) // 2])


def mask_of(piece: Slice) -> Mask:
    return fixed(MASKS.val, piece.row.columns, (piece.row.pad_left, piece.row.pad_right))


def test_the_zero_filled_image_is_sigpys_adjoint_of_the_kept_lines(data):
    piece = a_slice(data)
    mask = mask_of(piece)
    weights = np.broadcast_to(mask.columns, piece.target.shape).astype(np.float32)
    sense = sigpy.mri.linop.Sense(piece.maps, weights=weights)
    found = zero_filled(piece, mask)
    assert 0 < mask.lines < piece.row.columns
    np.testing.assert_allclose(found, sense.H(piece.kspace * weights), atol=1e-5 * np.abs(piece.target).max())


def test_with_every_line_the_zero_filled_image_is_the_reference(data):
    piece = a_slice(data)
    every = replace(mask_of(piece), columns=np.ones(piece.row.columns, bool))
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
        piece.kspace * mask.columns / piece.row.scale, piece.maps, 3e-3, max_iter=300, show_pbar=False
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
