"""Make the reference of fields from the models: docs/fields.md and spaces/space.schema.json.

    python docs/make_reference.py

Both files are committed, and a test compares them with what this script makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from recon.config import TrainConfig
from recon.data.options import PrepareOptions
from spaces.space import Space

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "spaces" / "space.schema.json"
PAGE = ROOT / "docs" / "fields.md"

INTRODUCTION = """\
# Fields

This page is made from the models by `python docs/make_reference.py`. It lists every field of [a space](#a-space),
of [a training](#a-training) and of [the preparation](#the-preparation). An unknown field is an error; the message names
the nearest known one.

## A space

A space is a YAML file that `splitpoint launch` searches. Four come with the package: `quickstart.yaml`,
`paper-small.yaml`, `paper.yaml` and `full.yaml`.

An editor with a YAML language server (VS Code, Neovim, JetBrains and others) completes and checks a space by its JSON
Schema. The schema comes with the package as `spaces/space.schema.json`. The first line of a space names it. In the
shipped spaces this is a relative path:

```yaml
# yaml-language-server: $schema=space.schema.json
```

A space of your own needs the path of the installed schema. This command prints the line for it:

```sh
python -c "import spaces; print('# yaml-language-server: \\$schema=' + spaces.__path__[0] + '/space.schema.json')"
```
"""
TRAINING = """\
## A training

These are the fields of `recon.config.TrainConfig`. `splitpoint train --set FIELD=VALUE` and `--config FILE` take them,
and a space searches them under `hyperparameters`. A field inside another has a dotted name, such as `network.pools`.
"""
PREPARATION = """\
## The preparation

These are the fields of `recon.data.options.PrepareOptions`, which `splitpoint prepare` takes as options.
"""


def schema() -> str:
    """The JSON Schema of a space, as a text."""
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Space.model_json_schema()}
    return json.dumps(_as_yaml_has_it(made), indent=1, ensure_ascii=False) + "\n"


def page() -> str:
    """The reference of fields, in Markdown."""
    sections = Sections()
    parts = [INTRODUCTION, *sections.of(Space, ""), TRAINING, *sections.of(TrainConfig, " of a training")]
    return "\n".join([*parts, PREPARATION, *sections.of(PrepareOptions, " of the preparation")])


def _as_yaml_has_it(value: Any) -> Any:
    """Descriptions in Markdown, with YAML's null."""
    if isinstance(value, dict):
        return {name: _as_yaml_has_it(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_as_yaml_has_it(inner) for inner in value]
    return value.replace("``", "`").replace("None: ", "`null`: ") if isinstance(value, str) else value


class Sections:
    """A section for each model, where it first stands; later uses link there."""

    def __init__(self) -> None:
        self._titles: dict[str, str] = {}
        self._definitions: dict[str, Any] = {}

    def of(self, model: type[BaseModel], of_what: str) -> Iterator[str]:
        """The sections of a model and of the models inside it."""
        found: dict[str, Any] = _as_yaml_has_it(model.model_json_schema())
        self._definitions = found.get("$defs", {})
        places = dict(self._places(found, "", of_what))
        yield self._fields(found)
        for name, title in places.items():
            definition = self._definitions[name]
            yield f"### {title}\n\n{_prose(definition)}{self._fields(definition)}"

    def _places(self, model: dict[str, Any], prefix: str, of_what: str) -> Iterator[tuple[str, str]]:
        """Each model inside another that has no section yet, with the title of its section."""
        for field, declared in model["properties"].items():
            for name, suffix in self._models(declared):
                if name in self._titles:
                    continue
                definition = self._definitions[name]
                kind = definition["properties"].get("kind", {}).get("const")
                title = f"`{prefix}{field}{suffix}`" + (f" of kind `{kind}`" if kind else "") + of_what
                self._titles[name] = title
                yield name, title
                yield from self._places(definition, f"{prefix}{field}{suffix}.", of_what)

    def _models(self, declared: dict[str, Any], suffix: str = "") -> Iterator[tuple[str, str]]:
        if "$ref" in declared:
            yield declared["$ref"].rsplit("/", 1)[-1], suffix
        for inner in (*declared.get("anyOf", ()), *declared.get("oneOf", ())):
            yield from self._models(inner, suffix)
        if "items" in declared:
            yield from self._models(declared["items"], suffix + "[]")
        if isinstance(declared.get("additionalProperties"), dict):
            yield from self._models(declared["additionalProperties"], suffix + ".NAME")

    def _fields(self, model: dict[str, Any]) -> str:
        required = model.get("required", [])
        lines = []
        for name, declared in model["properties"].items():
            facts = self._kind(declared)
            if name in required:
                facts += "; required"
            elif default := self._default(declared):
                facts += f"; default {default}"
            text = declared["description"].strip().split("\n\n")
            lines.append(f"- **`{name}`**: {facts}.\n")
            lines += [f"  {' '.join(paragraph.split())}\n" for paragraph in text]
        return "\n".join(lines)

    def _kind(self, declared: dict[str, Any], many: str = "") -> str:
        """What a field takes, in words; ``many`` is the ending of the plural."""
        if "$ref" in declared:
            title = self._titles[declared["$ref"].rsplit("/", 1)[-1]]
            return f"[{title}](#{_anchor(title)})"
        if choices := declared.get("oneOf") or declared.get("anyOf"):
            kinds = [self._kind(one, many) for one in choices if one.get("type") != "null"]
            return _listed(kinds) + (", or null" if len(kinds) < len(choices) else "")
        if "const" in declared:
            return f"`{declared['const']}`"
        if "enum" in declared:
            return _listed([f"`{one}`" for one in declared["enum"]])
        if parts := declared.get("prefixItems"):
            return f"list of {len(parts)} {self._kind(parts[0], 's')}"
        if declared["type"] == "array":
            return f"list{many} of {self._kind(declared['items'], 's')}"
        if declared["type"] == "object":
            return f"mapping of names to {self._kind(declared['additionalProperties'], 's')}"
        limits = (f" {words} {declared[limit]:g}" for limit, words in LIMITS.items() if limit in declared)
        return KINDS[declared["type"]] + ("" if declared["type"] == "boolean" else many) + "".join(limits)

    def _default(self, declared: dict[str, Any]) -> str:
        """The default as it stands in YAML; nothing where it is that of the model inside."""
        default = declared.get("default")
        if isinstance(default, dict) and "$ref" in declared:
            model = self._definitions[declared["$ref"].rsplit("/", 1)[-1]]["properties"]
            default = {name: value for name, value in default.items() if model[name].get("default") != value}
            if not default or any(isinstance(value, dict) for value in default.values()):
                return ""
        if isinstance(default, dict) and "oneOf" in declared:
            default = {name: value for name, value in default.items() if name == "kind"}
        return f"`{_yaml(default)}`"


KINDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
LIMITS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}


def _prose(definition: dict[str, Any]) -> str:
    text = definition.get("description", "").strip().split("\n\n")
    return "".join(" ".join(paragraph.split()) + "\n\n" for paragraph in text if paragraph)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_yaml(inner) for inner in value) + "]"
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _anchor(title: str) -> str:
    """The anchor that GitHub and mkdocs make of a heading."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


if __name__ == "__main__":
    SCHEMA.write_text(schema(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
