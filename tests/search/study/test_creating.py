"""A trial is made in one step, and looks to Optuna as if Optuna had made it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event

from search.study.storage import open_storage
from search.study.writing import backend, create


def template() -> FrozenTrial:
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime(2026, 1, 2, 3, 4, 5),
        datetime_complete=None,
        params={"b01": "V", "rate": 1e-3},
        distributions={
            "b01": CategoricalDistribution(["I", "Y", "V"]),
            "rate": FloatDistribution(1e-4, 1e-2, log=True),
        },
        user_attrs={"key": "a", "epoch/1": {"ssim": 0.1 + 0.2}, "config": {"tasks": ["PDw"]}},
        system_attrs={},
        intermediate_values={1: 0.1 + 0.2, 2: float("inf")},
    )


@pytest.fixture(params=["sqlite", "journal", "memory"])
def storage(request, tmp_path) -> BaseStorage:
    urls = {"sqlite": f"sqlite:///{tmp_path / 's.db'}", "journal": f"journal://{tmp_path / 's.journal'}"}
    return InMemoryStorage() if request.param == "memory" else open_storage(urls[request.param], create=True)


def test_a_trial_made_at_once_is_what_optuna_makes_of_the_same_template(storage):
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    optuna.create_study(storage=storage, study_name="other").ask()
    made = [create(storage, study._study_id, template()) for _ in range(2)]
    theirs = storage.create_new_trial(study._study_id, template_trial=template())
    assert [number for _, number in made] == [0, 1]
    expected = storage.get_trial(theirs)
    for trial_id, number in made:
        found = storage.get_trial(trial_id)
        assert (found.number, found._trial_id) == (number, trial_id)
        for name in ("state", "params", "distributions", "user_attrs", "intermediate_values", "datetime_start"):
            assert getattr(found, name) == getattr(expected, name), name
    study.tell(0, 0.5)
    assert study.best_trial.params == template().params


def test_a_trial_whose_making_is_cut_at_any_statement_is_not_there(tmp_path: Path):
    storage = open_storage(f"sqlite:///{tmp_path / 's.db'}", create=True)
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    left: list[int] = [0]

    def cut(*arguments: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError("the power is gone")

    event.listen(backend(storage).engine, "before_cursor_execute", cut)
    for statements in range(1, 20):
        left[0] = statements
        try:
            create(storage, study._study_id, template())
        except OSError:
            left[0] = 0
            assert study.get_trials() == []
        else:
            break
    assert statements > 5
    left[0] = 0
    assert [trial.user_attrs["key"] for trial in study.get_trials()] == ["a"]
