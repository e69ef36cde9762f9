"""What studies there are, and those that another version or a launch that died left behind."""

import io
import json

import optuna
import pandas as pd
import pytest

from recon.errors import InputError
from recon.version import code_version
from search.cli.options import study_names
from search.run.launch import launch
from search.study.open import FORMAT, create_study, open_study, orphaned_trials, studies
from tests.search import fakes
from tests.search.conftest import facts, listed, steer

COLUMNS = ["study", "trials", "stopped", "failed", "running", "references", "objective", "best", "data"]


pytestmark = pytest.mark.usefixtures("plain_environment")


@pytest.fixture(scope="module")
def shelf(local_ray, tmp_path_factory):
    """A folder that holds the data and three studies in each kind of place: «first» with two complete trials, «second»
    with one complete and one failed, and «torn», of which there is no more than its name."""
    folder = tmp_path_factory.mktemp("shelf")
    steer(folder / "data", V4_naive={"nan_at": 1})
    journal = f"journal://{folder}/shared.journal"
    for storage, runs in ((None, "runs"), (journal, "other")):
        where = {"storage": storage, "runs_dir": folder / runs}
        for name, layouts in (("first", ("I4", "I2V2")), ("second", ("I2Y2", "V4"))):
            launch(listed(*layouts), facts(folder / "data"), name, trainer=fakes.train, **where)
        create_study("torn", **where)
    create_study("alone", f"sqlite:///{folder}/shared.db", folder / "runs")
    return folder


def as_listed(frame: pd.DataFrame) -> dict[str, dict]:
    return {row["study"]: row for row in frame.astype(object).where(frame.notna(), None).to_dict("records")}


@pytest.mark.parametrize("place", ["folders", "journal"])
def test_studies_are_listed_with_their_trials_by_state(shelf, place):
    storage = f"journal://{shelf}/shared.journal" if place == "journal" else None
    frame = studies(storage, shelf / "runs")
    assert list(frame.columns) == COLUMNS
    found = as_listed(frame)
    assert list(found) == ["first", "second", "torn"]
    first, second = (open_study(name, storage, shelf / "runs") for name in ("first", "second"))
    assert found["first"] == {
        "study": "first",
        "trials": 2,
        "stopped": 0,
        "failed": 0,
        "running": 0,
        "references": len(first.referenced()),
        "objective": "ssim",
        "best": max(record.value for record in first.searched()),
        "data": str(shelf / "data"),
    }
    # Two of two configurations were tried, and Optuna was asked for no third trial.
    assert len(second.search.trials) == 2
    assert (found["second"]["trials"], found["second"]["failed"]) == (1, 1)
    assert found["second"]["best"] == second.searched()[0].value


@pytest.mark.parametrize("place", ["folders", "journal"])
def test_a_half_made_study_is_listed_with_nothing_in_it(shelf, place):
    storage = f"journal://{shelf}/shared.journal" if place == "journal" else None
    torn = as_listed(studies(storage, shelf / "runs"))["torn"]
    assert [torn[name] for name in COLUMNS] == ["torn", 0, 0, 0, 0, 0, None, None, None]


def test_an_sqlite_storage_lists_its_own_studies_and_not_those_of_the_runs_folder(shelf):
    assert list(studies(f"sqlite:///{shelf}/shared.db", shelf / "runs")["study"]) == ["alone"]


def test_a_folder_without_studies_is_an_empty_table_and_no_folder_is_a_sentence(tmp_path):
    assert list(studies(None, tmp_path).columns) == COLUMNS
    assert studies(None, tmp_path).empty
    with pytest.raises(InputError, match=r"there is no folder .*nowhere; --runs-dir says where studies live"):
        studies(None, tmp_path / "nowhere")
    with pytest.raises(InputError, match="there is no study file"):
        studies(f"sqlite:///{tmp_path}/no.db", tmp_path)


def test_the_command_writes_the_same_studies_as_text_csv_and_json(splitpoint, shelf):
    expected = as_listed(studies(None, shelf / "runs"))
    code, text, err = splitpoint("studies", "--runs-dir", shelf / "runs")
    assert (code, err) == (0, "")
    head, *rows = text.splitlines()
    assert head.split() == COLUMNS
    assert [row.split()[0] for row in rows] == ["first", "second", "torn"]
    assert f"  {expected['first']['best']:.4f}  " in rows[0]
    assert rows[2].split() == ["torn", "0", "0", "0", "0", "0", "–", "–", "–"]
    code, csv, err = splitpoint("studies", "--runs-dir", shelf / "runs", "--format", "csv")
    assert (code, err) == (0, "")
    assert as_listed(pd.read_csv(io.StringIO(csv))) == expected
    code, out, err = splitpoint("studies", "--runs-dir", shelf / "runs", "--format", "json")
    assert (code, err) == (0, "")
    assert {row["study"]: row for row in json.loads(out)} == expected


def test_the_command_says_where_there_is_no_study(splitpoint, tmp_path):
    assert splitpoint("studies", "--runs-dir", tmp_path) == (0, "", f"there is no study in {tmp_path}\n")
    assert splitpoint("studies", "--runs-dir", tmp_path, "--format", "json") == (0, "[]\n", "")


def test_shells_complete_the_names_of_studies(shelf, monkeypatch):
    monkeypatch.setenv("SPLITPOINT_RUNS", str(shelf / "runs"))
    assert study_names("fi") == ["first"]
    assert study_names("") == ["first", "second", "torn"]
    assert study_names("x") == []
    monkeypatch.setenv("SPLITPOINT_RUNS", str(shelf / "nowhere"))
    assert study_names("fi") == []


