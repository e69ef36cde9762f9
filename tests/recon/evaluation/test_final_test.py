"""The final test opens the test split, and writes tables with their definitions and a picture for each task."""

import json

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.evaluation.compare import measure_slice
from recon.evaluation.definitions import DEFINITIONS, TRUTH, TRUTH_IS
from recon.evaluation.final_test import final_test, summarise
from recon.evaluation.methods import noise_free_truth, zero_filled
from tests.conftest import without_truth
from tests.recon.networks import MASKS, random_bundle

TASKS = ["PDw", "PDw-FS"]
METHODS = ["zero-filled", "l1-wavelet", "noise-free truth", "network"]


@pytest.fixture(scope="module")
def tested(prepared, tmp_path_factory):
    """A final test of a network that was never trained."""
    said = []
    data = PreparedData(prepared, open_test=True)
    result = final_test(random_bundle(), data, tmp_path_factory.mktemp("out") / "test", progress=said.append)
    return data, result, said


def test_a_row_a_slice_method_and_definition(tested):
    data, result, _ = tested
    slices = {task: len(data.subset(task, split="test")) for task in TASKS}
    counts = result.slices.groupby(["task", "method", "definition"]).size()
    assert dict(counts) == {
        (task, method, definition): slices[task] for task in TASKS for method in METHODS for definition in DEFINITIONS
    }
    tested_volumes = set(data.index[data.index["split"] == "test"]["volume"])
    assert set(result.slices["volume"]) == tested_volumes


def test_the_numbers_are_those_of_the_test_mask(tested):
    data, result, _ = tested
    table = result.slices[(result.slices["method"] == "zero-filled") & (result.slices["definition"] == "paper")]
    for task in TASKS:
        for one in data.subset(task, split="test"):
            piece = data.read(one)
            (row,) = table[(table["task"] == task) & (table["slice"] == piece.row.slice)].itertuples()
            expected = measure_slice(piece, zero_filled, MASKS.test)
            assert (row.ssim, row.psnr, row.nrmse) == pytest.approx(tuple(expected.values()))
    assert MASKS.test != MASKS.val


def test_the_summary_has_a_row_a_task_method_and_definition_with_mean_and_deviation(tested):
    _, result, _ = tested
    summary = result.summary
    assert len(summary) == len(TASKS) * len(METHODS) * len(DEFINITIONS)
    for row in summary.itertuples():
        chosen = result.slices.query("task == @row.task and method == @row.method and definition == @row.definition")
        assert row.slices == len(chosen) == 4
        assert row.volumes == 1
        for metric in ("ssim", "psnr", "nrmse"):
            assert getattr(row, f"{metric}_mean") == pytest.approx(chosen[metric].mean())
            assert getattr(row, f"{metric}_std") == pytest.approx(np.std(chosen[metric].to_numpy(), ddof=1))
        assert row.definition_text == DEFINITIONS[row.definition]


def test_a_mean_over_volumes_counts_every_slice_once():
    rows = [
        {"task": "a", "volume": volume, "slice": i, "method": "m", "definition": "paper", "ssim": ssim}
        for volume, values in {"v": [0.1, 0.2, 0.3], "w": [0.8]}.items()
        for i, ssim in enumerate(values)
    ]
    table = pd.DataFrame(rows).assign(psnr=1.0, nrmse=2.0)
    (row,) = summarise(table).itertuples()
    assert (row.volumes, row.slices, row.ssim_mean) == (2, 4, pytest.approx(0.35))


