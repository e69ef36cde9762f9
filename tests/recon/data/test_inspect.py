import matplotlib.image
import numpy as np
import pytest

from recon.config import MaskConfig, MasksConfig
from recon.data import inspect
from recon.data.inspect import contact_sheet, possible_masks, summary
from recon.data.options import PrepareOptions
from recon.data.prepare import prepare
from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.evaluation.compare import measure_slice
from recon.evaluation.methods import noise_free_truth
from recon.physics.masks import fixed
from recon.simulate import simulate
from tests.recon.networks import SAMPLE_MASKS


@pytest.fixture
def data(prepared_folder):
    return PreparedData(prepared_folder)


@pytest.fixture
def masks():
    return MasksConfig(
        train=MaskConfig(accelerations=(2, 4), centre_fractions=(0.1,)),
        val=MaskConfig(accelerations=(3,), centre_fractions=(0.1,)),
        test=MaskConfig(accelerations=(4,), centre_fractions=(0.1,)),
    )


def test_summary_counts_what_the_index_holds(data, masks):
    table = summary(data, masks).set_index(["task", "split"])
    assert set(table.index) == {(task, split) for task in data.tasks for split in ("train", "val", "test")}
    for (task, split), line in table.iterrows():
        lines = data.index[(data.index["task"] == task) & (data.index["split"] == split)]
        assert line["slices"] == len(lines)
        assert line["volumes"] == lines["volume"].nunique()
        assert (line["coils"], line["rows"], line["columns"], line["padding"]) == (4, 32, 36, "2+3")
    assert table["slices"].sum() == len(data.index)


def test_summary_counts_lines_and_net_acceleration(data, masks):
    table = summary(data, masks).set_index(["task", "split"])
    row = data.row(0)
    (val,) = possible_masks(masks.val, row)
    assert table.loc[("PDw", "val"), "lines"] == str(int(val.kept.sum()))
    assert table.loc[("PDw", "val"), "net_acceleration"] == f"{31 / val.kept.sum():.2f}"
    low, high = (int(n) for n in table.loc[("PDw", "train"), "lines"].split("-"))
    assert low < high <= 18


def test_summary_counts_samples_where_masks_keep_single_samples(data):
    table = summary(data, SAMPLE_MASKS).set_index(["task", "split"])
    assert "lines" not in table
    row = data.row(0)
    (val,) = possible_masks(SAMPLE_MASKS.val, row)
    assert table.loc[("PDw", "val"), "samples"] == str(int(val.kept.sum()))
    assert table.loc[("PDw", "val"), "net_acceleration"] == f"{32 * 31 / val.kept.sum():.2f}"


def test_the_contact_sheet_shows_the_samples_that_a_mask_keeps(data, tmp_path, monkeypatch):
    shown = []
    real = inspect._draw
    monkeypatch.setattr(inspect, "_draw", lambda *given: shown.append(given[2:4]) or real(*given))
    contact_sheet(data, tmp_path / "sheet.png", slices=1, mask=SAMPLE_MASKS.val)
    assert len(shown) == 2
    for piece, mask in shown:
        expected = fixed(SAMPLE_MASKS.val, piece.row.shape, piece.row.padding).kept & piece.kspace.any(axis=0)
        np.testing.assert_array_equal(mask.kept, expected)


def test_the_contact_sheet_shows_data_with_two_sets_of_maps(raw_folder, tmp_path):
    prepare(raw_folder, tmp_path / "out", PrepareOptions(maps_sets=2))
    picture = matplotlib.image.imread(contact_sheet(PreparedData(tmp_path / "out"), tmp_path / "sheet.png", slices=1))
    assert all(np.std(band) > 0.05 for band in np.array_split(picture[..., :3], 2))


def test_data_without_a_truth_have_no_ceiling(data, masks):
    assert "ceiling" not in summary(data, masks)


def test_summary_says_the_ceiling_of_validation(prepared, masks):
    data = PreparedData(prepared)
    table = summary(data, masks).set_index(["task", "split"])
    for task in data.tasks:
        pieces = [data.read(one, truth=True) for one in data.subset(task, split="val")]
        scores = [measure_slice(piece, noise_free_truth, masks.val)["ssim"] for piece in pieces]
        assert table.loc[(task, "val"), "ceiling"] == pytest.approx(np.mean(scores))
        assert table.loc[[(task, "train"), (task, "test")], "ceiling"].isna().all()


def test_the_ceiling_rises_with_the_snr_and_is_one_without_noise(tmp_path, masks):
    ceilings = {}
    for snr in (12, 40, np.inf):
        where = tmp_path / str(snr)
        simulate(where / "raw", subjects={"train": 1, "val": 1}, matrix=32, slices=2, coils=4, snr=snr)
        prepare(where / "raw", where / "out", PrepareOptions(calibration_width=16))
        table = summary(PreparedData(where / "out"), masks)
        ceilings[snr] = table[table["split"] == "val"].set_index("task")["ceiling"]
    for task in ("PDw", "PDw-FS"):
        low, high, top = (found[task] for found in ceilings.values())
        assert low + 0.005 < high < top
        assert top == pytest.approx(1, abs=1e-12)
    # The fat-suppressed contrast is the noisier one.
    assert ceilings[12]["PDw-FS"] < ceilings[12]["PDw"] - 0.1


def test_a_mask_that_the_width_does_not_permit_is_named(data):
    with pytest.raises(InputError, match=f"volume {data.row(0).volume}: "):
        possible_masks(MaskConfig(accelerations=(20,), centre_fractions=(0.5,)), data.row(0))


def test_contact_sheet_shows_every_task_and_opens_no_test_slice(data, tmp_path, monkeypatch):
    read = []
    real = PreparedData.read
    monkeypatch.setattr(PreparedData, "read", lambda self, one: read.append(self.row(one)) or real(self, one))
    path = contact_sheet(data, tmp_path / "sheet.png", slices=2)
    assert {row.task for row in read} == set(data.tasks)
    assert "test" not in {row.split for row in read}
    assert [len({row.volume for row in read if row.task == task}) for task in data.tasks] == [2, 2]
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 300
    assert picture.shape[1] > picture.shape[0]
    # Something is drawn in each of the rows of pictures.
    assert all(np.std(band) > 0.05 for band in np.array_split(picture[..., :3], 4))
