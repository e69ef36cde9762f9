"""Cleaning frees what a study does not need, and nothing else."""

import json
import os
import platform
import shutil
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from recon.errors import InputError
from search.results.clean import clean, freed, size
from search.results.export import export
from search.run.confirm import leaders
from search.run.driver import driving
from search.study.open import open_study
from tests.search.stored import SIZE, Stored

COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING
EACH = SIZE + 2
"""Bytes of a checkpoint's folder."""


@pytest.fixture
def made(tmp_path):
    return Stored(tmp_path, confirm={"top": 2, "seeds": 1})


def left(made: Stored) -> set[str]:
    """The checkpoints that are there."""
    return {f"{path.parent.name}/{path.name}" for path in made.trials.glob("*/*") if path.is_dir()}


def searching(made: Stored) -> None:
    """A search whose trials ended in each way that there is."""
    made.stl("PDw")
    made.stl("PDw-FS", FAIL, 2, error="the disk is gone")
    made.searched("I2V2", COMPLETE, 6, ssim=0.7)
    made.searched("I2Y2", COMPLETE, 6, ssim=0.9)
    made.searched("V2I2", COMPLETE, 6, ssim=0.8)
    made.searched("Y4", PRUNED, 2, ssim=0.6)
    made.searched("V4", FAIL, 3, error="the loss is nan")
    made.searched("I4", FAIL, 3, closed="interrupted")
    made.searched("I4", FAIL, 4, closed="interrupted", continues=5)
    made.searched("Y2V2", FAIL, 2, error="the host is gone", fault="machine")
    made.confirmed("I2Y2", 1)


NEEDED = {
    "reference-0000/epoch-00006",
    "reference-0002/epoch-00006",
    "search-0001/epoch-00006",
    "search-0002/epoch-00006",
    "search-0006/epoch-00004",
    "search-0007/epoch-00002",
}


def test_the_best_the_confirmed_the_baselines_and_what_may_go_on_stay(made):
    searching(made)
    before = left(made)
    planned = clean(made.study, dry_run=True)
    assert left(made) == before
    done = clean(made.study)
    assert done == planned
    assert left(made) == NEEDED
    assert (done.bytes, done.kept, done.kept_bytes) == ((len(before) - 6) * EACH, 6, 6 * EACH)
    assert {path.name for path in made.trials.iterdir() if path.is_dir()} == {one.split("/")[0] for one in NEEDED}
    again = clean(made.study)
    assert (again.bytes, again.spares) == (0, ())
    assert str(again) == f"0 bytes: nothing was to spare; 6 checkpoints stay ({size(6 * EACH)})"


@pytest.mark.parametrize(
    ("keep", "stay"), [(0, set()), (1, {"search-0001"}), (3, {"search-0000", "search-0001", "search-0002"})]
)
def test_as_many_of_the_best_stay_as_are_asked_for(made, keep, stay):
    searching(made)
    clean(made.study, keep)
    assert {one.split("/")[0] for one in left(made)} & {f"search-000{number}" for number in range(5)} == stay


def test_a_trial_that_runs_keeps_its_newest_checkpoints_whatever_its_record_says(made):
    made.searched("I2V2", RUNNING, 2)
    made.checkpoint("search-0000", 3)  # the driver died before it heard of it
    assert clean(made.study).spares == ()
    made.searched("I2Y2", COMPLETE, 6)
    made.checkpoint("search-0001", 5)
    (spare,) = clean(made.study).spares
    assert (spare.path.name, spare.why) == ("epoch-00005", "older checkpoints")


def test_a_checkpoint_of_an_interrupted_trial_stays_while_its_successor_has_none_of_its_own(made):
    made.searched("I4", FAIL, 3, closed="interrupted")
    kept = made.trials / "search-0000" / "epoch-00003"
    made.searched("I4", RUNNING, 3, checkpoint=kept, continues=0)
    assert clean(made.study).spares == ()
    assert kept.is_dir()


def test_what_killed_processes_and_ray_tune_left_goes_and_what_the_user_put_there_stays(made):
    made.searched("I2Y2", COMPLETE, 6)
    trial = made.trials / "search-0000"
    rubbish = [
        made.trials / "experiment_state-2026-01-01.json",
        made.trials / "searcher-state.pkl",
        trial / "result.json",
        trial / "params.pkl",
        trial / ".epoch-00003.17-abcd.part" / "checkpoint.pt",
        made.trials / "search-0099" / "checkpoint_000003" / "checkpoint.pt",
        made.trials / "search-0098" / "result.json",
    ]
    own = [
        made.trials / "notes.txt",
        trial / "why.md",
        made.trials / "mine" / "epoch-00001" / "x",
        made.trials / "search-0097" / "y",
    ]
    outside = made.study.folder.parent / "elsewhere"
    for path in (*rubbish, *own, outside / "epoch-00002" / "checkpoint.pt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1234")
    (made.trials / "search-0096").symlink_to(outside)
    (trial / "epoch-00002").symlink_to(outside / "epoch-00002")
    done = clean(made.study)
    assert done.bytes == 4 * len(rubbish)
    assert not any(path.exists() for path in rubbish)
    assert not (made.trials / "search-0099").exists()
    assert all(path.exists() for path in own)
    assert (outside / "epoch-00002" / "checkpoint.pt").exists()
    assert "1 unfinished checkpoints (4 bytes)" in str(done)


