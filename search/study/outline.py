"""The outline of a study's trials: enough to count them, without reading what they recorded.

Whole trials of a long study take seconds to read: each has some thirty attributes. In a database an outline takes four
queries, however many epochs were recorded.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import NamedTuple

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import func, select

from search.study.writing import backend


class Outline(NamedTuple):
    """One trial that was described in full."""

    trial_id: int
    """Optuna's id, which is unique in the storage."""
    number: int
    state: TrialState
    ended: datetime | None
    """In local time, without a time zone."""
    epochs: int
    """The last epoch with a value."""
    closed: str | None
    """Why it was closed without finishing."""
    continues: int | None
    """The number of the trial that it continues."""


def outlines(storage: BaseStorage, half: optuna.Study) -> list[Outline]:
    """The trials of one half of a study, by number. A trial whose driver died before it described it is left out.

    Args:
        storage: the study's.
        half: the searched trials, or the references.
    """
    database = backend(storage)
    if isinstance(database, RDBStorage):
        return _of_database(database, half._study_id)
    return [
        Outline(
            trial._trial_id,
            trial.number,
            trial.state,
            trial.datetime_complete,
            max(trial.intermediate_values, default=0),
            trial.user_attrs.get("closed"),
            trial.user_attrs.get("continues"),
        )
        for trial in half.get_trials(deepcopy=False)
        if "config" in trial.user_attrs
    ]


def _of_database(database: RDBStorage, study_id: int) -> list[Outline]:
    tables = models.BaseModel.metadata.tables
    trial, attribute = tables["trials"].c, tables["trial_user_attributes"].c
    value = tables["trial_intermediate_values"].c
    mine = trial.study_id == study_id
    of_trial = attribute.trial_id == trial.trial_id
    named = select(attribute.trial_id, attribute.key, attribute.value_json).join(tables["trials"], of_trial).where(mine)
    with database.engine.connect() as connection:
        trials = connection.execute(
            select(trial.trial_id, trial.number, trial.state, trial.datetime_complete)
            .where(mine)
            .order_by(trial.number)
        ).all()
        described = set(
            connection.scalars(
                select(attribute.trial_id).join(tables["trials"], of_trial).where(mine, attribute.key == "config")
            )
        )
        about = {
            (one.trial_id, one.key): json.loads(one.value_json)
            for one in connection.execute(named.where(attribute.key.in_(("closed", "continues"))))
        }
        last = (
            select(value.trial_id, func.max(value.step))
            .join(tables["trials"], value.trial_id == trial.trial_id)
            .where(mine)
        )
        epochs: dict[int, int] = {one[0]: one[1] for one in connection.execute(last.group_by(value.trial_id))}
    return [
        Outline(
            trial_id,
            number,
            state,
            ended,
            epochs.get(trial_id, 0),
            about.get((trial_id, "closed")),
            about.get((trial_id, "continues")),
        )
        for trial_id, number, state, ended in trials
        if trial_id in described
    ]
