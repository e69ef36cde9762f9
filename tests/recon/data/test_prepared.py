import itertools
import json
import pickle
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from recon.data.index import INDEX_DTYPES, read_index, write_index
from recon.data.options import PrepareOptions
from recon.data.prepare import prepare
from recon.data.prepared import PreparedData
from recon.data.splits import build_index
from recon.data.volume_file import VolumeRecord
from recon.errors import InputError


@pytest.fixture
def data(prepared_folder):
    return PreparedData(prepared_folder)


@pytest.fixture
def copy(prepared_folder, tmp_path):
    return shutil.copytree(prepared_folder, tmp_path / "copy")


def record(volume, task="T", slices=36):
    facts = dict.fromkeys(
        ("patient", "key", "kspace_sha256", "calibration", "source", "source_sha256", "source_format"), volume
    )
    sizes = dict.fromkeys(("coils", "rows", "columns", "crop_rows", "crop_columns"), 8)
    return VolumeRecord(
        **facts, **sizes, volume=volume, task=task, slices=slices, pad_left=0, pad_right=0, scale=1.0, acquisition="",
        prewhitened="no", recipe={}, versions={},
    )  # fmt: skip


@pytest.fixture
def paper_index():
    """As many volumes and slices as the paper's abundant and scarce task: 481 and 497 training slices."""
    abundant = [record(f"a{n}", "PDw", 37) for n in range(13)]
    scarce = [record(f"b{n}", "PDw-FS", 35 if n else 42) for n in range(14)]
    held_out = [record("v", "PDw-FS", 20)]
    splits = {one.volume: "train" for one in abundant + scarce} | {"v": "val"}
    return build_index([*held_out, *scarce, *abundant], splits, PrepareOptions())


def test_reads_what_lies_in_the_file(data, prepared_folder):
    for slice_id in data.subset("PDw-FS")[:3]:
        row = data.row(slice_id)
        piece = data.read(slice_id)
        with h5py.File(prepared_folder / row.file) as file:
            for name in ("kspace", "maps", "target"):
                np.testing.assert_array_equal(getattr(piece, name), file[name][row.slice])
        assert piece.kspace.shape == piece.maps.shape == (row.coils, row.rows, row.columns)
        assert piece.target.shape == (row.rows, row.columns)
        assert {piece.kspace.dtype, piece.maps.dtype, piece.target.dtype} == {np.dtype(np.complex64)}
        assert piece.row == row


def test_describes_itself(data):
    assert data.tasks == ("PDw", "PDw-FS")
    assert data.options == PrepareOptions()
    assert len(data.hash) == 64
    assert data.index["slice_id"].tolist() == list(range(len(data.index)))
    assert data.record("p0_CORPD_FBK").task == "PDw"


def test_index_has_the_contracts_columns_and_types(data, prepared_folder):
    assert data.index.dtypes.astype(str).to_dict() == {name: str(kind) for name, kind in INDEX_DTYPES.items()}
    assert list(pd.read_csv(prepared_folder / "index.csv").columns) == list(INDEX_DTYPES)


def test_index_keeps_text_as_text_and_every_bit_of_a_number(tmp_path):
    odd = [record(name, task) for name, task in (("007", "NA"), ("1e5", "null"), ("a,b", 'with "quotes"'))]
    odd = [
        one.model_copy(update={"scale": scale})
        for one, scale in zip(odd, (0.1 + 0.2, 1e-308 / 3, 2 / 3e7), strict=True)
    ]
    index = build_index(odd, {one.volume: "train" for one in odd}, PrepareOptions())
    write_index(tmp_path / "index.csv", index)
    pd.testing.assert_frame_equal(read_index(tmp_path / "index.csv"), index, check_exact=True)