def test_records_and_other_folders_of_the_study_stay_as_they_are(made):
    searching(made)
    for name in ("bundle", "test", "report"):
        (made.study.folder / name).mkdir()
        (made.study.folder / name / "result.json").write_text("{}")
    before = [(one.name, one.state, one.history) for one in made.study.records()]
    best = [one.name for one in leaders(made.study, 2)]
    clean(made.study, 0)
    assert [(one.name, one.state, one.history) for one in made.study.records()] == before
    assert [one.name for one in leaders(made.study, 2)] == best
    assert all((made.study.folder / name / "result.json").is_file() for name in ("bundle", "test", "report"))


def test_a_freed_trial_is_not_exported_but_said_how_it_is_trained_again(made):
    searching(made)
    clean(made.study, 1)
    record = made.study.record("0")
    assert freed(made.study, record) is not None
    assert freed(made.study, made.study.record("1")) is None
    with pytest.raises(
        InputError,
        match=r"^the checkpoint of trial 0 was freed by `splitpoint clean` \(20.*\); "
        "`splitpoint train --like one:0 --out DIR` trains it again$",
    ):
        export(made.study, "0")
    shutil.rmtree(made.trials / "search-0001")
    with pytest.raises(InputError, match=r"trial 1 is not at .*; was it moved or deleted"):
        export(made.study, "1")


def test_a_folder_that_was_moved_keeps_what_the_study_needs(made, tmp_path):
    searching(made)
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    study = open_study("one", runs_dir=tmp_path / "moved")
    clean(study)
    assert {f"{path.parent.name}/{path.name}" for path in (study.folder / "trials").glob("*/*")} == NEEDED


def test_nothing_is_freed_while_a_driver_runs_the_study(made):
    searching(made)
    before = left(made)
    with driving(made.study), pytest.raises(InputError, match="is being run by another process"):
        clean(made.study)
    elsewhere = {"host": "another", "pid": 1, "lock": "another:/x", "beat": time.time()}
    made.study.search.set_user_attr("driver", elsewhere)
    with pytest.raises(InputError, match="is being run by process 1 on another"):
        clean(made.study)
    made.study.search.set_user_attr("driver", elsewhere | {"host": platform.node(), "pid": os.getpid(), "beat": 0.0})
    clean(made.study, dry_run=True)
    assert left(made) == before


def test_folders_of_another_study_are_not_taken_for_rubbish(made, tmp_path):
    searching(made)
    other = Stored(tmp_path / "other")
    shutil.copytree(made.trials, other.trials)
    before = left(other)
    with pytest.raises(InputError, match=r"none of the 11 folders in .* belongs to a trial of study 'one', so nothing"):
        clean(other.study)
    assert left(other) == before
    shutil.rmtree(other.study.folder / "trials")
    assert clean(other.study).spares == ()


def test_the_command_lists_what_would_go_and_says_what_went(made, splitpoint, plain_environment, tmp_path):
    searching(made)
    command = ("clean", "one", "--runs-dir", tmp_path / "runs", "--keep", "1")
    code, out, err = splitpoint(*command, "--dry-run")
    assert code == 0
    assert len(out.splitlines()) == 6
    assert all("checkpoints of trials that are not among the best" in line for line in out.splitlines())
    assert err.startswith(f"would free {size(6 * EACH)}: 6 checkpoints of trials")
    code, out, again = splitpoint(*command)
    assert (code, out, again) == (0, "", err.replace("would free", "freed"))
    assert json.loads((made.trials / "freed.json").read_text()).keys() >= {"search-0000", "search-0003"}
    code, out, err = splitpoint("clean", "two", "--runs-dir", tmp_path / "runs")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_study_without_its_folder_is_one_sentence(made, tmp_path):
    study = open_study("one", f"sqlite:///{made.study.folder.resolve()}/study.db", tmp_path / "none")
    with pytest.raises(InputError, match=r"there is no folder .*none/one, so nothing can be freed; --runs-dir"):
        clean(study)
    assert not Path(tmp_path / "none").exists()
