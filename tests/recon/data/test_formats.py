"""One volume, five formats, the same prepared slices; and a brain that was really acquired."""

from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest

from recon.data.inspect import contact_sheet, summary
from recon.data.options import PrepareOptions
from recon.data.prepare import prepare
from recon.data.prepared import PreparedData
from recon.data.readers import read_volume
from recon.physics import coils, espirit
from recon.physics.fourier import ifft
from recon.simulate import simulate
from tests.recon.bart import bart, needs_bart

FORMATS = ("fastmri", "ismrmrd", "hammernik", "cfl", "numpy")
BRAIN = Path(__file__).parents[2] / "data" / "brain16.ismrmrd.h5"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The same subject in each format; both contrasts, readout oversampling and padding."""
    root = tmp_path_factory.mktemp("formats")
    for form in FORMATS:
        simulate(root / form, subjects={"train": 1}, matrix=32, slices=3, coils=4, seed=3, format=form)
    return root


def arrays(out: Path) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """What was prepared, by task and slice."""
    data = PreparedData(out)
    found = {}
    for row in map(data.row, data.index["slice_id"]):
        piece = data.read(row.slice_id)
        found[row.task, row.slice] = {name: getattr(piece, name) for name in ("kspace", "maps", "target")}
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"prewhiten": "off"},
        {"prewhiten": "edge"},
        {"prewhiten": "off", "coils": 2},
        {"prewhiten": "edge", "coils": 3, "compression": "geometric"},
    ],
    ids=["plain", "whitened", "compressed", "geometric"],
)
def test_every_format_gives_the_same_prepared_slices(raw, tmp_path, options):
    chosen = PrepareOptions(calibration_width=16, **options)
    prepared = {}
    for form in FORMATS:
        report = prepare(raw / form, tmp_path / form, chosen)
        assert report.ok, report.failed
        assert len(report.index) == 6
        prepared[form] = arrays(report.out)
    reference = prepared["fastmri"]
    assert {task for task, _ in reference} == {"PDw", "PDw-FS"}
    for form in FORMATS[1:]:
        assert prepared[form].keys() == reference.keys()
        for where, expected in reference.items():
            for name, array in expected.items():
                found = prepared[form][where][name]
                assert np.abs(found - array).max() <= 1e-5 * np.abs(array).max(), (form, where, name)


def test_the_index_says_the_same_of_every_format(raw, tmp_path):
    columns = ["task", "slice", "rows", "columns", "coils", "pad_left", "pad_right", "crop_rows", "crop_columns"]
    tables = []
    for form in FORMATS:
        index = prepare(raw / form, tmp_path / form, PrepareOptions(calibration_width=16, prewhiten="off")).index
        tables.append(index.sort_values(["task", "slice"])[columns].to_numpy().tolist())
    assert all(table == tables[0] for table in tables)
    assert tables[0][0][2:] == [32, 36, 4, 1, 1, 32, 32]


def test_the_noise_scan_whitens_by_default(raw, tmp_path):
    report = prepare(raw / "ismrmrd", tmp_path / "out", PrepareOptions(calibration_width=16))
    assert report.ok
    volume = read_volume(next((raw / "fastmri").rglob("*_CORPD_FBK.h5")))
    with h5py.File(volume.path) as file:
        covariance = file["noise_covariance"][()]
    with h5py.File(tmp_path / "out" / "volumes" / "knee0000_CORPD_FBK.h5") as file:
        whitening = file["whitening"][()]
        kspace = file["kspace"][0]
    # 64 readouts of 64 samples estimate a covariance to a few parts in a hundred.
    np.testing.assert_allclose(whitening @ covariance @ whitening.conj().T, np.eye(4), atol=0.08)
    plain = prepare(raw / "ismrmrd", tmp_path / "plain", PrepareOptions(calibration_width=16, prewhiten="off"))
    with h5py.File(plain.out / "volumes" / "knee0000_CORPD_FBK.h5") as file:
        np.testing.assert_allclose(kspace, coils.compress(file["kspace"][0], whitening), rtol=1e-3, atol=1e-3)
        assert "whitening" not in file


def test_a_simulated_ismrmrd_file_is_read_by_the_ismrmrd_package(raw):
    path = next((raw / "ismrmrd").rglob("*_CORPD_FBK.ismrmrd"))
    dataset = ismrmrd.Dataset(str(path), mode="r")
    readouts = [dataset.read_acquisition(n) for n in range(dataset.number_of_acquisitions())]
    noise = [one for one in readouts if one.isFlagSet(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    assert len(noise) == 64
    assert len(readouts) - len(noise) == 3 * 34
    header = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
    assert header.encoding[0].encodedSpace.matrixSize.x == readouts[-1].number_of_samples == 64
    dataset.close()


def test_maps_are_found_again_whatever_the_file_is_called(raw, tmp_path, monkeypatch):
    source = next((raw / "fastmri").rglob("*_CORPD_FBK.h5"))
    options = PrepareOptions(calibration_width=16)
    first = prepare(source, tmp_path / "first", options)
    renamed = tmp_path / "renamed" / "another.h5"
    renamed.parent.mkdir()
    renamed.write_bytes(source.read_bytes())

    def calibrate(kspace, width, mask, *, rows, crop, sets):
        raise AssertionError("calibrated a second time")

    monkeypatch.setattr(espirit, "espirit", calibrate)
    again = prepare(renamed, tmp_path / "first", options)
    assert again.prepared == ("another",)
    elsewhere = prepare(renamed, tmp_path / "second", options, reuse=[tmp_path / "first"])
    assert elsewhere.ok
    files = first.out / "volumes" / f"{source.stem}.h5", elsewhere.out / "volumes" / "another.h5"
    with h5py.File(files[0]) as one, h5py.File(files[1]) as other:
        np.testing.assert_array_equal(one["maps"], other["maps"])
    other_width = prepare(renamed, tmp_path / "third", PrepareOptions(calibration_width=12), reuse=[tmp_path / "first"])
    assert "calibrated a second time" in next(iter(other_width.failed.values()))


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    """A slice with 16 coils, as a scanner's converter wrote it, prepared."""
    report = prepare(BRAIN, tmp_path_factory.mktemp("brain"), PrepareOptions(tasks={"brain*": "brain"}))
    assert report.ok, report.failed
    assert report.problems.empty
    return PreparedData(report.out)


