"""fastMRI's layout in all that uses it: single-coil files, files without a mask, brains, and M4Raw."""

import h5py
import numpy as np
import pytest

from recon.data import readers
from recon.data.options import PrepareOptions
from recon.data.prepare import prepare
from recon.data.prepared import PreparedData
from recon.errors import InputError
from tests.recon.data import m4raw, rawfiles

LEFT, RIGHT = rawfiles.PADDING
ACQUIRED = slice(LEFT, rawfiles.COLUMNS - RIGHT)


def rewrite(path, **values: object):
    with h5py.File(path, "r+") as file:
        for name, value in values.items():
            if name in file:
                del file[name]
            file[name] = value
    return path


@pytest.fixture
def raw(tmp_path):
    return rawfiles.make(tmp_path / "file1.h5", patient="someone").path


def kspace_of(path):
    with h5py.File(path) as file:
        return file["kspace"][()]


def test_hints_overrule_the_header(raw):
    hints = readers.Hints(padding=(4, 1), oversampling=1.6, crop=(20, 22), task="T1", patient="p7")
    volume = readers.read_volume(raw, hints)
    assert (volume.pad_left, volume.pad_right, volume.image_rows, volume.crop) == (4, 1, 40, (20, 22))
    assert (volume.task, volume.patient, volume.acquisition) == ("T1", "p7", "CORPD_FBK")
    # The file beside goes before what the caller says.
    raw.with_name("file1.h5.json").write_text('{"crop": [10, 12]}')
    volume = readers.read_volume(raw, readers.Hints(task="T1"))
    assert (volume.crop, volume.pad_left, volume.task) == ((10, 12), LEFT, "T1")


def test_padding_of_a_hint_leaves_something(raw):
    with pytest.raises(InputError, match=r"file1\.h5: padding of 20 and 16 columns leaves nothing of 36"):
        readers.read_volume(raw, readers.Hints(padding=(20, 16)))


def test_a_single_coil_file_has_no_axis_of_coils(raw):
    kspace = kspace_of(raw)
    rewrite(raw, kspace=kspace[:, 1], reconstruction_esc=np.zeros((3, 28, 30)))
    volume = readers.read_volume(raw)
    assert (volume.slices, volume.coils, volume.rows, volume.columns) == (3, 1, 64, 36)
    for position in range(3):
        np.testing.assert_array_equal(volume.read_slice(position), kspace[position, 1:2])
    rewrite(raw, kspace=kspace[:, 1:2])
    np.testing.assert_array_equal(readers.read_volume(raw).read_slice(2), kspace[2, 1:2])


@pytest.mark.parametrize("kind", ["columns", "samples"])
def test_a_file_without_a_mask_shows_it_by_its_zeros(raw, kind):
    rng = np.random.default_rng(0)
    kept = rng.random((64, 36)) < 0.4 if kind == "samples" else rng.random(36) < 0.4
    kept[..., 18] = True
    rewrite(raw, kspace=kspace_of(raw) * kept)
    volume = readers.read_volume(raw)
    due = kept.copy()
    due[..., : volume.pad_left] = due[..., 36 - volume.pad_right :] = False
    np.testing.assert_array_equal(volume.mask, due)
    assert volume.pad_left >= LEFT
    assert volume.pad_right >= RIGHT


def test_a_mask_may_be_of_rows_and_columns(raw):
    mask = np.random.default_rng(0).random((64, 36)) < 0.4
    np.testing.assert_array_equal(readers.read_volume(rewrite(raw, mask=mask)).mask, mask)
    # As some write it, for each coil and slice alike.
    np.testing.assert_array_equal(readers.read_volume(rewrite(raw, mask=mask[None, None])).mask, mask)
    with pytest.raises(InputError, match=r"file1\.h5: mask has 60 × 36 columns, k-space has 36 \(64 rows\)"):
        readers.read_volume(rewrite(raw, mask=mask[:60]))


def test_a_mask_that_leaves_out_padding_alone_is_none(raw):
    mask = np.zeros(36, bool)
    mask[ACQUIRED] = True
    assert readers.read_volume(rewrite(raw, mask=mask)).mask is None


def test_columns_of_zeros_beyond_the_headers_padding_are_padding_with_a_note(raw):
    kspace = kspace_of(raw)
    kspace[..., :7] = kspace[..., -RIGHT:] = 0
    volume = readers.read_volume(rewrite(raw, kspace=kspace))
    assert (volume.pad_left, volume.pad_right, volume.mask) == (7, RIGHT, None)
    assert "first 7 and last 3 columns" in volume.notes[0]


@pytest.mark.parametrize("acquisition", ["AXT1", "AXT1PRE", "AXT1POST", "AXT2", "AXFLAIR"])
def test_contrasts_of_the_brain_are_tasks_of_their_own(tmp_path, acquisition):
    volume = readers.read_volume(rawfiles.make(tmp_path / "file_brain_1.h5", acquisition=acquisition).path)
    assert (volume.task, volume.notes) == (acquisition, ())


def test_brains_of_several_sizes_and_numbers_of_coils_are_one_task(tmp_path):
    folder = tmp_path / "raw"
    for number, coils in enumerate((4, 3, 4)):
        path = rawfiles.make(folder / f"file_brain_{number}.h5", acquisition="AXT2", seed=number, slices=1).path
        rewrite(path, kspace=kspace_of(path)[:, :coils])
    wide = rawfiles.make(folder / "file_brain_9.h5", acquisition="AXT2", seed=9, slices=1).path
    rewrite(
        wide,
        kspace=np.pad(kspace_of(wide), ((0, 0), (0, 0), (0, 0), (2, 2))),
        ismrmrd_header=rawfiles.header(rawfiles.ROWS, rawfiles.COLUMNS + 4, (4, 5), (28, 30)),
    )
    report = prepare(folder, tmp_path / "out", PrepareOptions(calibration_width=12))
    assert report.ok, report.failed
    table = report.index.set_index("volume")
    assert set(table["task"]) == {"AXT2"}
    assert table["coils"].to_dict()["file_brain_1"] == 3
    assert table["columns"].to_dict()["file_brain_9"] == rawfiles.COLUMNS + 4


