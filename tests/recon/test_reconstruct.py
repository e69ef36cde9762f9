"""Bundles on raw files; fastMRI's own reader and evaluation are the oracles."""

import argparse

import h5py
import numpy as np
import pytest
import torch

from recon.bundle import Bundle
from recon.config import MaskConfig, MasksConfig
from recon.data.options import PrepareOptions
from recon.data.prepare import prepare
from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.evaluation import metrics
from recon.evaluation.compare import evaluate
from recon.evaluation.methods import network_method
from recon.reconstruct import reconstruct_file
from recon.simulate import simulate
from tests.recon.data import rawfiles
from tests.recon.data.test_formats import BRAIN
from tests.recon.networks import random_network, small

MASKS = MasksConfig(test=MaskConfig(accelerations=(3.0,), centre_fractions=(0.2,)))
OPTIONS = PrepareOptions(calibration_width=16)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    simulate(root, subjects={"test": 2}, matrix=32, slices=3, coils=4, seed=1)
    return root


@pytest.fixture(scope="module")
def bundle():
    config = small(masks=MASKS)
    return Bundle(random_network(config).eval(), config, {"prepare": OPTIONS.model_dump(mode="json")})


@pytest.fixture(scope="module")
def reconstructed(raw, bundle, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    for path in sorted((raw / "test").glob("*.h5")):
        reconstruct_file(bundle, path, out)
    return out


def test_fastmris_dataset_reads_what_simulate_writes(raw):
    mri_data = pytest.importorskip("fastmri.data.mri_data", reason="fastmri is not installed")
    dataset = mri_data.SliceDataset(root=raw / "test", challenge="multicoil", use_dataset_cache=False)
    assert len(dataset) == 2 * 2 * 3
    kspace, mask, target, attributes, name, number = dataset[1]
    assert kspace.shape == (4, 64, 36)
    assert mask is None
    with h5py.File(raw / "test" / name) as file:
        np.testing.assert_array_equal(kspace, file["kspace"][number])
        np.testing.assert_array_equal(target, file["reconstruction_rss"][number])
    assert (attributes["padding_left"], attributes["padding_right"]) == (1, 35)
    assert attributes["recon_size"][:2] == (32, 32)


def test_fastmris_evaluation_reads_what_reconstruct_writes_with_our_ssim(raw, reconstructed):
    module = pytest.importorskip("fastmri.evaluate", reason="fastmri is not installed")
    given = argparse.Namespace(
        target_path=raw / "test", predictions_path=reconstructed, acquisition=None, acceleration=None
    )
    theirs = module.evaluate(given, "reconstruction_rss").means()
    ours = []
    for path in sorted((raw / "test").glob("*.h5")):
        with h5py.File(path) as target, h5py.File(reconstructed / path.name) as made:
            pair = [torch.from_numpy(one[()]) for one in (made["reconstruction"], target["reconstruction_rss"])]
        ours.append(metrics.ssim(*pair, "volume").mean().item())
    assert np.mean(ours) == pytest.approx(theirs["SSIM"].item(), abs=1e-5)
    assert 0.05 < np.mean(ours) < 0.999


def test_the_images_are_those_of_the_final_test(raw, bundle, reconstructed, tmp_path):
    report = prepare(raw, tmp_path / "data", OPTIONS)
    data = PreparedData(report.out, open_test=True)
    methods = {task: {"network": network_method(bundle.network, task)} for task in bundle.config.tasks}
    seen = 0
    for pictures, _ in evaluate(data, "test", methods, MASKS.test):
        with h5py.File(reconstructed / f"{pictures.volume}.h5") as file:
            found = file["reconstruction"][()]
            assert file.attrs["task"] == pictures.task
        expected = pictures.images["network"]
        np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())
        seen += 1
    assert seen == 4


def test_every_format_gives_the_same_reconstruction(raw, bundle, reconstructed, tmp_path):
    expected = {}
    for path in reconstructed.glob("*.h5"):
        with h5py.File(path) as file:
            expected[path.stem] = file["reconstruction"][()]
    simulate(tmp_path / "cfl", subjects={"test": 2}, matrix=32, slices=3, coils=4, seed=1, format="cfl")
    for path in sorted((tmp_path / "cfl").rglob("*.cfl")):
        made = reconstruct_file(bundle, path, tmp_path / "out").path
        with h5py.File(made) as file:
            np.testing.assert_allclose(file["reconstruction"], expected[path.stem], rtol=1e-4, atol=1e-9)


def test_a_file_acquired_in_part_is_reconstructed_from_its_own_lines(bundle, tmp_path):
    mask = np.arange(rawfiles.COLUMNS) % 3 == 0
    mask[12:24] = True
    path = rawfiles.make(tmp_path / "part.h5", mask=mask).path
    made = reconstruct_file(bundle, path, tmp_path / "out.h5")
    assert made.own_lines
    left, right = rawfiles.PADDING
    acquired = slice(left, rawfiles.COLUMNS - right)
    np.testing.assert_array_equal(made.mask.columns[acquired], mask[acquired])
    with h5py.File(made.path) as file:
        assert file["reconstruction"].shape == (3, 28, 30)
        assert file.attrs["lines"] == mask[acquired].sum()


def test_the_brain_is_reconstructed(bundle, tmp_path):
    made = reconstruct_file(bundle, BRAIN, tmp_path / "brain.h5", task="PDw", options=PrepareOptions())
    with h5py.File(made.path) as file:
        image = file["reconstruction"][()]
    assert image.shape == (1, 128, 128)
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    assert image.any()


def test_a_task_that_the_bundle_does_not_know_is_named(raw, bundle, tmp_path):
    path = next((raw / "test").glob("*CORPD_*"))
    with pytest.raises(InputError, match="--task is T2, and the bundle reconstructs PDw, PDw-FS"):
        reconstruct_file(bundle, path, tmp_path, task="T2")
    with pytest.raises(InputError, match="says that it is unnamed, and the bundle reconstructs"):
        reconstruct_file(bundle, BRAIN, tmp_path)


def test_nothing_is_left_of_a_reconstruction_that_fails(raw, bundle, tmp_path):
    path = tmp_path / "raw.h5"
    path.write_bytes(next((raw / "test").glob("*CORPD_*")).read_bytes())
    with h5py.File(path, "r+") as file:
        file["kspace"][2] = np.nan
    with pytest.raises(InputError, match="slice 2: it holds samples that are not finite"):
        reconstruct_file(bundle, path, tmp_path / "out" / "made.h5")
    assert not list(tmp_path.glob("out/*"))


def test_the_raw_file_is_never_written_over(raw, bundle):
    path = next((raw / "test").glob("*CORPD_*"))
    before = path.read_bytes()
    with pytest.raises(InputError, match="is the raw file itself"):
        reconstruct_file(bundle, path, path.parent)
    assert path.read_bytes() == before
