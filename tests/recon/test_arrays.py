"""A bundle on arrays gives what it gives on prepared slices, in the units of the arrays, and finds what they lack."""

import numpy as np
import pytest
import torch

from recon import arrays
from recon.bundle import Bundle
from recon.config import MaskConfig
from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.evaluation.methods import network_method
from recon.network.unrolled import UnrolledNetwork
from recon.physics.coils import sense_combine
from recon.physics.espirit import espirit
from recon.physics.fourier import fft, ifft
from recon.physics.masks import fixed
from tests.recon.networks import MASKS, SAMPLE_MASKS, random_network, small
from tests.recon.soft_sense import soft_slice


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    config = small()
    return Bundle(random_network(config), config, {"prepare": {"calibration_width": 16}})


@pytest.fixture(scope="module")
def piece(prepared):
    data = PreparedData(prepared)
    return data.read(data.subset("PDw-FS", split="val")[1])


@pytest.fixture(scope="module")
def mask(piece):
    return fixed(MASKS.val, piece.row.shape, piece.row.padding)


def test_equals_the_network_on_the_prepared_slice(bundle, piece, mask):
    undersampled = piece.kspace * mask.kept
    found = bundle.reconstruct(undersampled, "PDw-FS", mask.kept, piece.maps)
    # The same but for the scale that the volume's fully sampled image gives, to which the network is all but blind.
    scale = float(np.abs(sense_combine(ifft(undersampled, (-2, -1)), piece.maps)).max())
    same = piece._replace(row=piece.row._replace(scale=scale))
    expected = network_method(bundle.network, "PDw-FS")(same, mask)
    assert found.dtype == np.complex64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_mask_and_maps_are_found_where_they_are_not_given(bundle, piece, mask):
    undersampled = piece.kspace * mask.kept
    maps = espirit(undersampled, 16, mask.kept)
    given = bundle.reconstruct(undersampled, "PDw-FS", mask.kept, maps)
    np.testing.assert_array_equal(bundle.reconstruct(undersampled, "PDw-FS"), given)
    np.testing.assert_array_equal(bundle.reconstruct(piece.kspace, "PDw-FS", mask.kept, maps), given)


def test_a_sample_that_is_zero_by_chance_is_acquired_all_the_same(bundle, piece, mask):
    undersampled = piece.kspace * mask.kept
    undersampled[:, 3, np.flatnonzero(mask.kept)[0]] = 0
    given = bundle.reconstruct(undersampled, "PDw-FS", mask.kept, piece.maps)
    np.testing.assert_array_equal(bundle.reconstruct(undersampled, "PDw-FS", maps=piece.maps), given)


def test_a_mask_of_the_whole_plane_gives_what_its_columns_give(bundle, piece, mask):
    plane = np.broadcast_to(mask.kept, piece.kspace.shape[-2:]).copy()
    columns = bundle.reconstruct(piece.kspace, "PDw", mask.kept, piece.maps)
    np.testing.assert_array_equal(bundle.reconstruct(piece.kspace, "PDw", plane, piece.maps), columns)


def test_a_mask_of_single_samples_is_taken_as_it_is_and_found_where_it_is_not_given(bundle, piece):
    """By the general operator: samples that the mask leaves out change nothing."""
    scattered = (np.random.default_rng(0).random(piece.kspace.shape[-2:]) < 0.4) & (piece.kspace != 0).any(axis=0)
    found = bundle.reconstruct(piece.kspace * scattered, "PDw", None, piece.maps)
    np.testing.assert_array_equal(found, bundle.reconstruct(piece.kspace, "PDw", scattered, piece.maps))
    other = np.where(scattered, piece.kspace, 1e6)
    np.testing.assert_array_equal(found, bundle.reconstruct(other, "PDw", scattered, piece.maps))


def test_maps_come_from_the_samples_that_the_mask_keeps(bundle, piece, monkeypatch):
    scattered = fixed(SAMPLE_MASKS.test, piece.row.shape).kept
    seen = []

    def maps_of(kspace, width, mask, *, crop, sets):
        seen.append((kspace, width, mask))
        assert sets == 1
        return piece.maps

    monkeypatch.setattr(arrays, "espirit", maps_of)
    found = bundle.reconstruct(piece.kspace, "PDw", scattered)
    ((kspace, width, mask),) = seen
    np.testing.assert_array_equal(kspace, piece.kspace * scattered)
    np.testing.assert_array_equal(mask, scattered)
    assert width == 16
    np.testing.assert_array_equal(found, bundle.reconstruct(piece.kspace, "PDw", scattered, piece.maps))