# M4Raw


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    root = tmp_path_factory.mktemp("m4raw")
    m4raw.make(root, persons=3, matrix=48, slices=2, repetitions=2)
    return root


def test_an_m4raw_file_is_read_without_an_encoding(heads):
    volume = readers.read_volume(heads / "2031010101_T202.h5")
    assert (volume.slices, volume.coils, volume.rows, volume.columns) == (2, 4, 48, 48)
    # Lines 30 to 224 of 256.
    assert (volume.pad_left, volume.pad_right, volume.mask) == (6, 6, None)
    assert (volume.image_rows, volume.crop) == (48, (48, 48))
    assert (volume.name, volume.task, volume.patient) == ("2031010101_T202", "AXT2", "2031010101")
    assert len(volume.notes) == 1
    assert "no encoding" in volume.notes[0]
    np.testing.assert_array_equal(volume.read_slice(1), kspace_of(volume.path)[1])


def test_an_encoding_in_a_header_against_the_schema_is_used(heads, tmp_path):
    path = tmp_path / "2031010101_T101.h5"
    path.write_bytes((heads / path.name).read_bytes())
    with h5py.File(path) as file:
        text = file["ismrmrd_header"][()].decode()
    field = "<fieldOfView_mm><x>{1}</x><y>240</y><z>5</z></fieldOfView_mm>"
    space = "<{0}><matrixSize><x>{1}</x><y>48</y><z>1</z></matrixSize>" + field + "</{0}>"
    spaces = space.format("encodedSpace", 48) + space.format("reconSpace", 24)
    encoding = f"<encoding>{spaces}<encodingLimits/><trajectory>cartesian</trajectory></encoding>"
    rewrite(path, ismrmrd_header=text.replace("</ismrmrdHeader>", "<encoding/></ismrmrdHeader>"))
    assert readers.read_volume(path).crop == (48, 48)
    rewrite(path, ismrmrd_header=text.replace("</ismrmrdHeader>", encoding + "</ismrmrdHeader>"))
    volume = readers.read_volume(path)
    assert (volume.image_rows, volume.crop, volume.patient) == (24, (24, 48), "2031010101")
    assert (volume.pad_left, volume.pad_right) == (6, 6)


def test_a_name_like_m4raws_with_a_whole_header_keeps_its_patient(tmp_path):
    path = rawfiles.make(tmp_path / "2022061003_T201.h5", patient="someone").path
    assert readers.read_volume(path).patient == "someone"


def test_an_unknown_element_in_place_of_the_encoding_is_a_damaged_header(heads, tmp_path):
    path = tmp_path / "one.h5"
    path.write_bytes((heads / "2031010100_T101.h5").read_bytes())
    with h5py.File(path) as file:
        text = file["ismrmrd_header"][()].decode()
    rewrite(path, ismrmrd_header=text.replace("sequenceParameters", "sequence"))
    with pytest.raises(
        InputError, match=r"one\.h5: its ISMRMRD header has no encoding|one\.h5: its ISMRMRD header can"
    ):
        readers.read_volume(path)


def test_contrasts_and_repetitions_of_a_head_are_prepared_on_one_side(heads, tmp_path):
    report = prepare(heads, tmp_path / "out", PrepareOptions(calibration_width=16, fractions=(0.34, 0.33, 0.33)))
    assert report.ok, report.failed
    assert len(report.prepared) == 3 * 3 * 2
    assert set(report.index["task"]) == {"AXT1", "AXT2", "AXFLAIR"}
    assert set(report.index["patient"]) == {"2031010100", "2031010101", "2031010102"}
    assert (report.index.groupby("patient")["split"].nunique() == 1).all()
    data = PreparedData(report.out)
    for position in (0, len(report.index) - 1):
        row = data.row(report.index["slice_id"].iloc[position])
        with h5py.File(heads / f"{row.volume}.h5") as file:
            due = file["reconstruction_rss"][row.slice]
        piece = data.read(row.slice_id)
        inside = (piece.maps != 0).any(0) & (due > 0.3 * due.max())
        assert inside.mean() > 0.1
        # The root of the sum of squares adds up noise that the combination does not.
        assert np.corrcoef(np.abs(piece.target)[inside], due[inside])[0, 1] > 0.95


def test_contrasts_of_a_made_head_differ_and_share_their_anatomy(heads):
    images = {}
    for contrast in m4raw.PROTOCOLS:
        with h5py.File(heads / f"2031010100_{contrast}01.h5") as file:
            images[contrast] = file["reconstruction_rss"][1].ravel()
    head = images["T1"] + images["FLAIR"] > 0.5 * (images["T1"] + images["FLAIR"]).max()
    assert abs(np.corrcoef(images["T1"][head], images["T2"][head])[0, 1]) < 0.95
    assert images["T2"].argmax() != images["FLAIR"].argmax()


def test_m4raws_maker_writes_the_same_files_from_the_command_line(tmp_path, capsys):
    m4raw.main([str(tmp_path), "--persons", "1", "--matrix", "24", "--slices", "1", "--repetitions", "1"])
    assert capsys.readouterr().out == "3 files\n"
    (again,) = (
        one for one in m4raw.make(tmp_path / "b", persons=1, matrix=24, slices=1, repetitions=1) if "T2" in one.name
    )
    np.testing.assert_array_equal(kspace_of(tmp_path / again.name), kspace_of(again))