def test_the_brains_shape_and_task(brain):
    row = brain.row(0)
    assert (row.task, row.coils, row.rows, row.columns) == ("brain", 16, 128, 128)
    assert (row.crop_rows, row.crop_columns, row.pad_left, row.pad_right) == (128, 128, 0, 0)


def test_the_brains_samples_are_those_that_the_ismrmrd_package_reads(brain):
    dataset = ismrmrd.Dataset(str(BRAIN), mode="r")
    expected = np.zeros((16, 128, 128), np.complex64)
    for number in range(dataset.number_of_acquisitions()):
        readout = dataset.read_acquisition(number)
        expected[:, :, readout.idx.kspace_encode_step_1] = readout.data
    dataset.close()
    np.testing.assert_array_equal(brain.read(0).kspace, expected)


@needs_bart
def test_the_brains_maps_agree_with_barts(brain, tmp_path):
    piece = brain.read(0)
    theirs = bart(tmp_path, "ecalib -m1 -r24", piece.kspace)
    inside = np.abs(piece.target) > 0.1 * np.abs(piece.target).max()
    agreement = np.abs(np.sum(piece.maps.conj() * theirs, axis=0))[inside]
    assert agreement.mean() >= 0.998


def test_the_brains_target_is_the_root_sum_of_squares_inside_the_head(brain):
    piece = brain.read(0)
    rss = np.sqrt(np.sum(np.abs(ifft(piece.kspace)) ** 2, axis=0))
    inside = (piece.maps != 0).any(axis=0) & (rss > 0.1 * rss.max())
    target = np.abs(piece.target)
    assert inside.mean() > 0.2
    assert np.corrcoef(target[inside], rss[inside])[0, 1] > 0.998
    assert np.median(target[inside] / rss[inside]) == pytest.approx(1, abs=0.01)
    # Least squares never exceed the root sum of squares.
    assert (target <= rss * (1 + 1e-5)).all()


def test_the_brain_is_counted_and_drawn(brain, tmp_path):
    line = summary(brain).iloc[0]
    assert (line["task"], line["coils"], line["slices"]) == ("brain", 16, 1)
    assert contact_sheet(brain, tmp_path / "sheet.png").stat().st_size > 20_000