def test_the_files_hold_what_was_found_with_definitions_hash_and_mask(tested):
    data, result, _ = tested
    files = {path.name: path for path in result.files}
    assert sorted(files) == ["PDw-FS.png", "PDw.png", "slices.csv", "summary.csv", "test.json"]
    folder = files["slices.csv"].parent
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    pd.testing.assert_frame_equal(pd.read_csv(files["slices.csv"]), result.slices, check_exact=False, atol=1e-6)
    pd.testing.assert_frame_equal(pd.read_csv(files["summary.csv"]), result.summary, check_exact=False, atol=1e-6)
    about = json.loads(files["test.json"].read_text())
    assert about["definitions"] == DEFINITIONS
    assert about["data_hash"] == data.hash
    assert about["mask"] == MASKS.test.model_dump(mode="json")
    assert (about["layout"], about["provenance"]["study"]) == ("IYV", "one")
    assert all(len(scores) > 7 for scores in about["l1_wavelet_validation_ssim"].values())


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_a_picture_that_is_not_blank(tested, task):
    _, result, _ = tested
    (path,) = (path for path in result.files if path.name == f"{task}.png")
    picture = matplotlib.image.imread(path)[..., :3]
    rows, columns, _ = picture.shape
    assert rows > 500
    assert columns > 1000
    for column in range(5):  # the reference and four methods, side by side
        part = picture[: rows // 2, columns * column // 5 : columns * (column + 1) // 5]
        assert part.std() > 0.1
        assert len(np.unique(part)) > 50
    below = picture[rows // 2 :, columns // 5 :]
    assert np.ptp(below, axis=-1).max() > 0.3, "errors are in colour"


def test_what_goes_on_is_said_task_by_task(tested):
    _, _, said = tested
    assert sum("tuned on validation" in line for line in said) == 2
    assert sum(line.startswith("PDw-FS: ") for line in said) == 2


def test_without_the_classical_reconstruction_two_methods_remain(prepared, tmp_path):
    result = final_test(random_bundle(), PreparedData(prepared, open_test=True), tmp_path, classical=False)
    assert set(result.slices["method"]) == {"zero-filled", "noise-free truth", "network"}
    assert len(result.files) == 5


def test_the_ceiling_is_the_noise_free_image_measured_as_every_method_is(tested):
    data, result, _ = tested
    table = result.slices[(result.slices["method"] == TRUTH) & (result.slices["definition"] == "paper")]
    for task in TASKS:
        for one in data.subset(task, split="test"):
            piece = data.read(one, truth=True)
            (row,) = table[(table["task"] == task) & (table["slice"] == piece.row.slice)].itertuples()
            expected = measure_slice(piece, noise_free_truth, MASKS.test)
            assert (row.ssim, row.psnr, row.nrmse) == pytest.approx(tuple(expected.values()))
    folder = result.files[0].parent
    assert json.loads((folder / "test.json").read_text())["notes"] == [TRUTH_IS]


def test_data_that_know_no_truth_have_no_such_row(prepared, tmp_path):
    folder = without_truth(prepared, tmp_path / "data")
    data = PreparedData(folder, open_test=True)
    result = final_test(random_bundle(), data, tmp_path / "out", classical=False)
    assert set(result.slices["method"]) == {"zero-filled", "network"}
    assert json.loads((tmp_path / "out" / "test.json").read_text())["notes"] == []


def test_data_that_were_not_opened_for_testing_are_refused_before_anything_is_written(prepared, tmp_path):
    with pytest.raises(InputError, match="the test split is opened by `splitpoint test` alone"):
        final_test(random_bundle(), PreparedData(prepared), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_task_that_the_data_lack_is_named(prepared, tmp_path):
    strange = random_bundle(tasks=("PDw", "T2w"), slices={})
    with pytest.raises(InputError, match="the data hold PDw, PDw-FS, but the bundle reconstructs T2w too"):
        final_test(strange, PreparedData(prepared, open_test=True), tmp_path / "out")


def test_a_task_without_test_slices_is_named(prepared, tmp_path):
    data = PreparedData(prepared, open_test=True)
    data.index.loc[data.index["task"] == "PDw-FS", "split"] = "val"
    with pytest.raises(InputError, match="has no test slices of PDw-FS"):
        final_test(random_bundle(), data, tmp_path / "out")
