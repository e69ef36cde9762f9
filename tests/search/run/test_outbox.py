"""The outbox: what is told waits while the storage is away, comes in order, and is written once."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event

from search.errors import SearchError
from search.run import outbox as module
from search.run.outbox import TOKEN, End, Outbox
from search.study.storage import open_storage
from search.study.writing import Fact, backend


class Absent(InMemoryStorage):
    """A storage that can be away, before a write or between a write and its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.away: OSError | None = None
        self.unanswered = 0
        self.calls: list[str] = []

    def _through(self, name: str, *arguments: Any, **named: Any) -> Any:
        if self.away is not None:
            raise self.away
        self.calls.append(name)
        done = getattr(InMemoryStorage, name)(self, *arguments, **named)
        if self.unanswered:
            self.unanswered -= 1
            raise ConnectionResetError("the server closed the connection")
        return done

    def create_new_trial(self, *arguments: Any, **named: Any) -> int:
        return self._through("create_new_trial", *arguments, **named)

    def set_trial_user_attr(self, *arguments: Any) -> None:
        self._through("set_trial_user_attr", *arguments)

    def set_trial_intermediate_value(self, *arguments: Any) -> None:
        self._through("set_trial_intermediate_value", *arguments)

    def set_trial_state_values(self, *arguments: Any) -> bool:
        return self._through("set_trial_state_values", *arguments)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(module, "NOTICE_SECONDS", 0.1)
    monkeypatch.setattr(module, "GATHER_SECONDS", 0.0)


@pytest.fixture
def storage() -> Absent:
    return Absent()


def template(token: str) -> FrozenTrial:
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime(2026, 1, 1),
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={TOKEN: token},
        system_attrs={},
        intermediate_values={},
    )


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def box(storage: Absent, said: list[str]) -> Iterator[Outbox]:
    made = Outbox(storage, "the study", said.append, patience=60)
    yield made
    made.close(0)


def study_of(storage: BaseStorage) -> optuna.Study:
    return optuna.create_study(storage=storage, study_name="s", direction="maximize", load_if_exists=True)


def test_what_is_told_while_the_storage_is_away_waits_in_order_and_is_written_when_it_is_back(storage, box, said):
    study = study_of(storage)
    trial_id, _ = box.create(study._study_id, template("a")).result(5)
    storage.away = OSError(5, "Input/output error")
    for epoch in (1, 2, 3):
        box.tell(
            Fact(trial_id, "attribute", f"epoch/{epoch}", {"ssim": epoch / 10}), Fact(trial_id, "value", epoch, 0.1)
        )
    box.tell(End(trial_id, TrialState.COMPLETE, (0.3,)))
    assert not box.drain(0.3)
    assert (box.waiting, study.trials[0].user_attrs) == (7, {TOKEN: "a"})
    assert box.away > 0
    storage.away = None
    assert box.drain(5)
    (trial,) = study.trials
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.3, {1: 0.1, 2: 0.1, 3: 0.1})
    assert list(trial.user_attrs) == [TOKEN, "epoch/1", "epoch/2", "epoch/3"]
    assert storage.calls[1:] == [*["set_trial_user_attr", "set_trial_intermediate_value"] * 3, "set_trial_state_values"]
    away, back = said
    assert "the study cannot be written to (Input/output error): trainings go on" in away
    assert "can be written to again" in back
    assert box.away == 0


def test_a_storage_that_stays_away_ends_the_search_with_one_sentence_and_its_innermost_cause(storage, said):
    box = Outbox(storage, "study 's' in postgresql://host/db", said.append, patience=0.2)
    study = study_of(storage)
    storage.away = OSError(111, "Connection refused")
    box.tell(Fact(0, "attribute", "a", 1))
    assert not box.drain(10)
    assert isinstance(box.failure, SearchError)
    text = str(box.failure)
    assert "\n" not in text
    assert text.startswith("study 's' in postgresql://host/db cannot be written to since 0 s: Connection refused")
    assert study.trials == []


def test_a_full_disk_is_waited_for_less_long(storage, said, monkeypatch):
    monkeypatch.setattr(module, "FULL_SECONDS", 0.2)
    box = Outbox(storage, "the study", said.append, patience=600)
    study_of(storage)
    storage.away = OSError(28, "No space left on device")
    began = time.monotonic()
    box.tell(Fact(0, "attribute", "a", 1))
    assert not box.drain(30)
    assert time.monotonic() - began < 10
    assert "No space left on device" in str(box.failure)


def test_a_trial_whose_creation_was_not_answered_is_found_again_and_not_made_twice(storage, box):
    study = study_of(storage)
    storage.unanswered = 1
    assert box.create(study._study_id, template("a")).result(5) == (0, 0)
    assert box.create(study._study_id, template("b")).result(5) == (1, 1)
    assert [trial.user_attrs[TOKEN] for trial in study.trials] == ["a", "b"]


def test_an_end_and_a_fact_that_were_not_answered_are_written_once(storage, box):
    study = study_of(storage)
    trial_id, _ = box.create(study._study_id, template("a")).result(5)
    storage.unanswered = 2
    box.tell(Fact(trial_id, "value", 1, 0.5), End(trial_id, TrialState.PRUNED, (0.5,)))
    assert box.drain(5)
    assert (study.trials[0].state, study.trials[0].value) == (TrialState.PRUNED, 0.5)


