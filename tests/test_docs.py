"""What the documents are made of: references made from the models, drawings made by scripts, and links that lead on."""

import importlib.util
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from spaces.reading import load_space, shipped

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def script(name):
    """A script of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_schema_and_the_reference_of_fields_are_those_of_the_models():
    made = script("make_reference")
    assert made.SCHEMA.read_text(encoding="utf-8") == made.schema(), "run python docs/make_reference.py"
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "run python docs/make_reference.py"


def test_the_drawing_of_the_blocks_is_that_of_its_script():
    made = script("draw_blocks")
    assert made.FILE.read_text(encoding="utf-8") == made.drawing(), "run python docs/draw_blocks.py"


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_space_names_its_schema_and_fits_it(name):
    text = (ROOT / "spaces" / name).read_text(encoding="utf-8")
    found = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert found
    schema = json.loads((ROOT / "spaces" / found[1]).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(text), schema)
    with pytest.raises(jsonschema.ValidationError, match="trails"):
        jsonschema.validate({**yaml.safe_load(text), "trails": 3}, schema)
    load_space(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]+))?\)", text)
    for address, anchor in links:
        target = page.parent / address if address else page
        assert target.exists(), address
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_row_of_a_table_has_the_cells_of_its_head(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    cells = 0
    for line in text.splitlines():
        found = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (cells and found and found != cells), line
        cells = found


def test_the_paths_that_the_architecture_names_are_there():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:recon|spaces|search)/[\w/.]+)`", text)
    assert len(paths) > 6
    assert [path for path in paths if not (ROOT / path).exists()] == []
