"""Public collections without a header of their own, made from their published layouts: CMRxRecon, SKM-TEA,
Calgary-Campinas."""

import h5py
import numpy as np
import pytest
import sigpy as sp
from sigpy import mri

from recon.data import readers
from recon.data.options import PrepareOptions
from recon.data.prepare import prepare
from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.physics.fourier import ifft
from tests.recon.data.test_reader_plain import write_mat73


def random_array(*shape: int, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def assert_slices(volume, due):
    """The slices are those of (slices, coils, rows, columns)."""
    assert (volume.slices, volume.coils, volume.rows, volume.columns) == due.shape
    for position, one in enumerate(due):
        np.testing.assert_allclose(volume.read_slice(position), one, atol=1e-5)


# CMRxRecon; arrays have MATLAB's order: readout, phase encoding, coils, slices, times


@pytest.mark.parametrize("name", ["kspace_full", "kspace", "kus"])
def test_frames_of_a_cine_are_slices_of_one_person(tmp_path, name):
    cine = random_array(12, 10, 3, 2, 4)
    path = tmp_path / "FullSample" / "P001" / "cine_sax.mat"
    write_mat73(path, **{name: cine})
    volume = readers.read_volume(path)
    assert_slices(volume, cine.transpose(4, 3, 2, 0, 1).reshape(8, 3, 12, 10))
    assert (volume.format, volume.name, volume.task, volume.patient) == (
        "cmrxrecon",
        "P001_cine_sax",
        "cine_sax",
        "P001",
    )
    assert (volume.mask, volume.phase_encodings) == (None, 1)


def test_cines_of_a_single_coil_and_images_without_times_are_told_apart(tmp_path):
    array = random_array(12, 10, 3, 2)
    write_mat73(tmp_path / "cine_lax.mat", kspace_single_full=array)
    write_mat73(tmp_path / "blackblood.mat", kspace_full=array)
    single = readers.read_volume(tmp_path / "cine_lax.mat")
    assert_slices(single, array.transpose(3, 2, 0, 1).reshape(6, 1, 12, 10))
    assert (single.name, single.patient) == ("cine_lax", "cine_lax")
    assert_slices(readers.read_volume(tmp_path / "blackblood.mat"), array.transpose(3, 2, 0, 1))


def test_persons_of_two_centres_with_one_number_are_two(tmp_path):
    names = set()
    for centre in ("Center001", "Center005"):
        path = tmp_path / centre / "Siemens_30T_Vida" / "P003" / "T1map.mat"
        write_mat73(path, kspace=random_array(6, 5, 2, 1, 2))
        names.add(readers.read_volume(path).patient)
    assert names == {"Center001-Siemens_30T_Vida-P003", "Center005-Siemens_30T_Vida-P003"}


def test_an_undersampled_cine_has_its_mask_and_only_one(tmp_path):
    cine = random_array(12, 10, 3, 2, 3)
    kept = np.arange(10) % 3 == 0
    path = tmp_path / "P001" / "cine_sax.mat"
    write_mat73(path, kspace_sub04=cine * kept[:, None, None, None])
    np.testing.assert_array_equal(readers.read_volume(path).mask, kept)
    cine[:, ~kept, :, :, :2] = cine[:, np.roll(~kept, 1), :, :, 2] = 0
    write_mat73(path, kspace_sub04=cine)
    with pytest.raises(InputError, match=r"cine_sax\.mat: its frames are undersampled by different masks"):
        readers.read_volume(path)


def test_masks_and_maps_beside_stand_for_no_volume(tmp_path):
    files = [tmp_path / name for name in ("cine_sax.mat", "cine_sax_mask.mat", "coilmap.mat", "segmask.mat")]
    assert readers.volumes(files) == files[:1]
    mask = tmp_path / "T1map_mask_Uniform4.mat"
    assert readers.volumes([mask]) == []


def test_flow_in_three_dimensions_is_transformed_along_its_readout(tmp_path):
    # As h5py gives it: velocities, times, coils, slice encoding, phase encoding, readout.
    flow = random_array(2, 3, 2, 4, 5, 6)
    path = tmp_path / "P007" / "kdata_full.mat"
    write_mat73(path, kdata_full=flow.T)
    volume = readers.read_volume(path)
    due = sp.ifft(flow, axes=(-1,)).transpose(0, 1, 5, 2, 4, 3).reshape(36, 2, 5, 4)
    assert_slices(volume, due)
    assert volume.phase_encodings == 2
    # The challenge's own code writes the parts apart.
    with h5py.File(path, "w") as file:
        file["kdata_full/real"], file["kdata_full/imag"] = flow.real, flow.imag
    assert_slices(readers.read_volume(path), due)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"kspace_full": np.ones((4, 4, 2, 2, 2))}, "kspace_full is of type float64, where complex"),
        ({"kspace_full": random_array(4, 4)}, "kspace_full is 4 × 4, where slices, coils"),
        ({"kdata_full": random_array(4, 4, 2)}, "kdata_full is 2 × 4 × 4, where times, coils and three"),
        ({"kus": random_array(4, 4, 2, 2), "kspace_full": random_array(4, 4, 2, 2)}, "it holds kspace_full, kus"),
    ],
)
def test_cardiac_files_that_do_not_fit_are_refused(tmp_path, variables, message):
    write_mat73(tmp_path / "cine_sax.mat", **variables)
    with pytest.raises(InputError, match=rf"cine_sax\.mat: {message}"):
        readers.read_volume(tmp_path / "cine_sax.mat")


