import matplotlib.image
import numpy as np
import pytest

from recon.config import MaskConfig, MasksConfig
from recon.data.inspect import contact_sheet, possible_masks, summary
from recon.data.prepared import PreparedData
from recon.errors import InputError


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
    assert table.loc[("PDw", "val"), "lines"] == str(int(val.columns.sum()))
    assert table.loc[("PDw", "val"), "net_acceleration"] == f"{31 / val.columns.sum():.2f}"
    low, high = (int(n) for n in table.loc[("PDw", "train"), "lines"].split("-"))
    assert low < high <= 18


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
