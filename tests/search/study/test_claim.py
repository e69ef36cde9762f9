"""Compare-and-set of the driver: processes that race never both win."""

import json
import subprocess
import sys

import optuna
import pytest

from search.study import journal
from search.study.claim import claim
from search.study.open import create_study
from tests.search.study import postgres

RACERS, TURNS = 3, 10


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/shared.db"
    elif request.param == "journal":
        yield f"journal://{tmp_path}/shared.journal"
    else:
        with postgres.server() as found:
            yield found


def test_who_expects_what_is_there_gets_the_study_and_nobody_else(url, tmp_path):
    study = create_study("one", url, tmp_path)
    half, storage = study.search, study.storage
    assert not claim(storage, half, {"pid": 1}, {"pid": 2}), "nothing is there yet"
    assert claim(storage, half, None, {"pid": 1, "beat": 0.1})
    assert not claim(storage, half, None, {"pid": 2, "beat": 0.2})
    assert not claim(storage, half, {"pid": 1, "beat": 0.2}, {"pid": 2, "beat": 0.2})
    assert study.attributes == {"driver": {"pid": 1, "beat": 0.1}}
    assert claim(storage, half, {"beat": 0.1, "pid": 1}, {"pid": 2, "beat": 0.2}), "the order of names is no matter"
    assert claim(storage, half, {"pid": 2, "beat": 0.2}, None)
    assert claim(storage, half, None, {"pid": 3}), "an attribute that was given up is as one that never was"
    assert study.attributes == {"driver": {"pid": 3}}
    assert study.references.user_attrs == {}


def test_of_processes_that_race_exactly_one_wins_each_time(url, tmp_path):
    study = create_study("one", url, tmp_path)
    racers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.search.study.racer", "one", url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(RACERS)
    ]
    try:
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        for turn in range(TURNS):
            expected = study.attributes.get("driver")
            for racer in racers:
                racer.stdin.write(json.dumps(expected) + "\n")
                racer.stdin.flush()
            said = [racer.stdout.readline() for racer in racers]
            assert sorted(said) == ["lost\n"] * (RACERS - 1) + ["won\n"], f"turn {turn}"
            assert study.attributes["driver"] == {"who": str(said.index("won\n")), "turn": turn}
    finally:
        for racer in racers:
            racer.stdin.close()
            racer.wait(20)


@pytest.mark.parametrize("other", ["before", "after"])
def test_in_a_journal_whose_lock_was_taken_from_a_sleeper_the_order_of_lines_decides(tmp_path, monkeypatch, other):
    """Another process takes the lock while this one sleeps, between its look and its write or after its write."""
    url = f"journal://{tmp_path}/study.journal"
    ours, theirs = (create_study("one", url, tmp_path) for _ in range(2))
    append, results = journal.JournalFile.append, []

    def sleepy(self, logs):
        monkeypatch.setattr(journal.JournalFile, "append", append)
        if other == "after":
            append(self, logs)
        self._lock.release()
        results.append(claim(theirs.storage, theirs.search, None, {"who": "they"}))
        self._lock.acquire()
        return append(self, logs) if other == "before" else None

    monkeypatch.setattr(journal.JournalFile, "append", sleepy)
    results.append(claim(ours.storage, ours.search, None, {"who": "we"}))
    assert results == ([True, False] if other == "before" else [False, True])
    winner = {"driver": {"who": "they" if other == "before" else "we"}}
    assert ours.attributes == theirs.attributes == winner


def test_in_memory_it_is_the_same(tmp_path):
    half = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    assert claim(half._storage, half, None, 1)
    assert not claim(half._storage, half, None, 2)
    assert claim(half._storage, half, 1, 2)
    assert half.user_attrs == {"driver": 2}
