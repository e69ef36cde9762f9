"""A study's networks on the test split: each trial's slices as its own network gives them, nothing tested twice."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.evaluation.compare import measure_slice, reconstruct
from recon.evaluation.definitions import DEFINITIONS, L1_WAVELET, TRUTH, ZERO_FILLED
from recon.evaluation.methods import l1_wavelet, network_method, noise_free_truth, tune_l1_wavelet, zero_filled
from recon.training.checkpoint import load_network
from search import cli
from search.results.folder import ABOUT, REFERENCE, TABLE, images_path, read_images, read_results, write_table
from search.results.tested import run_job, study_test
from search.run.launch import launch
from search.study.open import open_study
from tests.conftest import without_truth
from tests.search.conftest import space

GRID = {
    "trials": 0,
    "try_first": [],
    "unroll": {"blocks": 2, "channels": 2, "pools": 1},
    "layouts": {"kind": "list", "choices": ["IV", "I2"]},
    "fidelity": {"epochs": 1, "rungs": []},
    "baselines": {"kinds": ["stl", "joint-stl", "transfer"]},
    "training": {"batch_size": 6, "masks": {"test": {"accelerations": [3], "centre_fractions": [0.12]}}},
    "grid": {"rows": [{"layout": "IV"}, {"layout": "I2", "init": "transfer"}], "seeds": 2},
}


@pytest.fixture(scope="module")
def study(local_ray, prepared, tmp_path_factory):
    """A grid of two rows over two seeds with its baselines, really trained."""
    outcome = launch(space(**GRID), prepared, "grid", runs_dir=tmp_path_factory.mktemp("runs"))
    assert outcome.complaint is None
    return outcome.study


@pytest.fixture(scope="module")
def table(study):
    return study_test(study)


def test_every_network_has_a_line_a_task_and_test_slice(study, table, prepared):
    data = PreparedData(prepared, open_test=True)
    slices = {task: len(data.subset(task, split="test")) for task in data.tasks}
    for record in study.referenced():
        mine = table[table["trial"] == record.name]
        assert mine["task"].value_counts().to_dict() == {task: slices[task] for task in record.tasks}
        assert set(mine["kind"]) == {record.kind}
        assert set(mine["seed"]) == {record.seed}
        for task, value in mine.groupby("task")["validation"].first().items():
            assert value == pytest.approx(record.metrics[f"ssim/{task}"], abs=1e-6)
    for kind in (ZERO_FILLED, L1_WAVELET, TRUTH):
        mine = table[(table["trial"] == "") & (table["kind"] == kind)]
        assert mine["task"].value_counts().to_dict() == slices
        assert mine[["seed", "scarce_slices", "validation"]].isna().all(axis=None)
    assert set(table.loc[table["init"] == "transfer", "layout"]) == {"I2"}


def test_the_numbers_are_those_of_the_networks_own_checkpoint(study, table, prepared):
    data = PreparedData(prepared, open_test=True)
    mask = study.referenced()[0].config.masks.test
    records = [record for record in study.referenced() if record.kind == "mtl"]
    for record in (records[0], records[-1]):
        network, _ = load_network(record.checkpoint)
        for task in record.tasks:
            lines = table[(table["trial"] == record.name) & (table["task"] == task)].set_index(["volume", "slice"])
            for one in data.subset(task, split="test"):
                piece = data.read(one)
                expected = measure_slice(piece, network_method(network, task), mask)
                found = lines.loc[(piece.row.volume, piece.row.slice), ["ssim", "psnr", "nrmse"]]
                np.testing.assert_allclose(found.astype(float), list(expected.values()), atol=2e-6)
    piece = data.read(data.subset("PDw", split="test")[0])
    zero = table[(table["kind"] == "zero-filled") & (table["task"] == "PDw")].iloc[0]
    assert zero["ssim"] == pytest.approx(measure_slice(piece, zero_filled, mask)["ssim"], abs=2e-6)
    tuned = l1_wavelet(tune_l1_wavelet(data, "PDw", study.referenced()[0].config.masks.val).regularisation)
    wavelet = table[(table["kind"] == L1_WAVELET) & (table["task"] == "PDw")].iloc[0]
    assert wavelet["ssim"] == pytest.approx(measure_slice(piece, tuned, mask)["ssim"], abs=2e-6)
    truth = table[(table["kind"] == TRUTH) & (table["task"] == "PDw")].iloc[0]
    piece = data.read(piece.row.slice_id, truth=True)
    assert truth["ssim"] == pytest.approx(measure_slice(piece, noise_free_truth, mask)["ssim"], abs=2e-6)


def test_beside_the_table_stands_what_its_numbers_are(study, table, prepared):
    about = read_results(study.folder / "test").about
    data = PreparedData(prepared, open_test=True)
    assert about.study == "grid"
    assert about.definition_text == DEFINITIONS[about.definition]
    assert about.mask == study.referenced()[0].config.masks.test
    assert about.data_hash == data.hash
    assert (about.tasks, about.scarce) == (("PDw", "PDw-FS"), "PDw-FS")
    for task, counts in about.test.items():
        assert (counts.volumes, counts.slices) == (1, len(data.subset(task, split="test")))
    assert about.epochs == dict.fromkeys(("stl", "joint-stl", "transfer", "mtl"), (1,))
    assert about.code_versions == tuple({one.code_version for one in study.referenced()})
    text = (study.folder / "test" / ABOUT).read_text()
    assert str(prepared.parent) not in text
    assert str(study.folder.parent) not in text


def test_each_trial_keeps_the_middle_slice_of_every_test_volume(study, table, prepared):
    data = PreparedData(prepared, open_test=True)
    mask = study.referenced()[0].config.masks.test
    record = next(one for one in study.referenced() if one.kind == "mtl")
    network, _ = load_network(record.checkpoint)
    for task in record.tasks:
        ids = data.subset(task, split="test")
        piece = sorted((data.read(one, truth=True) for one in ids), key=lambda one: one.row.slice)[len(ids) // 2]
        methods = {record.name: network_method(network, task), ZERO_FILLED: zero_filled, TRUTH: noise_free_truth}
        for name, method in methods.items():
            image, target = reconstruct(piece, method, mask)
            images, weights = read_images(images_path(study.folder / "test", name))
            assert images[f"{task}/{piece.row.volume}"].dtype == np.float16
            np.testing.assert_allclose(images[f"{task}/{piece.row.volume}"], image / target.max(), atol=1e-3)
            assert weights == table.loc[table["trial"] == (name if name == record.name else ""), "weights"].iloc[0]
        reference = read_images(images_path(study.folder / "test", REFERENCE))[0][f"{task}/{piece.row.volume}"]
        assert reference.max() == 1
        np.testing.assert_allclose(reference, target / target.max(), atol=1e-3)
    names = {path.stem for path in (study.folder / "test" / "images").iterdir()}
    assert names == {REFERENCE, ZERO_FILLED, L1_WAVELET, TRUTH, *(one.name for one in study.referenced())}


def test_a_trial_whose_images_are_missing_or_of_other_weights_is_tested_again(study, table):
    results = study.folder / "test"
    first, second, third = (one.name for one in study.referenced()[:3])
    before = {name: images_path(results, name).read_bytes() for name in (first, second, third, REFERENCE)}
    images_path(results, first).unlink()
    images_path(results, second).write_bytes(before[third])
    images_path(results, third).write_bytes(b"damaged")
    images_path(results, REFERENCE).unlink()
    ran = []

    def counting(function, jobs):
        for job in jobs:
            ran.append(job.labels["trial"])
            yield function(job)

    pd.testing.assert_frame_equal(study_test(study, map=counting), table)
    assert sorted(ran) == sorted(["", first, second, third])
    assert {name: images_path(results, name).read_bytes() for name in before} == before


def test_tables_and_images_of_other_tools_stay(study, table):
    results = study.folder / "test"
    peer = table[table["kind"] == "stl"].assign(kind="fastmri", trial="fastmri-0")
    write_table(peer, results / "peer.csv.gz")
    images_path(results, "fastmri-0").write_bytes(b"theirs")
    pd.testing.assert_frame_equal(study_test(study), table)
    assert set(read_results(results).table["kind"]) == {*table["kind"], "fastmri"}
    assert images_path(results, "fastmri-0").read_bytes() == b"theirs"
    (results / "peer.csv.gz").unlink()
    images_path(results, "fastmri-0").unlink()


def test_what_was_tested_is_not_tested_again(study, table):
    def never(function, jobs):
        assert list(jobs) == []
        return iter(())

    pd.testing.assert_frame_equal(study_test(study, map=never), table)


def test_the_order_is_the_trials_whatever_comes_first(study, table):
    path = study.folder / "test" / TABLE
    whole = path.read_bytes()
    path.unlink()
    pd.testing.assert_frame_equal(study_test(study, map=lambda function, jobs: map(function, list(jobs)[::-1])), table)
    path.write_bytes(whole)


def test_an_interrupted_test_goes_on(study, table):
    path = study.folder / "test" / TABLE
    whole = path.read_bytes()
    path.unlink()

    def stopping(function, jobs):
        for done, job in enumerate(jobs):
            if done == 3:
                raise KeyboardInterrupt
            yield function(job)

    with pytest.raises(KeyboardInterrupt):
        study_test(study, map=stopping)
    ran = []

    def counting(function, jobs):
        for job in jobs:
            ran.append(job)
            yield function(job)

    again = study_test(study, map=counting)
    assert len(ran) == len(table[["trial", "kind"]].drop_duplicates()) - 3
    pd.testing.assert_frame_equal(again, table)
    path.write_bytes(whole)


def test_a_study_that_was_tested_before_there_was_a_truth_gains_its_row_alone(study, table):
    path = study.folder / "test" / TABLE
    whole = path.read_bytes()
    write_table(table[table["kind"] != TRUTH], path)
    ran = []

    def counting(function, jobs):
        for job in jobs:
            ran.append(job.key)
            yield function(job)

    pd.testing.assert_frame_equal(study_test(study, map=counting), table)
    assert ran == [("", TRUTH)]
    assert path.read_bytes() == whole


def test_data_that_know_no_truth_have_no_row_of_it(study, table, prepared, tmp_path):
    path = study.folder / "test" / TABLE
    whole = path.read_bytes()
    found = study_test(study, without_truth(prepared, tmp_path / "old"))
    pd.testing.assert_frame_equal(found, table[table["kind"] != TRUTH].reset_index(drop=True))
    path.write_bytes(whole)


def test_a_network_that_was_trained_anew_is_tested_anew(study, table):
    path = study.folder / "test" / TABLE
    whole = path.read_bytes()
    changed = table.copy()
    trial = table["trial"].iloc[-1]
    changed.loc[changed["trial"] == trial, "weights"] = "others"
    changed.to_csv(path, index=False, float_format="%.6f", compression="gzip")
    pd.testing.assert_frame_equal(study_test(study), table)
    path.write_bytes(whole)


def test_mistakes_are_said(study, table, prepared, tmp_path):
    other = shutil.copytree(prepared, tmp_path / "other")
    (other / "dataset.json").unlink()
    with pytest.raises(InputError, match="is half prepared"):
        study_test(study, other)
    path = study.folder / "test" / TABLE
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    with pytest.raises(InputError, match=r"trials\.csv\.gz cannot be read .* delete it"):
        study_test(study)
    path.write_bytes(whole)
    empty = launch(space(**{**GRID, "grid": None, "trials": 1}), prepared, "search", runs_dir=tmp_path).study
    with pytest.raises(InputError, match="has no complete network over seeds yet; launch or confirm it first"):
        study_test(open_study("search", None, tmp_path))
    assert empty.searched()


def test_the_commands_test_a_study_and_print_its_tables(study, table, monkeypatch, capsys):
    def splitpoint(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["splitpoint", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    runs = ("--runs-dir", study.folder.parent)
    code, out, err = splitpoint("test", "--study", "grid", *runs, "--workers", "1")
    assert code == 0
    assert str(study.folder / "test" / TABLE) in err
    head, *lines = [line.split() for line in out.splitlines()]
    assert head[-4:] == ["ssim", "psnr", "nrmse", "seeds"]
    # Zero-filled, ℓ1-wavelet, truth, STL and joint STL of two tasks, transfer, two rows of the grid.
    assert len(lines) == 5 * 2 + 1 + 2 * 2
    code, out, _ = splitpoint("report", "grid", "--tables", *runs, "--format", "markdown")
    assert code == 0
    assert out.count("**Table") == 10
    # Tables 2 and 3, each minus ℓ1-wavelet, STL and joint STL, and the scarce task's minus transfer.
    assert out.count("| I2 naive, from transfer |") == 9
    code, out, err = splitpoint("test", "--study", "grid", *runs, "--out", "elsewhere")
    assert (code, out) == (2, "")
    assert "--out and --no-classical are of a bundle's test" in err
    code, out, err = splitpoint("report", "grid", "--figures", study.folder / "figures", *runs)
    assert (code, err) == (0, "")
    assert [Path(line).name for line in out.splitlines()] == [
        "ssim.png", "differences.png", "pictures-PDw-FS-N12.png", "pictures-PDw-N12.png",
    ]  # fmt: skip
    path = study.folder / "test" / ABOUT
    whole = path.read_bytes()
    path.unlink()
    code, out, err = splitpoint("report", "grid", "--tables", *runs)
    assert (code, out) == (2, "")
    assert "is missing; run splitpoint test --study grid first" in err
    path.write_bytes(whole)


def test_a_job_travels_to_another_process(study):
    import pickle

    jobs = []

    def noting(function, made):
        jobs.extend(made)
        return iter(())

    path = study.folder / "test" / TABLE
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        study_test(study, map=noting)
    path.write_bytes(whole)
    assert len(jobs) > 2
    assert pickle.loads(pickle.dumps((run_job, jobs))) == (run_job, jobs)
