import h5py
import numpy as np
import pytest

from recon.data import readers
from recon.data.options import PrepareOptions
from recon.data.volume import survey
from recon.errors import InputError
from tests.recon.data import rawfiles


@pytest.fixture
def raw(tmp_path):
    return rawfiles.make(tmp_path / "file1.h5", patient="someone").path


def rewrite(path, name, value):
    with h5py.File(path, "r+") as file:
        del file[name]
        if value is not None:
            file[name] = value


def test_reads_facts_of_a_fastmri_file(raw):
    volume = readers.read_volume(raw)
    assert (volume.slices, volume.coils, volume.rows, volume.columns) == (3, 4, 64, 36)
    assert volume.image_rows == 32
    assert (volume.pad_left, volume.pad_right) == rawfiles.PADDING
    assert volume.crop == (28, 30)
    assert (volume.name, volume.patient, volume.format) == ("file1", "someone", "fastmri")
    assert volume.mask is None


def test_padding_is_fastmris_own(raw):
    loader = pytest.importorskip("fastmri.data.mri_data", reason="fastmri is not installed")
    dataset = loader.SliceDataset.__new__(loader.SliceDataset)
    metadata, slices = dataset._retrieve_metadata(raw)
    volume = readers.read_volume(raw)
    assert volume.pad_left == metadata["padding_left"]
    assert volume.columns - volume.pad_right == metadata["padding_right"]
    assert volume.crop == metadata["recon_size"][:2]
    assert volume.slices == slices


def test_reads_samples_one_slice_at_a_time(raw):
    volume = readers.read_volume(raw)
    with h5py.File(raw) as file:
        for position in range(3):
            np.testing.assert_array_equal(volume.read_slice(position), file["kspace"][position])


@pytest.mark.parametrize(
    ("acquisition", "task"), [("CORPD_FBK", "PDw"), ("CORPDFS_FBK", "PDw-FS"), ("AXT2", "AXT2"), ("", "unnamed")]
)
def test_task_is_named_by_the_acquisition(tmp_path, acquisition, task):
    path = rawfiles.make(tmp_path / "one.h5", acquisition=acquisition).path
    assert readers.read_volume(path).task == task


def test_a_file_without_a_patient_is_its_own_patient(tmp_path):
    assert readers.read_volume(rawfiles.make(tmp_path / "lonely.h5").path).patient == "lonely"


def test_a_test_files_mask_is_read(tmp_path):
    mask = np.arange(rawfiles.COLUMNS) % 3 == 0
    volume = readers.read_volume(rawfiles.make(tmp_path / "one.h5", mask=mask).path)
    np.testing.assert_array_equal(volume.mask, mask)


def test_readers_are_chosen_by_content_not_by_name(raw, tmp_path):
    other = tmp_path / "no_ending"
    other.write_bytes(raw.read_bytes())
    assert readers.open_reader(other).FORMAT == "fastmri"
    text = tmp_path / "text.h5"
    text.write_text("no HDF5 at all")
    with pytest.raises(
        InputError, match=r"text\.h5 is broken or of a format that is not known here \(known: .*fastmri"
    ):
        readers.open_reader(text)
    with pytest.raises(InputError, match=r"nowhere\.h5 is not a file"):
        readers.open_reader(tmp_path / "nowhere.h5")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kspace", np.zeros((64, 36), np.complex64), r"kspace is \(64, 36\)"),
        ("kspace", np.zeros((3, 4, 64, 36), np.float32), r"of float32; multi-coil k-space is complex"),
        ("kspace", np.zeros((0, 4, 64, 36), np.complex64), r"kspace is empty"),
        ("kspace", np.ones((3, 4, 64, 20), np.complex64), r"lines 2 to 33 into k-space of 20 columns"),
        ("ismrmrd_header", "<html/>", r"its ISMRMRD header cannot be read"),
        ("ismrmrd_header", "not XML <", r"its ISMRMRD header cannot be read"),
    ],
)
def test_what_does_not_fit_is_named(raw, name, value, message):
    rewrite(raw, name, value)
    with pytest.raises(InputError, match=message) as raised:
        readers.read_volume(raw)
    assert "file1.h5" in str(raised.value)


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "not finite"), (np.inf, "not finite"), (0, "nothing but zeros")]
)
def test_unusable_samples_are_named_by_slice(raw, value, message):
    with h5py.File(raw, "r+") as file:
        file["kspace"][1] = value
    seen = survey(readers.read_volume(raw), PrepareOptions())
    assert [(one.slice, one.severity) for one in seen.findings] == [(1, "error")]
    with pytest.raises(InputError, match=rf"file1\.h5: slice 1: it holds .*{message}"):
        seen.require_whole()


def test_oversampling_comes_from_the_field_of_view_not_from_the_matrix(tmp_path):
    """A scanner may interpolate: a reconstruction matrix as large as the encoded one over half the field of view."""
    path = rawfiles.make(tmp_path / "one.h5").path
    rewrite(path, "ismrmrd_header", rawfiles.header(rawfiles.ROWS, rawfiles.COLUMNS, rawfiles.PADDING, (64, 36)))
    volume = readers.read_volume(path)
    assert volume.image_rows == 32
    assert volume.crop == (32, 36)