def test_a_study_of_another_format_is_refused_in_a_sentence_for_reading_and_for_writing(tmp_path):
    create_study("one", None, tmp_path).search.set_user_attr("format", FORMAT + 1)
    said = rf"study 'one' in sqlite:.*study\.db has format {FORMAT + 1}, and this version reads format {FORMAT}$"
    with pytest.raises(InputError, match=said):
        open_study("one", None, tmp_path)
    with pytest.raises(InputError, match=said):
        create_study("one", None, tmp_path)


def written(folder, version: str):
    """A study with one trial that a code version wrote."""
    study = create_study("one", None, folder)
    trial = study.search.ask()
    trial.set_user_attr("code_version", version)
    return study, trial


@pytest.mark.parametrize("part", ["space", "record"])
def test_what_another_version_wrote_otherwise_is_a_sentence_with_both_versions(tmp_path, part):
    study, trial = written(tmp_path, "9.9+old")
    content = listed("I4").model_dump(mode="json")
    study.search.set_user_attr("space", {**content, "wheels": 4})
    trial.set_user_attr("config", {"tasks": ["PDw"], "wheels": 4})
    for name in ("kind", "stage", "layout", "weighting", "scarce_slices", "slices", "seed", "data_hash", "key"):
        trial.set_user_attr(name, {} if name == "slices" else "mtl")
    opened = open_study("one", None, tmp_path)
    with pytest.raises(InputError) as error:
        opened.space if part == "space" else opened.records()
    said = str(error.value)
    assert "\n" not in said
    assert f"written by another version of Splitpoint (9.9+old), and this one ({code_version()}) cannot read it" in said
    assert said.endswith(": wheels is no known field")


def test_reading_a_half_made_study_is_a_sentence_that_says_what_to_do(tmp_path, splitpoint):
    create_study("torn", None, tmp_path)
    opened = open_study("torn", None, tmp_path)
    said = "nothing was launched yet in study 'torn' in sqlite:.*: its first launch ended before it began"
    with pytest.raises(InputError, match=said):
        opened.space  # noqa: B018
    with pytest.raises(InputError, match=said):
        opened.data  # noqa: B018
    for command in ("leaderboard", "export", "confirm", "noise"):
        code, out, err = splitpoint(command, "torn", "--runs-dir", tmp_path)
        assert (code, out, err.count("\n")) == (2, "", 1), command
        assert "nothing was launched yet" in err


@pytest.mark.parametrize("storage", ["none", "other", "journal"])
def test_trials_without_a_study_are_said(tmp_path, splitpoint, storage):
    for name in ("search-0000", "search-0012", "reference-0003", "else"):
        (tmp_path / "gone" / "trials" / name).mkdir(parents=True)
    url = {"none": None, "other": f"sqlite:///{tmp_path}/shared.db", "journal": f"journal://{tmp_path}/no"}[storage]
    if storage == "other":
        create_study("another", url, tmp_path)
    with pytest.raises(InputError) as error:
        open_study("gone", url, tmp_path)
    lost = (
        f"but {tmp_path}/gone/trials holds the folders of 3 trials, whose study was deleted or is in another --storage"
    )
    assert str(error.value).startswith("there is no study 'gone' in ")
    assert lost in str(error.value)
    assert ("studies there: another" in str(error.value)) == (storage == "other")
    assert orphaned_trials(tmp_path / "gone") == 3
    code, out, err = splitpoint("studies", "--runs-dir", tmp_path, "--format", "csv")
    assert (code, len(out.splitlines())) == (0, 1)
    assert err == f"there is no study 'gone', {lost}\n"
    create_study("gone", None, tmp_path)
    assert splitpoint("studies", "--runs-dir", tmp_path, "--format", "csv")[2] == ""


def test_a_folder_without_trials_has_lost_nothing(tmp_path):
    assert orphaned_trials(tmp_path) == 0
    (tmp_path / "one" / "trials").mkdir(parents=True)
    with pytest.raises(InputError, match="there is no study file"):
        open_study("one", None, tmp_path)


def test_a_study_with_a_name_of_before_the_rule_is_listed_and_opened_by_none(tmp_path, splitpoint):
    url = f"sqlite:///{tmp_path}/shared.db"
    optuna.create_study(study_name="a?b", storage=url, direction="maximize")
    assert list(studies(url, tmp_path)["study"]) == ["a?b"]
    code, out, err = splitpoint("leaderboard", "a?b", "--storage", url, "--runs-dir", tmp_path)
    assert (code, out) == (2, "")
    assert "'a?b' cannot name a study: use letters" in err


def test_a_half_made_study_is_launched_by_the_same_call_and_then_works(local_ray, tmp_path):
    create_study("torn", None, tmp_path / "runs")
    outcome = launch(listed("I4"), facts(tmp_path / "data"), "torn", runs_dir=tmp_path / "runs", trainer=fakes.train)
    assert (outcome.complete, outcome.complaint) == (1, None)
    opened = open_study("torn", None, tmp_path / "runs")
    assert opened.space == listed("I4").on({"PDw": 40, "PDw-FS": 30})
    assert [record.layout for record in opened.searched()] == ["I4"]
    assert as_listed(studies(None, tmp_path / "runs"))["torn"]["trials"] == 1
