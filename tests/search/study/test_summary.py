"""Summaries and the leaderboard made of them: the same as from whole records, in every storage and state."""

import json
import sqlite3

import pandas as pd
import pytest
from optuna.trial import TrialState

from recon.errors import InputError
from search.results import leaderboard as module
from search.results.leaderboard import Selection, leaderboard
from search.results.text import Format, render
from search.study.open import open_study
from search.study.record import State
from search.study.summary import Summary, summaries
from tests.search.study import postgres
from tests.search.study.written import made, metrics, multi_task, stl

EVERYTHING = Selection(everything=True)


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def storage(request, tmp_path):
    if request.param == "postgresql":
        with postgres.server() as url:
            yield url
    else:
        yield f"journal://{tmp_path}/study.journal" if request.param == "journal" else None


def filled(folder, storage=None):
    """A study with a trial of each kind and state, and another study beside it in the storage."""
    study = made(folder, storage, objective={"metric": "gain"})
    curve = {1: metrics(0.5), 2: metrics(0.55), 4: metrics(0.7)}
    for seed in (0, 1):
        for task in ("PDw", "PDw-FS"):
            stl(study.references, task, {n: metrics(0.4 + 0.05 * n + 0.01 * seed, (task,)) for n in (1, 2, 3, 4)}, seed)
    multi_task(study.references, curve, stage="confirm")
    slices = {"PDw": 12, "PDw-FS": 12}
    multi_task(study.search, curve, slices=slices)
    for place in range(6):
        made_at = {n: metrics(0.5 + 0.02 * n + 0.01 * place) for n in range(1, 5)}
        multi_task(study.search, made_at, slices=slices, checkpoint=f"/runs/epoch-0000{place}", node="here")
    multi_task(study.search, {1: metrics(0.2)}, slices=slices, state=TrialState.PRUNED, diverged=True)
    multi_task(study.search, {1: metrics(0.5)}, slices=slices, state=TrialState.PRUNED)
    multi_task(study.search, {}, state=TrialState.FAIL, error="volume 3 is cut", fault="data")
    multi_task(study.search, {1: metrics(0.5)}, state=TrialState.FAIL, error="loss is nan after epoch 2")
    multi_task(study.search, {1: metrics(0.5)}, state=TrialState.FAIL, closed="interrupted")
    interrupted = len(study.search.trials) - 1
    key = "mtl/I2V2/naive/n=12/init=joint/learning_rate=0.001/seed=0"
    multi_task(study.search, curve, slices=slices, continues=interrupted, key=key)
    multi_task(study.search, {10: metrics(0.5), 9: metrics(0.4)}, 12, slices=slices, state=TrialState.RUNNING)
    multi_task(study.search, {}, state=TrialState.RUNNING)
    study.search.ask()  # described by nobody yet
    other = made(folder, storage, name="other")
    multi_task(other.search, {4: metrics(0.99)})
    return study


def test_a_summary_says_what_the_whole_record_says(tmp_path, storage):
    study = filled(tmp_path, storage)
    found, whole = summaries(study), study.searched()
    assert [vars(one) for one in found] == [vars(Summary.of(record)) for record in whole]
    for one, record in zip(found, whole, strict=True):
        for name in ("name", "configuration", "point", "init", "tasks"):
            assert getattr(one, name) == getattr(record, name)
        assert record.init == (record.point.init if record.point else None)


@pytest.mark.parametrize("choice", [Selection(), EVERYTHING, Selection(top=2, sort="ssim/PDw-FS", kind="mtl")])
def test_the_leaderboard_is_the_same_table_from_summaries_and_from_whole_records(tmp_path, monkeypatch, choice):
    study = filled(tmp_path)
    fast = leaderboard(study, choice)
    monkeypatch.setattr(module, "summaries", lambda study: study.searched())
    plain = leaderboard(study, choice)
    pd.testing.assert_frame_equal(fast, plain)
    assert not fast.empty
    assert fast["gain"].notna().any()


def test_an_attempt_that_did_not_finish_says_why(tmp_path):
    study = filled(tmp_path)
    board = leaderboard(study, EVERYTHING).set_index("trial")
    said = {(row.state, row.error) for row in board.dropna(subset="error").itertuples()}
    heir = next(one.name for one in study.searched() if one.continues is not None)
    assert said == {
        (State.FAIL, "data: volume 3 is cut"),
        (State.FAIL, "loss is nan after epoch 2"),
        ("interrupted", f"interrupted, continued as {heir}"),
        (State.PRUNED, "diverged"),
    }
    text = render(board.reset_index(), Format.table)
    for _, error in said:
        assert error in text
    assert "error" not in render(leaderboard(study), Format.table).splitlines()[0]


def test_an_attempt_that_nobody_continues_yet_is_interrupted(tmp_path):
    study = made(tmp_path)
    for half in (study.search, study.references):
        more = {"stage": "confirm"} if half is study.references else {}
        multi_task(half, {1: metrics(0.5)}, state=TrialState.FAIL, closed="interrupted", **more)
    # The other half's trial of the same number is another trial.
    multi_task(study.references, {1: metrics(0.5)}, state=TrialState.RUNNING, stage="confirm", continues=0)
    board = leaderboard(study, EVERYTHING).set_index("trial")
    assert board.loc["0", "error"] == "interrupted"
    assert board.loc["r0", "error"] == "interrupted, continued as r1"


def test_a_long_error_does_not_widen_the_text_without_end(tmp_path):
    study = made(tmp_path)
    multi_task(study.search, {}, state=TrialState.FAIL, error="x" * 500 + "\nsecond line")
    board = leaderboard(study, EVERYTHING)
    assert board["error"][0] == "x" * 500 + "\nsecond line"
    text = render(board, Format.table)
    assert "x" * 40 in text
    assert "x" * 100 not in text
    assert "…" in text
    assert "second line" not in text


@pytest.mark.parametrize("part", ["space", "config"])
def test_a_field_of_a_later_version_is_a_sentence_in_the_leaderboard(tmp_path, splitpoint, part):
    """In the space, or in the configuration of one trial among many of the same shape."""
    study = filled(tmp_path)
    with sqlite3.connect(tmp_path / "runs" / "one" / "study.db") as connection:
        table, which = (
            ("study_user_attributes", "") if part == "space" else ("trial_user_attributes", "AND trial_id = 9")
        )
        sql = f"UPDATE {table} SET value_json = json_set(value_json, '$.later', 1) WHERE key = '{part}' {which}"
        assert connection.execute(sql).rowcount == 1
    code, out, err = splitpoint("leaderboard", "one", "--runs-dir", tmp_path / "runs")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "was written by another version of Splitpoint" in err
    assert err.endswith(": later is no known field\n")
    with pytest.raises(InputError, match="later is no known field"):
        leaderboard(open_study(study.name, None, tmp_path / "runs"))


def test_a_table_of_summaries_reads_no_curve(tmp_path, monkeypatch):
    """Of each searched trial one epoch is read, and Optuna's way, which reads all, is not taken."""
    study = filled(tmp_path)
    read = []
    monkeypatch.setattr(json, "loads", lambda text, loads=json.loads, **more: read.append(text) or loads(text, **more))
    monkeypatch.setattr(type(study.storage), "get_all_trials", lambda *_, **__: pytest.fail("all trials are read"))
    found = summaries(study)
    curves = [text for text in read if '"ssim/PDw"' in text]
    assert len(curves) == sum(bool(one.epochs) for one in found)