# SKM-TEA


def write_skmtea(path, images, maps, padded=True):
    """Images (x, y, z, echoes) seen by maps (x, y, z, coils)."""
    kspace = sp.fft(images[..., None] * maps[..., None, :], axes=(1, 2)).astype(np.complex64)
    if padded:
        # At both sides of ky and at one of kz.
        kspace[:, :2] = kspace[:, -2:] = kspace[:, :, -3:] = 0
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=kspace, chunks=(1, *kspace.shape[1:3], 1, kspace.shape[4]))
        file["maps"] = maps[..., None].astype(np.complex64)
        file["target"] = images[..., None].astype(np.complex64)
    return kspace


def test_the_echoes_of_a_knee_are_two_tasks_of_one_patient(tmp_path):
    images, maps = random_array(6, 16, 12, 2), random_array(6, 16, 12, 3, seed=1)
    kspace = write_skmtea(tmp_path / "MTR_005.h5", images, maps)
    found = readers.read_volumes(tmp_path / "MTR_005.h5")
    assert [one.name for one in found] == ["MTR_005_echo1", "MTR_005_echo2"]
    assert [one.task for one in found] == ["echo1", "echo2"]
    assert {(one.patient, one.format, one.phase_encodings) for one in found} == {("MTR_005", "skm-tea", 2)}
    for echo, one in enumerate(found):
        assert_slices(one, kspace[:, :, :, echo].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(one.load_maps(2), maps[2].transpose(2, 0, 1))
        assert (one.pad_left, one.pad_right, one.mask) == (0, 3, None)


def test_the_combined_echo_is_the_collections_target(tmp_path):
    maps = np.stack([mri.birdcage_maps((3, 32, 24)).transpose(1, 2, 0)] * 2)
    image = np.abs(sp.shepp_logan((32, 24)))
    write_skmtea(tmp_path / "MTR_005.h5", np.stack([image, 2 * image])[..., None], maps, padded=False)
    volume = readers.read_volume(tmp_path / "MTR_005.h5", name="MTR_005_echo1")
    coils = volume.load_maps(1)
    combined = (ifft(volume.read_slice(1)) * coils.conj()).sum(0) / (np.abs(coils) ** 2).sum(0)
    with h5py.File(tmp_path / "MTR_005.h5") as file:
        np.testing.assert_allclose(combined, file["target"][1, :, :, 0, 0], atol=1e-5)


def test_both_echoes_are_prepared_on_one_side(tmp_path):
    maps = np.stack([mri.birdcage_maps((3, 32, 24)).transpose(1, 2, 0)] * 2)
    image = np.abs(sp.shepp_logan((32, 24)))
    echoes = np.stack([np.stack([image, 2 * image]), np.stack([image, 2 * image]) ** 0.5], -1)
    write_skmtea(tmp_path / "MTR_005.h5", echoes, maps, padded=False)
    report = prepare(tmp_path / "MTR_005.h5", tmp_path / "out", PrepareOptions(maps="own"))
    assert report.ok, report.failed
    assert set(report.prepared) == {"MTR_005_echo1", "MTR_005_echo2"}
    assert report.index["split"].nunique() == 1
    data = PreparedData(report.out)
    for row in map(data.row, report.index["slice_id"]):
        due = echoes[row.slice, ..., int(row.task[-1]) - 1]
        np.testing.assert_allclose(np.abs(data.read(row.slice_id).target), due, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kspace", np.ones((2, 4, 4, 2, 2), np.float32), r"of float32; complex samples over x, ky, kz"),
        ("maps", np.ones((2, 4, 4, 3, 1), np.complex64), r"maps are \(2, 4, 4, 3, 1\), where \(2, 4, 4, 2\)"),
    ],
)
def test_knees_that_do_not_fit_are_refused(tmp_path, name, value, message):
    write_skmtea(tmp_path / "MTR_005.h5", random_array(2, 4, 4, 2), random_array(2, 4, 4, 2, seed=1))
    with h5py.File(tmp_path / "MTR_005.h5", "r+") as file:
        del file[name]
        file[name] = value
    with pytest.raises(InputError, match=rf"MTR_005\.h5: .*{message}"):
        readers.read_volumes(tmp_path / "MTR_005.h5")


