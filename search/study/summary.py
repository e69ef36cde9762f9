"""Summaries: what a table shows of a searched trial, without its curve, so that ten thousand are read in a second.

A database is asked for that alone, in a few queries. Other storages are read whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from optuna.storages import RDBStorage
from optuna.storages._rdb import models

from recon.config import TrainConfig
from search.study.open import OpenStudy
from search.study.record import EPOCH_ATTRIBUTE, STATES, Fault, Kind, Named, Record, Stage, State
from search.study.writing import backend


@dataclass(eq=False)
class Summary(Named):
    """One trial without its curve: the fields of ``Record`` that a table shows, with the same meaning."""

    number: int
    state: State
    kind: Kind
    stage: Stage
    layout: str
    weighting: str | None
    scarce_slices: int | None
    slices: dict[str, int]
    seed: int
    key: str
    epochs: int
    metrics: dict[str, float]
    """The metrics of the last epoch; empty if none was finished."""
    node: str | None
    checkpoint: str | None
    error: str | None
    fault: Fault | None
    diverged: bool
    continues: int | None
    closed: str | None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the trial trains."""
        return tuple(self.slices)

    @classmethod
    def of(cls, record: Record) -> Summary:
        """The summary of a whole record."""
        return cls(**{name: getattr(record, name) for name in cls.__dataclass_fields__})


_TEXTS = (
    *("kind", "stage", "layout", "weighting", "scarce_slices", "slices", "seed", "key"),
    *("node", "checkpoint", "error", "fault", "diverged", "continues", "closed"),
)
"""Attributes of a trial that are fields of its summary. Those in the second line are missing where there is nothing to
say."""


def summaries(study: OpenStudy) -> list[Summary]:
    """The searched trials in order.

    Raises InputError where another version wrote one.
    """
    storage = backend(study.storage)
    if not isinstance(storage, RDBStorage):
        return [Summary.of(record) for record in study.searched()]
    with study.readable():
        return _read(storage, study.search._study_id)


def _read(storage: RDBStorage, study_id: int) -> list[Summary]:
    trials, attributes = models.TrialModel.__table__, models.TrialUserAttributeModel.__table__
    mine = trials.c.study_id == study_id
    of_trial = attributes.join(trials, attributes.c.trial_id == trials.c.trial_id)
    name, text = attributes.c.key, attributes.c.value_json
    own = attributes.c.trial_id == trials.c.trial_id
    texts = [sqlalchemy.select(text).where(own, name == key).scalar_subquery() for key in (*_TEXTS, "config")]
    about = sqlalchemy.select(trials.c.trial_id, trials.c.number, trials.c.state, *texts).where(mine)
    about = about.order_by(trials.c.number)
    epoch = sqlalchemy.cast(sqlalchemy.func.substr(name, len(EPOCH_ATTRIBUTE) + 1), sqlalchemy.Integer)
    last = sqlalchemy.select(attributes.c.trial_id, sqlalchemy.func.max(epoch).label("epoch")).select_from(of_trial)
    last = last.where(mine, name.like(f"{EPOCH_ATTRIBUTE}%")).group_by(attributes.c.trial_id)
    ends = last.subquery()
    end_name = sqlalchemy.literal(EPOCH_ATTRIBUTE).concat(sqlalchemy.cast(ends.c.epoch, sqlalchemy.String))
    end = sqlalchemy.select(ends.c.trial_id, ends.c.epoch, text).join(
        attributes, (attributes.c.trial_id == ends.c.trial_id) & (name == end_name)
    )
    with storage.engine.connect() as connection:
        metrics = {trial_id: (at, json.loads(one)) for trial_id, at, one in connection.execute(end).all()}
        # A trial whose driver died between creating and describing it has no configuration, and is left out.
        rows = [row for row in connection.execute(about).all() if row[-1] is not None]
    _check({row[-1] for row in rows})
    values: dict[str | None, Any] = {None: None}  # most texts are equal from trial to trial
    for written in {one for row in rows for one in row[3:-1] if one is not None}:
        values[written] = json.loads(written)
    found: list[Summary] = []
    for trial_id, number, state, *said, _ in rows:
        fields = {key: values[one] for key, one in zip(_TEXTS, said, strict=True)}
        fields["diverged"] = bool(fields["diverged"])
        epochs, last_metrics = metrics.get(trial_id, (0, {}))
        found.append(Summary(number=number, state=STATES[state], epochs=epochs, metrics=last_metrics, **fields))
    return found


def _check(configs: Iterable[str]) -> None:
    """Raise pydantic's ValidationError for a configuration with fields of another version. One of each shape is looked
    at, for no value is shown."""
    shapes: set[Any] = set()
    for config in map(json.loads, configs):
        shape = _shape(config)
        if shape not in shapes:
            TrainConfig.model_validate(config)
            shapes.add(shape)


def _shape(found: Any) -> Any:
    return tuple((name, _shape(found[name])) for name in found) if isinstance(found, dict) else None
