"""Metrics equal scikit-image's and fastMRI's under the definition that they name."""

import numpy as np
import pytest
import torch
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from recon.errors import InputError
from recon.evaluation import metrics


def images(dtype=torch.float32, shape=(3, 33, 41), seed=0):
    """A smooth reference with dark surroundings, and a noisy, differently scaled copy."""
    rng = np.random.default_rng(seed)
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[1:]), indexing="ij")
    bright = np.arange(1, shape[0] + 1)[:, None, None] * 0.3
    reference = bright * np.exp(-3 * (rows**2 + columns**2)) * (1 + 0.3 * np.sin(9 * rows) * np.cos(7 * columns))
    prediction = np.abs(reference * 0.95 + 0.02 + 0.03 * rng.standard_normal(shape))
    return torch.from_numpy(prediction).to(dtype), torch.from_numpy(reference).to(dtype)


def unit(x):
    return (x - x.min()) / (x - x.min()).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_papers_definition_equals_scikit_image(dtype):
    prediction, reference = images(dtype)
    found = [m(prediction, reference, "paper").numpy() for m in (metrics.ssim, metrics.psnr, metrics.nrmse)]
    for n, (x, y) in enumerate(zip(prediction.double().numpy(), reference.double().numpy(), strict=True)):
        assert found[0][n] == pytest.approx(structural_similarity(unit(y), unit(x), data_range=1), abs=1e-5)
        assert found[1][n] == pytest.approx(peak_signal_noise_ratio(y, x, data_range=y.max() - y.min()), abs=1e-5)
        assert found[2][n] == pytest.approx(normalized_root_mse(y, x), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("definition", ["slice", "volume"])
def test_unscaled_definitions_equal_scikit_image(definition, dtype):
    prediction, reference = images(dtype)
    found = [m(prediction, reference, definition).numpy() for m in (metrics.ssim, metrics.psnr, metrics.nrmse)]
    for n, (x, y) in enumerate(zip(prediction.double().numpy(), reference.double().numpy(), strict=True)):
        top = y.max() if definition == "slice" else reference.max().item()
        assert found[0][n] == pytest.approx(structural_similarity(y, x, data_range=top), abs=1e-5)
        assert found[1][n] == pytest.approx(peak_signal_noise_ratio(y, x, data_range=top), abs=1e-5)
        assert found[2][n] == pytest.approx(normalized_root_mse(y, x), abs=1e-5)


def test_the_volume_definition_is_fastmris_evaluation():
    evaluate = pytest.importorskip("fastmri.evaluate", reason="fastmri is not installed")
    prediction, reference = images(torch.float64)
    expected = evaluate.ssim(reference.numpy(), prediction.numpy()).item()
    assert metrics.ssim(prediction, reference, "volume").mean().item() == pytest.approx(expected, abs=1e-7)


def test_single_precision_agrees_with_scikit_images_single_precision():
    prediction, reference = images(torch.float32)
    for n, (x, y) in enumerate(zip(prediction.numpy(), reference.numpy(), strict=True)):
        expected = structural_similarity(unit(y), unit(x), data_range=1)
        assert metrics.ssim(prediction, reference)[n].item() == pytest.approx(expected, abs=1e-5)


def test_the_definitions_differ():
    prediction, reference = images()
    values = [metrics.ssim(prediction, reference, name)[0].item() for name in metrics.DEFINITIONS]
    assert min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) > 0.01


@pytest.mark.parametrize("definition", metrics.DEFINITIONS)
def test_a_perfect_image(definition):
    _, reference = images()
    assert metrics.ssim(reference, reference, definition).tolist() == pytest.approx([1, 1, 1])
    assert metrics.nrmse(reference, reference, definition).tolist() == [0, 0, 0]
    assert metrics.psnr(reference, reference, definition).isposinf().all()


@pytest.mark.parametrize("definition", ["paper", "slice"])
def test_a_slice_is_measured_by_itself(definition):
    prediction, reference = images()
    for metric in (metrics.ssim, metrics.psnr, metrics.nrmse):
        together, alone = (
            metric(prediction, reference, definition)[1],
            metric(prediction[1:2], reference[1:2], definition),
        )
        assert together.item() == pytest.approx(alone.item(), abs=1e-12)


def test_scaling_the_prediction_does_not_change_the_papers_ssim_but_does_the_others():
    prediction, reference = images()
    torch.testing.assert_close(metrics.ssim(3 * prediction, reference), metrics.ssim(prediction, reference))
    assert (metrics.ssim(3 * prediction, reference, "slice") < metrics.ssim(prediction, reference, "slice") - 0.1).all()


def test_an_empty_prediction_has_finite_metrics():
    _, reference = images()
    for metric in (metrics.ssim, metrics.psnr, metrics.nrmse):
        assert metric(torch.zeros_like(reference), reference).isfinite().all()


def test_wrong_input_is_named():
    prediction, reference = images()
    with pytest.raises(InputError, match="no metric definition 'hammernik'; they are paper, slice, volume"):
        metrics.psnr(prediction, reference, "hammernik")
    with pytest.raises(InputError, match=r"found \(2, 33, 41\) and \(3, 33, 41\)"):
        metrics.ssim(prediction[:2], reference)
    with pytest.raises(InputError, match="at least 7 × 7, found 6 × 41"):
        metrics.ssim(prediction[:, :6], reference[:, :6])
