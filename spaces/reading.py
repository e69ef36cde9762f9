"""Reading spaces: from YAML with errors that name file and field, and as a study has stored them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from recon.errors import InputError, complaint, place, said_of
from spaces.parts import Unroll
from spaces.space import Space


def shipped() -> list[str]:
    """Names of the spaces that come with Splitpoint."""
    return sorted(file.name for file in resources.files("spaces").iterdir() if file.name.endswith(".yaml"))


def load_space(path: str | Path) -> Space:
    """Read a space from a YAML file; ``quickstart.yaml`` and its like, where no such file exists, are the shipped ones.

    Raises:
        InputError: no such file, no YAML, or a field at fault; the sentence names file and field.
    """
    path = Path(path)
    name = path.name if path.suffix else f"{path.name}.yaml"
    if not path.is_file() and (path.parent == Path() or path.parent.name == "spaces") and name in shipped():
        text = (resources.files("spaces") / name).read_text()
    else:
        try:
            text = path.read_text()
        except FileNotFoundError:
            raise InputError(f"there is no space {path}; shipped are {', '.join(shipped())}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
    return parse_space(text, str(path))


def parse_space(text: str, name: str = "space") -> Space:
    """Read a space from YAML text; ``name`` is what errors call it."""
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"{name} is not YAML{place}: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{name} is no space: it holds {type(content).__name__}, where fields such as tasks and trials should be"
        )
    try:
        return Space.model_validate(content)
    except ValidationError as error:
        faults = error.errors()
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(f"{name}: {_sentence(faults[0])}{more}") from None


def stored_space(content: Mapping[str, Any]) -> Space:
    """Read a space that a study has stored, of an earlier version too.

    Before ``start`` there was, every trial started at random; before ``baselines.hyperparameters``, every baseline was
    trained with the values of ``training`` and ``unroll``.
    """
    if "start" in content:
        return Space.model_validate(content)
    fixed = {**content.get("training", {})}
    fixed |= {f"network.{name}": value for name, value in Unroll(**content.get("unroll", {})).model_dump().items()}
    searched = [name for name in content.get("hyperparameters", {}) if not name.startswith("weighting.")]
    baselines = content.get("baselines", {}) | {"hyperparameters": {name: [fixed[name]] for name in searched}}
    return Space.model_validate({**content, "start": {"init": "random"}, "baselines": baselines})


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, where PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _sentence(fault: Any) -> str:
    # The tag of a discriminated union stands in the location, but not in the user's file.
    location = [part for index, part in enumerate(fault["loc"]) if not (index == 1 and fault["loc"][0] == "layouts")]
    field = place(location)
    if fault["type"] == "extra_forbidden":
        return _unknown(location, field)
    return said_of(field, complaint(fault))


def _unknown(location: list[Any], field: str) -> str:
    model: Any = Space
    for part in location[:-1]:
        if isinstance(part, str) and model is not None:
            model = _model_of(model.model_fields[part].annotation) if part in model.model_fields else None
    known = sorted(model.model_fields) if model is not None else []
    near = difflib.get_close_matches(str(location[-1]), known, 1)
    hint = f"; did you mean {near[0]}?" if near else f"; known here are {', '.join(known)}" if known else ""
    return f"{field} is an unknown key{hint}"


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The one model inside an annotation such as ``X | None`` or ``tuple[X, ...]``; None where there is none or a
    choice."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [found for part in getattr(annotation, "__args__", ()) if (found := _model_of(part)) is not None]
    return inner[0] if len(inner) == 1 else None
