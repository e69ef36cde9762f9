"""Compare-and-set: of several drivers without a common lock, one gets the study."""

from __future__ import annotations

import json
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages._rdb import models

from search.study.journal import JournalFile, claim_in_journal
from search.study.writing import backend

DRIVER = "driver"
"""The study's attribute that says who runs it; None or absent where nobody does."""


def claim(storage: BaseStorage, study: optuna.Study, expected: Any, new: Any, key: str = DRIVER) -> bool:
    """Replace a study's attribute, if it still is what the caller has read; all in one step.

    Of callers that expect the same value, at most one succeeds, whatever processes and hosts they are in, as long as
    each writes a value that differs from ``expected``.

    Args:
        storage: of the study.
        study: the study, or its searched half.
        expected: the value that was read; None also stands for an attribute that was never written.
        new: the value to write, as JSON can hold it.
        key: the attribute.

    Returns:
        Whether the attribute was replaced.

    Raises:
        TypeError: the storage has no such step.
        Exception: whatever the storage raises. The caller then does not know whether it succeeded, and reads the
            attribute to find out.
    """
    store, study_id = backend(storage), study._study_id
    if isinstance(store, RDBStorage):
        return _claim_in_database(store, study_id, key, expected, new)
    if isinstance(store, JournalStorage) and isinstance(store._backend, JournalFile):
        return claim_in_journal(store, study_id, key, expected, new)
    if isinstance(store, InMemoryStorage):
        with store._lock:
            if store._studies[study_id].user_attrs.get(key) != expected:
                return False
            store.set_study_user_attr(study_id, key, new)
            return True
    raise TypeError(f"{type(store).__name__} cannot compare and set")


def _claim_in_database(database: RDBStorage, study_id: int, key: str, expected: Any, new: Any) -> bool:
    """A row is updated where it still has the very text that was read, or inserted where it is unique: the database
    decides who is first."""
    table = models.StudyUserAttributeModel.__table__
    row = (table.c.study_id == study_id) & (table.c.key == key)
    with database.engine.connect() as connection:
        found = connection.execute(sqlalchemy.select(table.c.value_json).where(row)).scalar_one_or_none()
        connection.rollback()
        if (None if found is None else json.loads(found)) != expected:
            return False
        text = json.dumps(new)
        if found is not None:
            update = sqlalchemy.update(table).where(row, table.c.value_json == found).values(value_json=text)
            won = connection.execute(update).rowcount == 1
        else:
            try:
                connection.execute(sqlalchemy.insert(table).values(study_id=study_id, key=key, value_json=text))
            except sqlalchemy.exc.IntegrityError:
                return False
            won = True
        connection.commit()
    return won