@pytest.mark.parametrize("cut", ["volumes", "slices"])
def test_subsets_are_nested(paper_index, cut):
    scarce = paper_index[(paper_index["task"] == "PDw-FS") & (paper_index["split"] == "train")]
    rank = f"rank_{cut}"
    assert sorted(scarce[rank]) == list(range(497))
    ordered = scarce.sort_values(rank)
    subsets = [set(ordered["slice_id"][:n]) for n in (32, 107, 253, 497)]
    assert all(small < large for small, large in itertools.pairwise(subsets))
    whole = ordered.groupby("volume", sort=False)[rank].agg(lambda ranks: ranks.max() - ranks.min() + 1 == len(ranks))
    assert whole.all() == (cut == "volumes")


def test_a_volume_that_is_cut_gives_a_sample_of_its_depth(paper_index):
    """Were a volume's slices taken in order, the few slices of a small N would all be from its edge."""
    scarce = paper_index[paper_index["rank_volumes"].between(0, 11) & (paper_index["task"] == "PDw-FS")]
    assert scarce["volume"].nunique() == 1
    assert scarce["slice"].max() - scarce["slice"].min() > 20


def test_ranks_are_set_for_training_slices_alone(paper_index, data):
    for index in (paper_index, data.index):
        outside = index["split"] != "train"
        assert outside.any()
        assert (index.loc[outside, ["rank_volumes", "rank_slices"]] == -1).all(axis=None)
        assert (index.loc[~outside, ["rank_volumes", "rank_slices"]] >= 0).all(axis=None)


def test_nested_orders_follow_the_seed(paper_index):
    records = [record(f"b{n}") for n in range(6)]
    splits = {one.volume: "train" for one in records}
    first, same, other = (build_index(records, splits, PrepareOptions(subset_seed=seed)) for seed in (0, 0, 1))
    assert first.equals(same)
    assert first["rank_volumes"].tolist() != other["rank_volumes"].tolist()
    assert first["rank_slices"].tolist() != other["rank_slices"].tolist()


@pytest.mark.parametrize("cut", ["volumes", "slices"])
def test_subset_takes_the_lowest_ranks(data, cut):
    everything = data.subset("PDw", cut=cut)
    assert all(data.row(one).split == "train" and data.row(one).task == "PDw" for one in everything)
    previous = set()
    for n in range(1, len(everything) + 1):
        chosen = data.subset("PDw", n, cut)
        assert chosen == sorted(chosen)
        assert len(chosen) == n
        assert previous < set(chosen)
        assert {getattr(data.row(one), f"rank_{cut}") for one in chosen} == set(range(n))
        previous = set(chosen)
    assert previous == set(everything)


def test_by_volumes_cuts_the_last_volume_only(data):
    sizes = data.index[data.index["split"] == "train"].groupby("volume").size()
    for n in range(1, len(data.subset("PDw")) + 1):
        taken = pd.Series([data.row(one).volume for one in data.subset("PDw", n, "volumes")]).value_counts()
        assert (taken < sizes[taken.index]).sum() <= 1


def test_n_above_the_data_names_the_task_the_number_and_what_there_is(data):
    there = len(data.subset("PDw-FS"))
    for n in (there + 1, 0, -3):
        with pytest.raises(InputError, match=rf"slices of PDw-FS: {n} asked, but .* has 1 to {there} for training"):
            data.subset("PDw-FS", n)
    with pytest.raises(InputError, match="only training slices are cut"):
        data.subset("PDw", 1, split="val")


def test_what_is_not_there_is_named(data):
    with pytest.raises(InputError, match=r"there is no task 'T2w' .*; it holds PDw, PDw-FS"):
        data.subset("T2w")
    with pytest.raises(InputError, match="there is no split 'dev'"):
        data.subset("PDw", split="dev")
    with pytest.raises(InputError, match="cut is 'patients'"):
        data.subset("PDw", cut="patients")
    with pytest.raises(InputError, match="has no slice 9999"):
        data.read(9999)
    with pytest.raises(InputError, match="no volume 'x'"):
        data.record("x")


