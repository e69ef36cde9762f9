"""What a driver needs of a storage beside Optuna's methods: several facts in one transaction, whether an error means
that the storage is away, and whether its file is still there.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import sqlalchemy
import sqlalchemy.exc
import sqlalchemy.orm
from optuna.distributions import distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy.dialects import postgresql, sqlite


class Fact(NamedTuple):
    """One fact about a running trial."""

    trial_id: int
    """Optuna's id, which is unique in the storage; not the trial's number."""
    kind: Literal["attribute", "value", "system"]
    """``attribute``: a user attribute; ``value``: an intermediate value."""
    key: str | int
    """Name of the attribute, or step of the value."""
    value: Any
    """What JSON can hold, or a float."""


def write(storage: BaseStorage, facts: Iterable[Fact]) -> None:
    """Write facts of running trials in their order: all or none in a database, one by one elsewhere.

    Writing the same facts twice leaves the same study, so a caller that does not know whether a write arrived repeats
    it.

    Raises:
        UpdateFinishedTrialError: a trial has ended.
        KeyError: the storage has no such trial.
        Exception: whatever the storage raises; ``is_away`` tells whether it may come back.
    """
    facts = list(facts)
    database = backend(storage)
    if facts and isinstance(database, RDBStorage) and database.engine.name in _UPSERTS:
        _write_at_once(database, facts)
        return
    for fact in facts:
        if fact.kind == "system":
            storage.set_trial_system_attr(fact.trial_id, str(fact.key), fact.value)
        elif fact.kind == "attribute":
            storage.set_trial_user_attr(fact.trial_id, str(fact.key), fact.value)
        else:
            storage.set_trial_intermediate_value(fact.trial_id, int(fact.key), float(fact.value))


def create(storage: BaseStorage, study_id: int, template: FrozenTrial) -> tuple[int, int]:
    """Make a running trial with the parameters, attributes and intermediate values of a template, in one step.

    Args:
        storage: the study's.
        study_id: Optuna's id of the study.
        template: in state RUNNING, without system attributes.

    Returns:
        The trial's id and number.

    Raises:
        Exception: whatever the storage raises; ``is_away`` tells whether it may come back. Whether the trial was made
            is then not known.
    """
    database = backend(storage)
    if not (isinstance(database, RDBStorage) and database.engine.name in _UPSERTS):
        trial_id = storage.create_new_trial(study_id, template_trial=template)
        return trial_id, storage.get_trial_number_from_id(trial_id)
    # Optuna's own method asks the database for the trial before each attribute, which takes ten times as long.
    with sqlalchemy.orm.Session(database.engine) as session, session.begin():
        models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)  # numbers follow each other
        trial = models.TrialModel(study_id=study_id, state=template.state, datetime_start=template.datetime_start)
        session.add(trial)
        session.flush()
        trial.number = trial.count_past_trials(session)
        trial_id, number = int(trial.trial_id), int(trial.number)
        parameters = [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": distribution.to_internal_repr(template.params[name]),
                "distribution_json": distribution_to_json(distribution),
            }
            for name, distribution in template.distributions.items()
        ]
        attributes = [
            {"trial_id": trial_id, "key": name, "value_json": json.dumps(value)}
            for name, value in template.user_attrs.items()
        ]
        stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
        values = []
        for step, value in template.intermediate_values.items():
            amount, sort = stored(value)
            row = {"trial_id": trial_id, "step": step, "intermediate_value": amount, "intermediate_value_type": sort}
            values.append(row)
        for model, rows in (
            (models.TrialParamModel, parameters),
            (models.TrialUserAttributeModel, attributes),
            (models.TrialIntermediateValueModel, values),
        ):
            if rows:
                session.execute(sqlalchemy.insert(model.__table__), rows)
    return trial_id, number


_UPSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""Databases that can insert or update a row in one statement, and how it is said."""