# Calgary-Campinas


def write_calgary(path, coil_images, keep=None):
    """Coil images (slices, y, z, coils): k-space with its centre in the middle, whose plain inverse transform has the
    image in its place."""
    _, rows, columns, coils = coil_images.shape
    sign = (-1.0) ** np.add.outer(np.arange(rows), np.arange(columns))
    kspace = np.fft.fft2(coil_images * sign[..., None], axes=(1, 2))
    kspace[:, :, int(np.ceil(0.85 * columns)) :] = 0
    if keep is not None:
        kspace = kspace * keep[..., None]
    interleaved = np.stack([kspace.real, kspace.imag], -1).reshape(*kspace.shape[:3], 2 * coils)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = interleaved.astype(np.float32)


def brain(rows=32, columns=20):
    """(slices, rows, columns, coils)."""
    image = np.abs(sp.shepp_logan((rows, columns)))
    coils = mri.birdcage_maps((3, rows, columns)).transpose(1, 2, 0)
    return np.stack([image, 0.5 * image])[..., None] * coils


def published_image(path):
    """As the collection's own code reconstructs it: a plain transform, and the root of the sum of squares."""
    with h5py.File(path) as file:
        kspace = file["kspace"][..., ::2] + 1j * file["kspace"][..., 1::2]
    return np.sqrt((np.abs(np.fft.ifft2(kspace, axes=(1, 2), norm="ortho")) ** 2).sum(-1))


def test_calgary_images_are_where_the_published_code_puts_them(tmp_path):
    path = tmp_path / "e14089s3_P53248.7.h5"
    write_calgary(path, brain())
    volume = readers.read_volume(path)
    assert (volume.slices, volume.coils, volume.rows, volume.columns) == (2, 3, 32, 20)
    assert (volume.format, volume.task, volume.phase_encodings) == ("calgary-campinas", "T1w", 2)
    assert (volume.name, volume.patient) == ("e14089s3_P53248.7", "e14089")
    assert (volume.pad_left, volume.pad_right, volume.mask) == (0, 3, None)
    for position, due in enumerate(published_image(path)):
        kspace = volume.read_slice(position)
        rss = np.sqrt((np.abs(ifft(kspace)) ** 2).sum(0))
        np.testing.assert_allclose(rss, due, atol=1e-4 * due.max())
        assert np.unravel_index(np.abs(kspace).sum(0).argmax(), rss.shape) == (16, 10)
        # Centred as our convention is, so that neighbours are alike in phase.
        image = ifft(kspace)[0]
        assert np.abs(np.angle(image[16, 10] * image[16, 11].conj())) < 1


def test_calgary_undersampling_is_seen_sample_by_sample(tmp_path):
    keep = np.random.default_rng(0).random((32, 20)) < 0.4
    write_calgary(tmp_path / "brain.h5", brain(), keep)
    volume = readers.read_volume(tmp_path / "brain.h5")
    keep[:, 17:] = False
    np.testing.assert_array_equal(volume.mask, keep)
    assert volume.patient == "brain"


def test_columns_that_a_calgary_like_file_has_acquired_are_kept(tmp_path):
    path = tmp_path / "brain.h5"
    whole = random_array(2, 8, 20, 3)
    with h5py.File(path, "w") as file:
        file["kspace"] = np.stack([whole.real, whole.imag], -1).reshape(2, 8, 20, 6)
    volume = readers.read_volume(path)
    assert (volume.pad_left, volume.pad_right, volume.mask) == (0, 0, None)


@pytest.mark.parametrize("seed", [17, 20, 38, 103])
def test_a_file_with_damaged_tables_is_an_input_error(tmp_path, seed):
    path = tmp_path / "cine_sax.mat"
    write_mat73(path, kspace_full=random_array(12, 10, 3, 2, 4))
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for at in rng.integers(512, 3000, 200):
        content[at] = rng.integers(256)
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"cine_sax\.mat"):
        readers.read_volume(path)


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("layout", ["calgary", "skmtea", "cmrxrecon"])
def test_a_truncated_file_of_a_collection_is_an_input_error(tmp_path, layout, cut):
    path = tmp_path / ("cine_sax.mat" if layout == "cmrxrecon" else "one.h5")
    if layout == "calgary":
        write_calgary(path, brain())
    elif layout == "skmtea":
        write_skmtea(path, random_array(2, 16, 16, 2), random_array(2, 16, 16, 3))
    else:
        write_mat73(path, kspace_full=random_array(12, 10, 3, 2, 4))
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])

    def read():
        return [volume.read_slice(0) for volume in readers.read_volumes(path)]

    with pytest.raises(InputError, match=path.name):
        read()
