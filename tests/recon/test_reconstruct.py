"""Bundles on raw files; fastMRI's own reader and evaluation are the oracles."""

import argparse
import dataclasses
from collections.abc import Iterator

import h5py
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from recon.bundle import Bundle
from recon.config import MaskConfig, MasksConfig
from recon.data import volume
from recon.data.options import PrepareOptions
from recon.data.prepare import prepare
from recon.data.prepared import PreparedData
from recon.data.readers import read_volume
from recon.data.readers.raw import Geometry
from recon.data.volume_file import Piece
from recon.errors import InputError
from recon.evaluation import metrics
from recon.evaluation.compare import evaluate
from recon.evaluation.methods import network_method
from recon.reconstruct import reconstruct_file, reconstruct_files, reconstruct_volume
from recon.simulate import simulate
from tests.recon.data import rawfiles
from tests.recon.data.test_formats import BRAIN
from tests.recon.networks import SAMPLE_MASKS, random_bundle, random_network, small

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
    np.testing.assert_array_equal(made.mask.kept[acquired], mask[acquired])
    with h5py.File(made.path) as file:
        assert file["reconstruction"].shape == (3, 28, 30)
        assert file.attrs["lines"] == mask[acquired].sum()


def test_a_bundle_with_a_test_mask_of_single_samples_reconstructs_from_those(tmp_path):
    path = rawfiles.make(tmp_path / "whole.h5").path
    made = reconstruct_file(random_bundle(masks=SAMPLE_MASKS.model_dump()), path, tmp_path / "out.h5")
    assert made.mask.by_sample
    assert made.mask.kind == "random-points"
    with h5py.File(made.path) as file:
        assert file["reconstruction"][()].any()
        assert file.attrs["samples"] == made.mask.count
        assert "lines" not in file.attrs


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


def test_every_format_holds_the_same_images(raw, bundle, reconstructed, tmp_path):
    path = next((raw / "test").glob("*CORPD_*"))
    with h5py.File(reconstructed / path.name) as file:
        expected = file["reconstruction"][()]
    located = dataclasses.replace(
        read_volume(path), geometry=Geometry((5.0, 4.0, 3.0), np.eye(3)[[2, 0, 1]], np.array([1.0, 2.0, 3.0]))
    )
    made = reconstruct_volume(bundle, located, tmp_path, format="nifti")
    assert (made.path, made.notes) == (tmp_path / f"{path.stem}.nii.gz", ())
    read = nibabel.load(made.path)
    np.testing.assert_array_equal(np.asarray(read.dataobj).transpose(2, 1, 0), expected)
    # Sample n // 2 of the 64 / 2 rows and 36 columns stays sample n // 2 of the 32 rows and columns.
    middle = [1.0, 2.0, 3.0] + 0.5 * (5.0 * np.eye(3)[2] + 4.0 * np.eye(3)[0])
    np.testing.assert_allclose(nibabel.affines.apply_affine(read.affine, [16, 16, 1]), middle * [-1, -1, 1], atol=1e-5)
    # The layout itself says how large the voxels are, 160 mm over 32, but not where they lie.
    made = reconstruct_file(bundle, path, tmp_path / "sizes.nii")
    assert made.notes == ("the raw file does not say where it lies in the patient",)
    assert nibabel.load(made.path).header.get_zooms() == (5, 5, 3)
    picture = reconstruct_file(bundle, path, tmp_path / "sheet.png").path
    with Image.open(picture) as file:
        assert file.size == (64, 64)


def test_each_volume_of_a_file_is_written_by_its_name(raw, bundle, tmp_path, monkeypatch):
    path = next((raw / "test").glob("*CORPD_*"))
    one = read_volume(path)
    broken = dataclasses.replace(one, name="echo2", load=lambda position: np.zeros((1, 1, 1), np.complex64))
    echoes = (dataclasses.replace(one, name="echo1"), broken, dataclasses.replace(one, name="echo3"))
    monkeypatch.setattr("recon.data.readers.read_volumes", lambda file, hints: echoes)
    first, second, third = reconstruct_files(bundle, [path], tmp_path / "out")
    assert (first.path, third.path) == (tmp_path / "out" / "echo1.h5", tmp_path / "out" / "echo3.h5")
    assert "slice 0 is 1 × 1 × 1, where 4 × 64 × 36 is due" in str(second)
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["echo1.h5", "echo3.h5"]
    with pytest.raises(InputError, match=r"one\.h5 is one file, and .*CORPD_FBK\.h5 holds 3 volumes; give a folder"):
        list(reconstruct_files(bundle, [path], tmp_path / "one.h5"))


def test_files_of_one_name_do_not_overwrite_each_other(raw, bundle, tmp_path):
    path = next((raw / "test").glob("*CORPD_*"))
    copy = tmp_path / "other" / path.name
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    steps = []
    made, left_out = reconstruct_files(
        bundle, [path, copy], tmp_path / "out", progress=lambda *step: steps.append(step)
    )
    assert made.path == tmp_path / "out" / path.name
    assert f"{copy}: {made.path} was just written from {path}; rename one of them" in str(left_out)
    assert steps == [(1, 2), (2, 2)]


def test_black_images_are_an_error_and_no_file(raw, bundle, tmp_path, monkeypatch):
    opened = read_volume(next((raw / "test").glob("*CORPD_*")))
    real = volume.pieces

    def without_maps(*given: object) -> Iterator[Piece]:
        for piece in real(*given):
            yield piece._replace(maps=np.zeros_like(piece.maps), target=np.zeros_like(piece.target))

    monkeypatch.setattr(volume, "pieces", without_maps)
    with pytest.raises(InputError, match="its images would be black; the coil maps are zero in all slices"):
        reconstruct_volume(bundle, opened, tmp_path / "out.h5")
    assert not list(tmp_path.iterdir())


def test_samples_missing_in_two_dimensions_of_an_oversampled_readout_are_refused(raw, bundle, tmp_path):
    opened = read_volume(next((raw / "test").glob("*CORPD_*")))
    mask = np.random.default_rng(0).random((opened.rows, opened.columns)) < 0.5
    with pytest.raises(InputError, match="in two dimensions, and its 64 rows are more than the image's 32"):
        reconstruct_volume(bundle, dataclasses.replace(opened, mask=mask), tmp_path / "out.h5")
    assert not list(tmp_path.iterdir())
