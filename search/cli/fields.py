"""Options that a model declares: a field's type, default and description, offered by the command line from there.

A command names the fields that it offers, and receives those that the user gave. Every other field is reached by
``--set``.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from recon.config import field_names
from recon.errors import InputError, complaint, place, said_of

Model = TypeVar("Model", bound=BaseModel)
Command = Callable[..., None]
PREFIX = "field__"
"""Of the parameters that stand for fields, so that they meet none of a command's own."""


class Offered(NamedTuple):
    """A field that a command offers, and what it calls it."""

    name: str
    """Dotted, such as ``network.layout``."""
    flag: str

    @classmethod
    def of(cls, name: str, flag: str | None = None) -> Offered:
        """With the field's own name as its flag, or another."""
        return cls(name, flag or "--" + name.rsplit(".", 1)[-1].replace("_", "-"))


def offering(model: type[BaseModel], *fields: Offered) -> Callable[[Command], Command]:
    """Give a command the options of a model's fields.

    The command takes ``fields``: a mapping of the dotted names that the user gave to their values.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.name != "fields"]
        options = [_option(model, one) for one in fields]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            found = {one.name: given.pop(option.name) for one, option in zip(fields, options, strict=True)}
            command(**given, fields={name: value for name, value in found.items() if value not in (None, [])})

        run.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in [*own, *options]}
        return run

    return decorate


def _option(model: type[BaseModel], offered: Offered) -> inspect.Parameter:
    field = _field(model, offered.name)
    default = field.get_default(call_default_factory=True)
    kind = _kind(field.annotation)
    # One sentence serves a command line; the reference of fields has the rest.
    text = " ".join((field.description or "").replace("``", "").split()).split(". ")[0].rstrip(".") + "."
    # The option's own default is None, which tells a field that was given from one that was not.
    if default is not None:
        text += f"  [default: {default:g}]" if isinstance(default, float) else f"  [default: {default}]"
    flag = f"{offered.flag}/--no-{offered.flag.removeprefix('--')}" if kind is bool else offered.flag
    option = typer.Option(flag, help=text, show_default=False)
    return inspect.Parameter(
        PREFIX + offered.name.replace(".", "__"),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _field(model: type[BaseModel], name: str) -> FieldInfo:
    *outer, last = name.split(".")
    for part in outer:
        inner = model.model_fields[part].annotation
        assert isinstance(inner, type) and issubclass(inner, BaseModel)  # noqa: PT018
        model = inner
    return model.model_fields[last]


def _kind(annotation: Any) -> Any:
    """What the command line reads for a field: its type without None."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [one for one in get_args(annotation) if one is not type(None)]
        return _kind(kinds[0])
    if get_origin(annotation) is Literal or annotation in (int, float, str, bool):
        return annotation
    raise TypeError(f"no option can be made of {annotation}")


# What the user gave, as the fields of a model


def settings(texts: list[str]) -> dict[str, Any]:
    """``--set NAME=VALUE``, the values read as YAML.

    Raises InputError for a text of another form.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise InputError(f"--set {text!r} is not FIELD=VALUE, such as network.consistency=accelerated")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--set {text!r}: {value!r} is no YAML value") from None
    return found


def file_of_fields(path: Path) -> dict[str, Any]:
    """A YAML or JSON file of fields.

    Raises InputError where it cannot be read or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"--config {path} holds {type(content).__name__}, where fields such as epochs should be")
    return content


def changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with others, by dotted name, put into them."""
    result = dict(base)
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        if not rest:
            result[first] = value
            continue
        inner = result.get(first)
        result[first] = changed(inner if isinstance(inner, Mapping) else {}, {rest: value})
    return result


def merged(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with those of a file put into them, nested or by dotted name."""
    result = dict(base)
    for name, value in given.items():
        inner = result.get(name)
        nested = isinstance(inner, Mapping) and isinstance(value, Mapping) and name != "slices"
        result = changed(result, {name: merged(inner, value) if nested else value})  # type: ignore[arg-type]
    return result


def validated(model: type[Model], content: Mapping[str, Any], flags: Mapping[str, str]) -> Model:
    """A model of what the user gave; what does not fit is one sentence that names the option.

    Args:
        model: what is made.
        content: its fields.
        flags: the option that each given field came from, by dotted name.

    Raises InputError.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        name = place(first["loc"])
        said = complaint(first)
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, field_names(model), 1)
            hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(field_names(model))}"
            said = f"is no field of a training; {hint}"
        flag = flags.get(next((one for one in flags if name == one or name.startswith((f"{one}[", f"{one}."))), ""))
        raise InputError(said_of(flag or name, said)) from error
