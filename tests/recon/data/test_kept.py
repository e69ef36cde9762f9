"""What maps keep of a slice, on a real brain and on simulated wrong turns, with root-sum-of-squares as the oracle."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import sigpy as sp

from recon.data.kept import kept_of, noise_power
from recon.data.options import PrepareOptions
from recon.data.prepare import prepare
from recon.data.prepared import PreparedData
from recon.data.readers import read_volume
from recon.physics.coils import sense_combine
from recon.physics.espirit import espirit, espirit_bart
from tests.recon.bart import needs_bart

BRAIN = Path(__file__).parents[2] / "data" / "brain16.ismrmrd.h5"


@pytest.fixture(scope="module")
def brain():
    return read_volume(BRAIN).read_slice(0)


def images(kspace):
    return sp.ifft(kspace, axes=(-2, -1)).astype(np.complex64)


def object_of(kspace):
    rss = sp.rss(images(kspace), axes=(0,))
    return rss, rss > 0.1 * rss.max()


def kept(kspace, maps):
    return kept_of(kspace, images(kspace), maps, noise_power(kspace))


def white(shape, seed=0):
    rng = np.random.default_rng(seed)
    return ((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) * np.sqrt(0.5)).astype(np.complex64)


def test_the_default_keeps_a_real_head_with_its_scalp(brain):
    rss, inside = object_of(brain)
    target = np.abs(sense_combine(images(brain), espirit(brain)))
    assert np.linalg.norm((target - rss)[inside]) / np.linalg.norm(rss[inside]) < 0.01
    cropped = np.abs(sense_combine(images(brain), espirit(brain, crop=0.95)))
    assert np.linalg.norm((cropped - rss)[inside]) / np.linalg.norm(rss[inside]) > 0.04


def test_maps_that_fit_keep_all_and_raise_no_finding(brain):
    found = kept(brain, espirit(brain))
    assert found.energy > 0.99
    assert found.covered == 1
    assert not found.error()
    assert not found.warning()


@pytest.mark.parametrize("louder", [0.01, 0.02])
def test_noise_that_the_combination_is_meant_to_lose_is_no_loss(brain, louder):
    noisy = brain + louder * np.abs(brain).max() * white(brain.shape)
    plain = kept_of(noisy, images(noisy), espirit(noisy), np.zeros(len(noisy)))
    assert plain.energy < 0.95
    assert kept(noisy, espirit(noisy)).energy > 0.98


def test_an_object_larger_than_the_field_of_view_is_told_with_what_is_left(brain):
    folded = np.ascontiguousarray(brain[..., ::2])
    found = kept(folded, espirit(folded))
    rss, inside = object_of(folded)
    target = np.abs(sense_combine(images(folded), espirit(folded)))
    left = np.sqrt(1 - (target[inside] ** 2).sum() / (rss[inside] ** 2).sum())
    assert f"leave {left:.3f} of its coil images" in found.warning()
    assert "--maps-sets 2" in found.warning()


@needs_bart
def test_two_sets_of_maps_leave_no_more_of_a_folded_brain_than_barts(brain):
    folded = np.ascontiguousarray(brain[..., ::2])
    ours = espirit(folded, sets=2)
    theirs = espirit_bart(folded, sets=2)
    assert ours.shape == (2, 16, 128, 64)
    found = [kept_of(folded, images(folded), one, np.zeros(16)).left for one in (ours, theirs)]
    assert found[0] < 0.13
    assert found[0] <= found[1] * 1.01
    assert kept(folded, ours).warning() == ""


def test_two_sets_are_orthonormal_or_zero_at_each_pixel(brain):
    first, second = espirit(np.ascontiguousarray(brain[..., ::2]), sets=2)
    for one in (first, second):
        power = (np.abs(one) ** 2).sum(0)
        assert np.all((np.abs(power - 1) < 1e-4) | (power == 0))
    both = ((np.abs(first) > 0) & (np.abs(second) > 0)).any(0)
    assert 0.2 < both.mean() < 0.9
    assert np.abs((first.conj() * second).sum(0)).max() < 0.01


def test_where_one_set_explains_all_the_first_of_two_is_that_set(brain):
    np.testing.assert_allclose(espirit(brain, sets=2)[0], espirit(brain), atol=1e-6)


@pytest.mark.parametrize("wrong", ["zero", "other", "image"])
def test_maps_without_a_reference_are_an_error_that_says_why(brain, wrong):
    maps = espirit(brain)
    if wrong == "zero":
        assert "zero everywhere" in kept(brain, 0 * maps).error()
    elif wrong == "other":
        assert "of the energy of its coil images" in kept(brain, maps[::-1].copy()).error()
    else:
        found = kept(images(brain), espirit(images(brain)))
        assert found.error() or found.warning()


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
def test_kspace_whose_centre_lies_in_a_corner_keeps_too_little(brain, axes):
    shifted = np.fft.ifftshift(brain, axes=axes)
    found = kept(shifted, espirit(shifted))
    assert found.energy < 0.7
    assert found.error() or found.warning()


def test_maps_that_miss_a_part_of_the_object_are_a_warning_with_the_part(brain):
    maps = espirit(brain)
    maps[:, :52] = 0
    _, inside = object_of(brain)
    lost = inside[:52].sum() / inside.sum()
    found = kept(brain, maps)
    assert found.warning() or found.error()
    assert found.covered == pytest.approx(1 - lost, abs=0.02)


def test_the_record_and_the_table_of_findings_say_what_is_kept(tmp_path):
    report = prepare(BRAIN, tmp_path / "out")
    (name,) = report.prepared
    record = PreparedData(tmp_path / "out").record(name)
    assert record.kept[0] > 0.99
    assert record.covered == (1.0,)
    assert report.problems.empty
    cropped = prepare(BRAIN, tmp_path / "cropped", PrepareOptions(eigenvalue_crop=0.995))
    assert "--eigenvalue-crop" in cropped.problems["what"].iloc[0]


def test_with_rss_the_reference_is_fastmris(tmp_path):
    fastmri = pytest.importorskip("fastmri")
    torch = pytest.importorskip("torch")
    report = prepare(BRAIN, tmp_path / "out", PrepareOptions(target="rss", prewhiten="off"))
    with h5py.File(tmp_path / "out" / "volumes" / f"{report.prepared[0]}.h5") as file:
        kspace, target = file["kspace"][0], file["target"][0]
    theirs = fastmri.rss_complex(fastmri.ifft2c(torch.view_as_real(torch.from_numpy(kspace))), dim=0).numpy()
    np.testing.assert_allclose(np.abs(target), theirs, rtol=1e-4, atol=1e-4 * theirs.max())
