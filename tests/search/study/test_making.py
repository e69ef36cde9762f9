"""A database is made once, however many processes open it at the same moment; a reader makes none."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from recon.errors import InputError
from search.study.open import create_study, open_study


def test_a_reader_of_a_database_that_is_being_made_makes_nothing_in_it(tmp_path: Path):
    path = tmp_path / "one" / "study.db"
    path.parent.mkdir()
    sqlite3.connect(path).close()
    path.touch()
    with pytest.raises(InputError, match="holds no study yet"):
        open_study("one", None, tmp_path)
    assert path.stat().st_size == 0
    create_study("one", None, tmp_path)
    assert open_study("one", None, tmp_path).name == "one"


def make(folder: str, ready: multiprocessing.Barrier, number: int) -> None:
    ready.wait(60)
    create_study(f"s{number}", f"sqlite:///{folder}/common.db", Path(folder))


def test_processes_that_make_the_same_database_at_once_all_succeed(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(4)
    makers = [context.Process(target=make, args=(str(tmp_path), ready, number)) for number in range(4)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    assert [maker.exitcode for maker in makers] == [0, 0, 0, 0]
    for number in range(4):
        assert open_study(f"s{number}", f"sqlite:///{tmp_path}/common.db", tmp_path).name == f"s{number}"
