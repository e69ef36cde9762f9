"""The files: what fastMRI's own loader and sigpy find in them, and what noise they hold."""

import h5py
import numpy as np
import pytest
import sigpy

from recon.simulate import simulate

NAME = "train/knee0000_CORPD_FBK.h5"


def test_fastmri_reads_them(knees):
    mri_data = pytest.importorskip("fastmri.data.mri_data", reason="fastmri is not installed")
    data = mri_data.SliceDataset(knees / "train", "multicoil", use_dataset_cache=False)
    assert len(data) == 2 * 2 * 5
    assert {data[i][3]["acquisition"] for i in range(len(data))} == {"CORPD_FBK", "CORPDFS_FBK"}
    kspace, mask, target, attributes, name, index = data[0]
    assert kspace.shape == (5, 96, 56)
    assert kspace.dtype == np.complex64
    assert mask is None
    assert target.shape == (48, 48)
    assert attributes["encoding_size"] == (96, 56, 1)
    assert attributes["recon_size"] == (48, 48, 1)
    acquired = np.flatnonzero(np.abs(kspace).sum((0, 1)))
    assert (acquired[0], acquired[-1] + 1) == (attributes["padding_left"], attributes["padding_right"])
    assert target.max() <= attributes["max"]
    assert attributes["patient_id"] == name.split("_")[0]
    assert index == 0


def test_fastmri_sizes_at_full_matrix(tmp_path):
    path = simulate(tmp_path, subjects={"train": 1}, slices=1, coils=1)[0]
    with h5py.File(path) as file:
        kspace = file["kspace"][0, 0]
    acquired = np.flatnonzero(np.abs(kspace).sum(0))
    assert kspace.shape == (640, 368)
    assert (acquired[0], acquired[-1]) == (18, 18 + 332 - 1)
    assert len(acquired) == 332


def test_lines_can_be_chosen(tmp_path):
    path = simulate(tmp_path, subjects={"train": 1}, matrix=32, slices=1, coils=1, phase_lines=25)[0]
    with h5py.File(path) as file:
        acquired = np.flatnonzero(np.abs(file["kspace"][0, 0]).sum(0))
    assert len(acquired) == 25
    assert acquired[-1] - acquired[0] == 24


def test_reconstruction_is_the_root_sum_of_squares_of_the_cropped_images(knees):
    for path in knees.rglob("*.h5"):
        with h5py.File(path) as file:
            images = sigpy.ifft(file["kspace"][()], axes=(-2, -1))
            expected = sigpy.resize(sigpy.rss(images, axes=(1,)), (5, 48, 48))
            np.testing.assert_allclose(file["reconstruction_rss"][()], expected, rtol=1e-4, atol=1e-9)
            assert file.attrs["max"] == pytest.approx(expected.max(), rel=1e-5)
            assert file.attrs["norm"] == pytest.approx(np.linalg.norm(expected.astype(float)), rel=1e-5)


def test_readout_oversampling_only_adds_field_of_view(tmp_path):
    path = simulate(tmp_path, subjects={"train": 1}, matrix=64, slices=1, coils=4, snr=np.inf)[0]
    with h5py.File(path) as file:
        image = sigpy.rss(sigpy.ifft(file["kspace"][0], axes=(-2, -1)), axes=(0,))
    # The leg is drawn a little beyond the field of view and fades; the rest of the oversampled extent is empty.
    assert image[32:96].mean() > 30 * image[:16].mean()
    assert image[32:96].mean() > 30 * image[-16:].mean()
    assert image[26:32].mean() > 10 * image[:16].mean()


def test_the_two_contrasts_show_the_same_leg(knees):
    with h5py.File(knees / NAME) as pd, h5py.File(knees / NAME.replace("PD", "PDFS")) as fs:
        assert pd.attrs["patient_id"] == fs.attrs["patient_id"]
        leg = [f["reconstruction_rss"][2] > 0.15 * np.quantile(f["reconstruction_rss"][2], 0.9) for f in (pd, fs)]
    assert (leg[0] & leg[1]).sum() > 0.85 * leg[0].sum()


def test_covariance_is_that_of_a_scan_of_nothing(tmp_path):
    paths = simulate(tmp_path, subjects={"train": 1}, matrix=64, slices=3, coils=6, snr=0)
    variances = []
    for path in paths:
        with h5py.File(path) as file:
            kspace, covariance = file["kspace"][()], file["noise_covariance"][()]
        acquired = np.abs(kspace).sum((0, 1, 2)) > 0
        samples = np.moveaxis(kspace[..., acquired], 1, 0).reshape(6, -1)
        measured = samples @ samples.conj().T / samples.shape[1]
        scale = np.trace(covariance).real / 6
        np.testing.assert_allclose(measured / scale, covariance / scale, atol=0.04)
        assert np.abs(covariance - np.diag(np.diag(covariance))).max() > 0.1 * scale  # coils are correlated
        assert np.linalg.eigvalsh(covariance).min() > 0
        variances.append(scale)
    assert variances[1] > variances[0]  # the fat-suppressed scan is noisier


def test_as_many_coils_as_are_allowed_can_be_written(tmp_path):
    (path, _) = simulate(tmp_path, subjects={"train": 1}, matrix=32, slices=1, coils=128)
    with h5py.File(path) as file:
        assert file["noise_covariance"].shape == (128, 128)
        assert file["kspace"].shape[1] == 128


def test_noise_adds_to_the_noiseless_scan(tmp_path):
    common = {"subjects": {"train": 1}, "matrix": 48, "slices": 1, "coils": 4}
    kspace = {}
    for snr in (np.inf, 20.0):
        path = simulate(tmp_path / str(snr), snr=snr, **common)[0]
        with h5py.File(path) as file:
            kspace[snr], covariance = file["kspace"][0], file["noise_covariance"][()]
    noise = (kspace[20.0] - kspace[np.inf])[..., np.abs(kspace[np.inf]).sum((0, 1)) > 0]
    assert np.mean(np.abs(noise) ** 2) == pytest.approx(np.trace(covariance).real / 4, rel=0.05)
