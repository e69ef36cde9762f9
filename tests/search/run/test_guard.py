"""The guard: a study's file that is deleted is put back, one that is replaced is saved beside, and either is said."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

import optuna
import pytest

from search.run.guard import Guard
from search.study.address import file_of
from search.study.storage import open_storage


def urls(folder: Path) -> dict[str, str]:
    return {"sqlite": f"sqlite:///{folder / 'study.db'}", "journal": f"journal://{folder / 'study.journal'}"}


@pytest.fixture(params=["sqlite", "journal"])
def url(request, tmp_path) -> str:
    return urls(tmp_path)[request.param]


def add(study: optuna.Study, *values: float) -> None:
    for value in values:
        study.tell(study.ask(), value)


def values(url: str) -> list[float]:
    return [trial.value for trial in optuna.load_study(study_name="s", storage=open_storage(url)).trials]


def test_a_deleted_file_is_put_back_with_what_was_written_until_then(url):
    study = optuna.create_study(study_name="s", storage=open_storage(url, create=True))
    add(study, 0.1, 0.2)
    with Guard(url) as guard:
        assert guard.look() is None
        add(study, 0.3)
        path = file_of(url)
        for one in path.parent.glob(f"{path.name}*"):
            one.unlink()
        said = guard.look()
        assert "was deleted while the search ran, and was put back with all that it held" in said
        assert guard.look() == said
    assert values(url) == [0.1, 0.2, 0.3]


def test_the_empty_file_that_sqlite_makes_in_its_place_counts_as_deleted(tmp_path):
    url = urls(tmp_path)["sqlite"]
    add(optuna.create_study(study_name="s", storage=open_storage(url, create=True)), 0.1)
    with Guard(url) as guard:
        path = file_of(url)
        for one in path.parent.glob(f"{path.name}*"):
            one.unlink()
        with contextlib.closing(sqlite3.connect(path)) as connection, contextlib.suppress(sqlite3.Error):
            connection.execute("SELECT * FROM studies")
        assert path.stat().st_size == 0
        assert "was deleted" in guard.look()
    assert values(url) == [0.1]


def test_what_a_replaced_file_held_is_saved_beside_and_the_new_one_stays(url, tmp_path):
    study = optuna.create_study(study_name="s", storage=open_storage(url, create=True))
    add(study, 0.1)
    other = urls(tmp_path / "other")[url.split(":")[0]]
    add(optuna.create_study(study_name="s", storage=open_storage(other, create=True)), 0.9)
    if url.startswith("sqlite"):  # what is in the log beside the file comes into it
        with contextlib.closing(sqlite3.connect(file_of(other))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = file_of(url)
    with Guard(url) as guard:
        add(study, 0.2)
        for one in path.parent.glob(f"{path.name}-*"):
            one.unlink()
        os.replace(shutil.copy(file_of(other), tmp_path / "fresh"), path)
        assert "was replaced by another file" in guard.look()
    (saved,) = tmp_path.glob("study-rescued-*")
    assert values(f"{url.split('://')[0]}://{'/' if url.startswith('sqlite') else ''}{saved}") == [0.1, 0.2]
    assert path.read_bytes() == file_of(other).read_bytes()


def test_a_server_needs_no_guard():
    with Guard("postgresql://user@host/db") as guard:
        assert guard.look() is None