def test_a_trial_that_another_process_has_ended_ends_the_search(storage, box):
    study = study_of(storage)
    trial_id, _ = box.create(study._study_id, template("a")).result(5)
    study.tell(0, state=TrialState.FAIL)
    box.tell(End(trial_id, TrialState.COMPLETE, (0.5,)))
    assert not box.drain(5)
    assert "another process has ended trials of this study" in str(box.failure)
    assert study.trials[0].state is TrialState.FAIL


def test_a_fault_of_the_program_is_not_taken_for_a_storage_that_is_away(storage, box, said):
    study = study_of(storage)
    trial_id, _ = box.create(study._study_id, template("a")).result(5)
    box.tell(Fact(trial_id, "value", 1, "no number"))
    assert not box.drain(5)
    assert isinstance(box.failure, ValueError)
    assert said == []


def test_a_trial_that_was_deleted_under_the_search_ends_it_with_a_sentence(storage, box):
    box.tell(Fact(99, "attribute", "a", 1))
    assert not box.drain(5)
    assert isinstance(box.failure, SearchError)
    assert "the study does not have a trial any more that it was given" in str(box.failure)


@pytest.mark.parametrize("away", [False, True])
def test_a_creation_that_is_dropped_leaves_no_trial_open(storage, box, away):
    study = study_of(storage)
    storage.away = OSError(5, "Input/output error") if away else None
    made = box.create(study._study_id, template("a"))
    if not away:
        made.result(5)
    else:
        time.sleep(0.2)
    box.drop(made, lambda trial_id: End(trial_id, TrialState.FAIL))
    storage.away = None
    assert box.close(10)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]


def test_a_file_that_is_gone_ends_the_search_though_nothing_is_to_be_written(storage, said):
    gone: list[str | None] = [None]
    box = Outbox(storage, "the study", said.append, lambda: gone[0])
    assert box.drain(5)
    gone[0] = "study.db was deleted"
    end = time.monotonic() + 10
    while box.failure is None and time.monotonic() < end:
        time.sleep(0.05)
    assert str(box.failure) == "study.db was deleted"


def test_a_heartbeat_that_could_not_be_written_gives_way_to_a_newer_one(storage, box):
    beats: list[int] = []

    def write(number: int) -> None:
        if storage.away is not None:
            raise storage.away
        beats.append(number)

    storage.away = OSError(5, "Input/output error")
    box.beat(lambda: write(1))
    time.sleep(0.2)
    box.beat(lambda: write(2))
    storage.away = None
    end = time.monotonic() + 10
    while not beats and time.monotonic() < end:
        time.sleep(0.02)
    assert beats == [2]


@pytest.mark.parametrize("seed", range(3))
def test_a_database_that_fails_at_any_statement_ends_up_as_one_that_never_did(tmp_path: Path, said, seed):
    rng = random.Random(seed)
    studies = []
    for fails in (0.0, 0.2):
        storage = open_storage(f"sqlite:///{tmp_path / f'{fails}.db'}", create=True)
        study = study_of(storage)
        box = Outbox(storage, "the study", said.append, patience=60)

        def cut(*arguments: object, fails: float = fails) -> None:
            if rng.random() < fails:
                raise sqlite3.OperationalError("disk I/O error")

        event.listen(backend(storage).engine, "before_cursor_execute", cut)
        for number in range(4):
            trial_id, found = box.create(study._study_id, template(f"t{number}")).result(30)
            assert found == number
            for epoch in (1, 2):
                box.tell(Fact(trial_id, "attribute", f"epoch/{epoch}", {"ssim": 0.1 * epoch}))
                box.tell(Fact(trial_id, "value", epoch, 0.1 * epoch))
            box.tell(End(trial_id, TrialState.COMPLETE, (0.2,)))
        assert box.close(60)
        event.remove(backend(storage).engine, "before_cursor_execute", cut)
        studies.append([(one.state, one.value, one.user_attrs, one.intermediate_values) for one in study.trials])
    assert studies[0] == studies[1]
    assert len(studies[0]) == 4


def test_a_heartbeat_that_fails_does_not_repeat_what_was_written_before_it(storage, box):
    study = study_of(storage)
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        if len(beats) < 3:
            raise OSError(5, "Input/output error")

    box.beat(beat)
    assert box.create(study._study_id, template("a")).result(10) == (0, 0)
    assert box.drain(10)
    end = time.monotonic() + 10
    while len(beats) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    assert box.failure is None
    assert storage.calls.count("create_new_trial") == 1


def test_a_terminal_that_is_gone_keeps_nothing_from_being_written(storage):
    def say(text: str) -> None:
        raise SystemExit(1)

    box = Outbox(storage, "the study", say, patience=60)
    study = study_of(storage)
    storage.away = OSError(5, "Input/output error")
    made = box.create(study._study_id, template("a"))
    time.sleep(0.4)
    storage.away = None
    assert made.result(10) == (0, 0)
    assert box.close(10)
