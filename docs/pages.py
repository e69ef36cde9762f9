"""What mkdocs builds beside the pages of docs/: the front page, the API pages, and the files that pages link to.

mkdocs calls the functions below (``hooks`` in mkdocs.yml). README.md becomes the front page. Each package has a page of
its modules, made of their docstrings, so a module that moves needs no edit here. A link from a page to a file outside
docs/ leads to a copy of the file in the site.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("splitpoint", "recon", "spaces", "search")
LINK = re.compile(r"(\]\(|src=\"|href=\")(?![a-z]+:|#)([^)#\"\s]+)")
"""A link to a file: what comes before the address, and the address."""


def packages() -> Iterator[tuple[str, list[str]]]:
    """Each package by its dotted name, with its public modules."""
    for top in PACKAGES:
        for folder in [ROOT / top, *sorted(path.parent for path in (ROOT / top).rglob("*/__init__.py"))]:
            name = ".".join(folder.relative_to(ROOT).parts)
            modules = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
            yield name, [f"{name}.{module}" for module in modules]


def on_config(config: Any) -> Any:
    """Put the API pages into the navigation."""
    config.nav.append({"API": [{name: f"api/{name}.md"} for name, _ in packages()]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and files that docs/ does not hold."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=LINK.sub(_from_root, readme)))
    for name, modules in packages():
        text = f"# {name}\n\n" + "".join(f"::: {one}\n\n" for one in (name, *modules))
        files.append(File.generated(config, f"api/{name}.md", content=text))
    texts = [readme, *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))]
    for target in sorted({found for text in texts for found in map(_outside, LINK.findall(text)) if found}):
        files.append(File.generated(config, f"files/{target}", abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links out of docs/ lead to the copies."""
    return LINK.sub(lambda found: f"{found[1]}{found[2].replace('../', 'files/', 1)}", markdown)


def _outside(link: tuple[str, str]) -> str | None:
    """The file outside docs/ that a page of docs/ or README.md links to, from the root; None for other links."""
    address = link[1]
    target = ROOT / "docs" / address if address.startswith("../") else ROOT / address
    inside = target.resolve().is_relative_to(ROOT / "docs") or not target.is_file()
    return None if inside else target.resolve().relative_to(ROOT).as_posix()


def _from_root(link: re.Match[str]) -> str:
    """A link of README.md, as a page of docs/ has it."""
    address = link[2].removeprefix("docs/") if link[2].startswith("docs/") else f"../{link[2]}"
    return f"{link[1]}{address}"