def test_the_test_split_stays_closed(data, prepared_folder):
    closed = data.index.loc[data.index["split"] == "test", "slice_id"].tolist()
    assert closed
    for slice_id in closed:
        with pytest.raises(InputError, match="the test split is opened by `splitpoint test` alone"):
            data.read(slice_id)
    with pytest.raises(InputError, match="the test split is opened by `splitpoint test` alone"):
        data.subset("PDw", split="test")
    with pytest.raises(InputError, match="the test split"):
        pickle.loads(pickle.dumps(data)).read(closed[0])
    opened = PreparedData(prepared_folder, open_test=True)
    ids = opened.subset("PDw", split="test") + opened.subset("PDw-FS", split="test")
    assert sorted(ids) == sorted(closed)
    assert opened.read(closed[0]).row.split == "test"


def test_no_training_or_validation_subset_holds_a_test_slice(data):
    closed = set(data.index.loc[data.index["split"] == "test", "slice_id"])
    patients = set(data.index.loc[data.index["split"] == "test", "patient"])
    for task in data.tasks:
        for split in ("train", "val"):
            ids = data.subset(task, split=split)
            assert not closed & set(ids)
            assert not patients & {data.row(one).patient for one in ids}


class _Slices(torch.utils.data.Dataset):
    def __init__(self, data) -> None:
        self.data, self.ids = data, data.subset("PDw")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position) -> torch.Tensor:
        return torch.from_numpy(self.data.read(self.ids[position]).target)


def test_reads_alike_from_several_dataloader_workers(data):
    slices = _Slices(data)
    expected = torch.stack([slices[n] for n in range(len(slices))])
    loader = torch.utils.data.DataLoader(slices, batch_size=1, num_workers=2, multiprocessing_context="fork")
    torch.testing.assert_close(torch.cat(list(loader)), expected, rtol=0, atol=0)


def test_a_pickled_copy_reads_the_same(data):
    again = pickle.loads(pickle.dumps(data))
    assert again.hash == data.hash
    one = data.subset("PDw")[0]
    np.testing.assert_array_equal(again.read(one).kspace, data.read(one).kspace)


def test_reads_from_a_folder_that_cannot_be_written(copy):
    for path in [*copy.rglob("*"), copy]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        data = PreparedData(copy)
        data.read(data.subset("PDw")[0])
    finally:
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755)


def test_not_a_prepared_folder_is_said(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        PreparedData(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no dataset\.json"):
        PreparedData(tmp_path)


def edit(path, field, value):
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))


def spoil_half(copy):
    (copy / "dataset.json").unlink()


def spoil_json(copy):
    (copy / "dataset.json").write_text("{")


def spoil_format(copy):
    edit(copy / "dataset.json", "format", 99)


def spoil_unknown(copy):
    edit(copy / "dataset.json", "extra", 1)


def spoil_index(copy):
    text = (copy / "index.csv").read_text()
    (copy / "index.csv").write_text(text.replace(",test,", ",train,"))


def spoil_no_index(copy):
    (copy / "index.csv").unlink()


def spoil_columns(copy):
    (copy / "index.csv").write_text("a,b\n1,2\n")


def spoil_missing(copy):
    (copy / "volumes" / "p1_CORPD_FBK.h5").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_half, r"is half prepared \(no dataset\.json\); run the same"),
        (spoil_json, r"dataset\.json is not JSON"),
        (spoil_format, r"dataset\.json: format is 99, this version reads 2"),
        (spoil_unknown, r"dataset\.json: extra is no known field"),
        (spoil_index, r"index\.csv is not the index that dataset\.json describes"),
        (spoil_no_index, r"index\.csv cannot be read"),
        (spoil_columns, r"index\.csv "),
        (spoil_missing, r"p1_CORPD_FBK\.h5 is missing"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(copy, spoil, message):
    PreparedData(copy)
    spoil(copy)
    with pytest.raises(InputError, match=message):
        PreparedData(copy)


def test_a_volume_prepared_anew_under_an_old_index_is_refused(copy, raw_folder, tmp_path):
    data = PreparedData(copy)
    other = prepare(raw_folder, tmp_path / "other", PrepareOptions(calibration_width=16))
    row = data.row(data.subset("PDw")[0])
    shutil.copy(other.out / row.file, copy / row.file)
    with pytest.raises(InputError, match="was prepared anew since the index was written"):
        PreparedData(copy).read(row.slice_id)
