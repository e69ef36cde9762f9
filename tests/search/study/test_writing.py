"""Facts in one transaction, errors that mean that a storage is away, and files that are exchanged."""

import copy
import errno
import os
import sqlite3
import subprocess
import sys

import optuna
import pytest
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages._rdb import models
from optuna.trial import TrialState

from search.study.open import create_study
from search.study.storage import Fact, FileWatch, cause, is_away, write

METRICS = {"ssim": 0.7, "loss": 0.1}


@pytest.fixture(params=["sqlite", "journal", "memory"])
def half(request, tmp_path):
    if request.param == "memory":
        return optuna.create_study(storage=optuna.storages.InMemoryStorage())
    url = f"journal://{tmp_path}/study.journal" if request.param == "journal" else None
    return create_study("one", url, tmp_path).search


def facts_of(trial_id: int) -> list[Fact]:
    return [
        Fact(trial_id, "attribute", "node", "here"),
        Fact(trial_id, "attribute", "epoch/1", METRICS),
        Fact(trial_id, "value", 1, 0.7),
        Fact(trial_id, "attribute", "epoch/2", METRICS),
        Fact(trial_id, "value", 2, float("nan")),
        Fact(trial_id, "value", 3, float("inf")),
        Fact(trial_id, "attribute", "node", "there"),
    ]


def as_stored(half: optuna.Study) -> list[tuple]:
    return [(one.state, one.user_attrs, repr(one.intermediate_values)) for one in copy.deepcopy(half.trials)]


def test_facts_are_read_back_and_written_twice_they_are_the_same_study(half):
    one, two = half.ask(), half.ask()
    both = facts_of(one._trial_id) + facts_of(two._trial_id)
    write(half._storage, both)
    first = as_stored(half)
    attributes = {"node": "there", "epoch/1": METRICS, "epoch/2": METRICS}
    assert first == [(TrialState.RUNNING, attributes, "{1: 0.7, 2: nan, 3: inf}")] * 2
    write(half._storage, both)
    write(half._storage, both[:3])
    write(half._storage, both[3:7])
    assert as_stored(half) == first


def test_facts_are_stored_as_optunas_own_methods_store_them(tmp_path):
    ours, theirs = (create_study(name, None, tmp_path).search for name in ("ours", "theirs"))
    trials = ours.ask(), theirs.ask()
    write(ours._storage, facts_of(trials[0]._trial_id))
    for fact in facts_of(trials[1]._trial_id):
        if fact.kind == "attribute":
            trials[1].set_user_attr(fact.key, fact.value)
        else:
            trials[1].report(fact.value, fact.key)
    assert as_stored(ours) != []
    stored = []
    for name in ("ours", "theirs"):
        with sqlite3.connect(tmp_path / name / "study.db") as connection:
            stored.append(
                [
                    sorted(connection.execute("SELECT trial_id, key, value_json FROM trial_user_attributes")),
                    sorted(
                        connection.execute(
                            "SELECT trial_id, step, intermediate_value_type FROM trial_intermediate_values"
                        )
                    ),
                ]
            )
    node = [[row for row in rows[0] if row[1] == "node"] for rows in stored]
    assert node[0] == [(1, "node", '"there"')]
    assert stored[0] == stored[1]


def test_in_a_database_all_facts_are_written_or_none(tmp_path):
    half = create_study("one", None, tmp_path).search
    ended, running = half.ask(), half.ask()
    half.tell(ended, 1.0)
    facts = [Fact(running._trial_id, "attribute", "a", 1), Fact(ended._trial_id, "attribute", "a", 1)]
    with pytest.raises(UpdateFinishedTrialError) as error:
        write(half._storage, facts)
    assert not is_away(error.value)
    with pytest.raises(KeyError):
        write(half._storage, [facts[0], Fact(99, "value", 1, 0.5)])
    with pytest.raises(TypeError):
        write(half._storage, [facts[0], Fact(running._trial_id, "attribute", "b", object())])
    assert [trial.user_attrs for trial in half.trials] == [{}, {}]
    write(half._storage, [])


def test_optunas_tables_are_those_that_are_written():
    """A later Optuna that changes them fails here, and not in a search."""
    columns = {
        models.TrialModel: {"trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"},
        models.TrialUserAttributeModel: {"trial_user_attribute_id", "trial_id", "key", "value_json"},
        models.TrialIntermediateValueModel: {
            *("trial_intermediate_value_id", "trial_id", "step", "intermediate_value", "intermediate_value_type")
        },
        models.StudyUserAttributeModel: {"study_user_attribute_id", "study_id", "key", "value_json"},
    }
    for model, expected in columns.items():
        assert {column.name for column in model.__table__.columns} == expected
    stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    assert [stored(value)[0] for value in (0.5, float("nan"), float("inf"))] == [0.5, None, None]