def _write_at_once(database: RDBStorage, facts: Iterable[Fact]) -> None:
    """Write to Optuna's tables in one transaction. Its own methods load a trial from the database for each fact, which
    takes most of their time."""
    stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    # The last of equal facts counts: a statement cannot update a row twice.
    attributes: dict[tuple[int, str], dict[str, Any]] = {}
    system: dict[tuple[int, str], dict[str, Any]] = {}
    values: dict[tuple[int, int], dict[str, Any]] = {}
    for trial_id, kind, key, value in facts:
        row: dict[str, Any] = {"trial_id": trial_id}
        if kind == "system":
            system[trial_id, str(key)] = row | {"key": str(key), "value_json": json.dumps(value)}
        elif kind == "attribute":
            attributes[trial_id, str(key)] = row | {"key": str(key), "value_json": json.dumps(value)}
        else:
            number, sort = stored(float(value))
            row |= {"step": int(key), "intermediate_value": number, "intermediate_value_type": sort}
            values[trial_id, int(key)] = row
    wanted = sorted({trial_id for trial_id, *_ in (*attributes, *system, *values)})
    trials = models.TrialModel.__table__
    with database.engine.begin() as connection:
        select = sqlalchemy.select(trials.c.trial_id, trials.c.state).where(trials.c.trial_id.in_(wanted))
        states = {row.trial_id: row.state for row in connection.execute(select)}
        for trial_id in wanted:
            if trial_id not in states:
                raise KeyError(f"the storage has no trial with the id {trial_id}")
            database.check_trial_is_updatable(trial_id, states[trial_id])
        for model, identity, rows in (
            (models.TrialUserAttributeModel, ("trial_id", "key"), attributes),
            (models.TrialSystemAttributeModel, ("trial_id", "key"), system),
            (models.TrialIntermediateValueModel, ("trial_id", "step"), values),
        ):
            if rows:
                connection.execute(_upsert(database.engine.name, model.__table__, identity), list(rows.values()))


@lru_cache
def _upsert(dialect: str, table: sqlalchemy.Table, identity: tuple[str, ...]) -> Any:
    insert = _UPSERTS[dialect](table)
    key = next(iter(table.primary_key.columns)).name
    changed = {one.name: insert.excluded[one.name] for one in table.columns if one.name not in (*identity, key)}
    return insert.on_conflict_do_update(index_elements=list(identity), set_=changed)


def backend(storage: BaseStorage) -> BaseStorage:
    """The storage itself, without the cache that Optuna puts before a database."""
    return storage._backend if isinstance(storage, _CachedStorage) else storage


_AWAY = (
    sqlalchemy.exc.DBAPIError,
    sqlalchemy.exc.DisconnectionError,
    sqlalchemy.exc.TimeoutError,
    sqlalchemy.exc.PendingRollbackError,
    sqlite3.Error,
    StorageInternalError,
    OSError,
)


def is_away(error: BaseException) -> bool:
    """Whether an exception means that the storage failed or is away, so that the same write may succeed later.

    A database that is restarted, a full disk, a locked or missing file are away. A write that no storage would take (a
    trial that has ended, a value that JSON cannot hold) is a fault of the caller.
    """
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        return is_away(error.__cause__)
    return isinstance(error, _AWAY)


_CREDENTIALS = re.compile(r"(?<=://)\S*(?=@)|(?i:(?<=password=)|(?<=passwd=)|(?<=pwd=))[^\s&'\"]+")


def cause(error: BaseException, secrets: Iterable[str] = ()) -> str:
    """The innermost cause of a storage's error in one line: without SQL, its parameters, and passwords.

    Args:
        error: the exception.
        secrets: texts to leave out, such as the password in the storage's URL.
    """
    *_, inner = _chain(error)
    if isinstance(inner, OSError) and inner.strerror:
        text = f"{inner.filename}: {inner.strerror}" if inner.filename else inner.strerror
    else:
        text = str(inner)
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    lines = [line.strip() for line in _CREDENTIALS.sub("***", text).splitlines()]
    return next(filter(None, lines), type(inner).__name__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it wraps; a driver's own exception is the last."""
    following: BaseException | None = error
    while following is not None:
        yield following
        if isinstance(following, sqlalchemy.exc.DBAPIError):
            following = following.orig
        elif isinstance(following, (StorageInternalError, sqlalchemy.exc.SQLAlchemyError)):
            following = following.__cause__ or following.__context__
        else:
            following = following.__cause__


class FileWatch:
    """Tells whether the file at a path is still the one that was there at first.

    On Linux the first file is kept from being freed, so that no later file gets its number.

    Args:
        path: of a storage's file.

    Raises OSError where there is none.
    """

    _held: int | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        # Another kind of descriptor would, when closed, give up the locks that SQLite holds on the file.
        self._held = os.open(path, os.O_PATH) if hasattr(os, "O_PATH") else None
        self._first = self._number()

    def trouble(self) -> Literal["gone", "replaced"] | None:
        """What happened to the file; None if it is in its place. Costs one look at the folder's entry.

        Raises OSError where the file system does not answer.
        """
        try:
            return None if self._number() == self._first else "replaced"
        except (FileNotFoundError, NotADirectoryError):
            return "gone"

    def close(self) -> None:
        """Let go of the first file."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def __del__(self) -> None:
        self.close()

    def _number(self) -> tuple[int, int]:
        found = os.stat(self.path)
        return found.st_dev, found.st_ino
