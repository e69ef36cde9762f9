"""The exception for mistakes that a user can fix, its kinds, and pydantic's errors as sentences for it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class InputError(ValueError):
    """Wrong input, said in one sentence: the file or field, the value found, and what would be right.

    The command line prints the sentence and exits with code 2; everything else that is raised is a failure of ours
    or of the machine and exits with code 1.
    """


class DamagedError(InputError):
    """A checkpoint that is missing, cut off, changed since it was written, or none of ours.

    Whoever continues a training from it begins anew and says so.
    """


class DataError(InputError):
    """Prepared data that cannot be read: the sentence names the file and the cause.

    It is the fault of the data or of the machine, and not of what is trained on them.
    """


_KINDS = {
    "tuple_type": "must be a list such as [4]",
    "list_type": "must be a list such as [4]",
    "dict_type": "must hold named fields, such as {name: value}",
    "model_type": "must hold named fields, such as {name: value}",
    "model_attributes_type": "must hold named fields, such as {name: value}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}
"""Pydantic's complaints about types, in the words of YAML and JSON in place of Python's."""
LONGEST = 80
"""Characters of a value that a sentence repeats."""
_WHOLE = ("value_error", "union_tag_not_found", "json_invalid")
"""Complaints that need no value found beside them."""


def complaint(fault: ErrorDetails) -> str:
    """One of pydantic's complaints without its place: what is wrong, and the value found."""
    kind, message = fault["type"], fault["msg"].removeprefix("Value error, ").rstrip(".")
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is no known field"
    if kind == "union_tag_invalid":
        said = fault["ctx"]
        return f"{said['discriminator'].strip(chr(39))} is {said['tag']!r}, which is none of {said['expected_tags']}"
    if kind in _WHOLE:
        return message
    if message.startswith("Input should "):
        message = "must " + message.removeprefix("Input should ")
    message = _KINDS.get(kind, f"{message[0].lower()}{message[1:]}")
    return f"{message}; found {_found(fault.get('input'))}"


def said_of(where: str, complaint: str) -> str:
    """A complaint as a sentence about a field or an option; the complaint alone where there is none."""
    if not where:
        return complaint
    return f"{where} {complaint}" if complaint.startswith(("is ", "must ")) else f"{where}: {complaint}"


def place(location: Iterable[int | str]) -> str:
    """A field's place as a file has it: ``grid.rows[0].layout``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def sentence(error: ValidationError) -> str:
    """Pydantic's first complaint with its place: ``trials must be a whole number; found 'many'``."""
    first = error.errors()[0]
    return said_of(place(first["loc"]), complaint(first))


def _found(value: Any) -> str:
    """A value as JSON writes it, where it can."""
    try:
        text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