def caught(run) -> BaseException:
    try:
        run()
    except Exception as error:
        return error
    raise AssertionError("no error")


def test_a_database_that_fails_is_away(tmp_path):
    half = create_study("one", None, tmp_path).search
    trial = half.ask()
    with sqlite3.connect(tmp_path / "one" / "study.db") as connection:
        connection.execute("ALTER TABLE trial_user_attributes RENAME TO elsewhere")
    for run in (
        lambda: write(half._storage, [Fact(trial._trial_id, "attribute", "a", 1)]),
        lambda: trial.set_user_attr("a", "hunter2"),
    ):
        error = caught(run)
        assert is_away(error)
        assert cause(error) == "no such table: trial_user_attributes"


@pytest.mark.parametrize(
    ("error", "away", "said"),
    [
        (sqlite3.OperationalError("database is locked"), True, "database is locked"),
        (OSError(errno.ENOSPC, "No space left on device"), True, "No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), True, "a/b: No space left on device"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), True, "Connection reset by peer"),
        (StorageInternalError("exceeding max length"), True, "exceeding max length"),
        (sqlalchemy.exc.TimeoutError("no connection in 30 s"), True, "no connection in 30 s"),
        (sqlalchemy.exc.OperationalError("UPDATE x SET p = 'hunter2'", {"p": 1}, OSError("gone")), True, "gone"),
        (sqlalchemy.exc.StatementError("no", "UPDATE", {}, TypeError("no JSON")), False, None),
        (UpdateFinishedTrialError("it ended"), False, "it ended"),
        (TypeError("not JSON"), False, "not JSON"),
        (KeyError("no trial"), False, "'no trial'"),
        (AssertionError(), False, "AssertionError"),
    ],
)
def test_which_errors_mean_that_a_storage_is_away_and_what_is_said_of_them(error, away, said):
    assert is_away(error) is away
    if said is not None:
        assert cause(error) == said


def test_optunas_wrapping_is_looked_through(tmp_path):
    def fail(inner: Exception) -> None:
        try:
            raise inner
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise StorageInternalError("exceeding max length") from error

    lost = sqlalchemy.exc.OperationalError("SELECT 1", {}, sqlite3.OperationalError("the server is gone\nHINT: wait"))
    assert is_away(caught(lambda: fail(lost)))
    assert cause(caught(lambda: fail(lost))) == "the server is gone"
    wrong = sqlalchemy.exc.StatementError("no", "UPDATE", {}, TypeError("no JSON"))
    assert not is_away(caught(lambda: fail(wrong)))


def test_a_cause_has_no_password():
    said = cause(OSError("cannot open postgresql://sp:hun/t@er2@host/db?password=hunter2 passwd=hunter2"))
    assert "hunter2" not in said
    assert "er2" not in said
    assert cause(OSError("bad option hunter2"), ["hunter2"]) == "bad option ***"


@pytest.mark.parametrize("storage", [None, "journal"])
def test_a_file_that_is_deleted_or_replaced_is_noticed(tmp_path, storage):
    url = f"journal://{tmp_path}/study.journal" if storage else None
    half = create_study("one", url, tmp_path).search
    path = tmp_path / "study.journal" if storage else tmp_path / "one" / "study.db"
    watch = FileWatch(path)
    half.ask()
    assert watch.trouble() is None
    content = path.read_bytes()
    # A file made at once after another was deleted often gets its number.
    path.unlink()
    assert watch.trouble() == "gone"
    path.write_bytes(content)
    assert watch.trouble() == "replaced"
    other = tmp_path / "other"
    other.write_bytes(content)
    os.replace(other, path)
    assert watch.trouble() == "replaced"
    assert FileWatch(path).trouble() is None
    watch.close()


def test_a_watch_gives_up_no_lock_of_sqlite(tmp_path):
    """POSIX frees all locks of a process on a file when any of its descriptors of that file is closed."""
    path = tmp_path / "study.db"
    ours = sqlite3.connect(path, isolation_level=None)
    ours.execute("CREATE TABLE a (b)")
    ours.execute("BEGIN EXCLUSIVE")
    FileWatch(path).close()
    code = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute('INSERT INTO a VALUES (1)')"

    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "database is locked" in other.stderr
    ours.close()


def test_there_is_nothing_to_watch_where_there_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        FileWatch(tmp_path / "none")
