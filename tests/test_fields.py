"""Every field of a configuration says what it is, for the command line's help and the reference of fields."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from recon.config import TrainConfig
from recon.data.options import PrepareOptions
from spaces.space import Space


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside an annotation, such as those of ``tuple[Known, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Each field by dotted name with its description, those of models inside it too."""
    for name, field in model.model_fields.items():
        yield prefix + name, field.description
        for inner in models_in(field.annotation):
            yield from fields(inner, f"{prefix}{name}.")


@pytest.mark.parametrize("model", [Space, TrainConfig, PrepareOptions])
def test_every_field_has_a_description_whose_first_sentence_stands_alone(model):
    found = list(fields(model))
    assert len(found) > 20
    for name, description in found:
        assert description, name
        first = description.split("\n\n")[0]
        assert first[0].isupper(), f"{name}: {first}"
        assert first.endswith("."), f"{name}: {first}"
        assert ". " not in first.replace("such as ", ""), f"{name}: one sentence first, found {first}"
        assert description.rstrip().endswith("."), name