def test_several_sets_of_maps_give_an_image_each(bundle):
    soft = soft_slice(2)
    mask = fixed(MASKS.val, soft.row.shape).kept
    images = bundle.reconstruct(soft.kspace, "PDw", mask, soft.maps)
    assert images.shape == soft.target.shape
    assert images[1].any()
    stack = bundle.reconstruct(np.stack([soft.kspace] * 3), "PDw", mask, np.stack([soft.maps] * 3))
    np.testing.assert_array_equal(stack, np.stack([images] * 3))
    one = bundle.reconstruct(soft.kspace, "PDw", mask, soft.maps[0])
    with_its_axis = bundle.reconstruct(soft.kspace, "PDw", mask, soft.maps[:1])
    np.testing.assert_allclose(with_its_axis, one[None], rtol=0, atol=1e-5 * np.abs(one).max())
    two = Bundle(bundle.network, bundle.config, {"prepare": {"calibration_width": 16, "maps_sets": 2}})
    lines = fixed(MaskConfig(accelerations=(2.0,), centre_fractions=(0.4,)), soft.row.shape).kept
    found = two.reconstruct(soft.kspace, "PDw", lines)
    assert found.shape == soft.target.shape
    maps = espirit(soft.kspace * lines, 16, lines, sets=2)
    given = two.reconstruct(soft.kspace, "PDw", lines, maps)
    np.testing.assert_allclose(found, given, rtol=0, atol=1e-5 * np.abs(given).max())
    fresh = small(network={"layout": "I3", "channels": 2, "pools": 1})
    whole = Bundle(UnrolledNetwork(fresh.network, fresh.tasks).eval(), fresh).reconstruct(
        soft.kspace, "PDw", np.ones(mask.size), soft.maps
    )
    np.testing.assert_allclose(whole, soft.target, rtol=0, atol=1e-5 * np.abs(soft.target).max())


@pytest.mark.parametrize("factor", [1e-6, 1.0, 250.0])
def test_the_result_has_the_units_of_the_input(bundle, piece, mask, factor):
    one = bundle.reconstruct(piece.kspace, "PDw", mask.kept, piece.maps)
    other = bundle.reconstruct(factor * piece.kspace, "PDw", mask.kept, piece.maps)
    np.testing.assert_allclose(other, factor * one, rtol=0, atol=factor * 1e-5 * np.abs(one).max())


def test_slices_in_front_and_tensors_come_back_as_they_came(bundle, piece, mask):
    stack = np.stack([piece.kspace, 2 * piece.kspace, piece.kspace[:, ::-1]])
    maps = np.stack([piece.maps] * 3)
    images = bundle.reconstruct(stack, "PDw", mask.kept, maps)
    assert images.shape == (3, *piece.target.shape)
    for index in range(3):
        alone = bundle.reconstruct(stack[index], "PDw", mask.kept, maps[index])
        np.testing.assert_array_equal(images[index], alone)
    tensor = bundle.reconstruct(torch.from_numpy(stack), "PDw", torch.tensor(mask.kept), torch.from_numpy(maps))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), images)


def test_an_untrained_network_on_all_lines_gives_the_combined_image(prepared, piece):
    config = small(network={"layout": "I3", "channels": 2, "pools": 1})
    fresh = Bundle(UnrolledNetwork(config.network, config.tasks).eval(), config)
    image = fresh.reconstruct(piece.kspace, "PDw", maps=piece.maps)
    np.testing.assert_allclose(image, piece.target, rtol=0, atol=1e-5 * np.abs(piece.target).max())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda k: (k.real, "PDw"), r"k-space is complex, \(coils, rows, columns\) or .*; found float32 of shape"),
        (lambda k: (k[0], "PDw"), r"k-space is complex, .*; found complex64 of shape \(32, \d+\)$"),
        (lambda k: (k * np.nan, "PDw"), r"k-space holds samples that are not finite$"),
        (lambda k: (k * 0, "PDw"), r"k-space is zero everywhere$"),
        (lambda k: (k, "T2"), r"the network knows the tasks PDw, PDw-FS; found 'T2'$"),
        (lambda k: (k,), r"the bundle reconstructs PDw, PDw-FS; say which as task$"),
        (lambda k: (k, "PDw", np.ones(7)), r"the mask is \(\d+,\) or \(32, \d+\) here; found \(7,\)$"),
        (lambda k: (k, "PDw", np.zeros(k.shape[-1])), r"the mask keeps nothing$"),
        (
            lambda k: (k, "PDw", None, k[:2]),
            r"the maps have k-space's shape, \(4, 32, \d+\) for each .*; found \(2, ",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(bundle, piece, change, sentence):
    with pytest.raises(InputError, match=sentence):
        bundle.reconstruct(*change(piece.kspace))


def test_too_few_lines_for_maps_are_one_sentence(bundle, piece):
    lines = np.zeros(piece.row.columns, bool)
    lines[::5] = True
    with pytest.raises(InputError, match="ESPIRiT needs 4 contiguous lines"):
        bundle.reconstruct(fft(ifft(piece.kspace)), "PDw", lines)
