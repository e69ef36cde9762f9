"""The card's program runs as printed, and its tables hold whatever a task is called."""

import re

import numpy as np
import pytest

from recon.data.prepared import PreparedData
from search.results.export import export
from search.results.leaderboard import confirmed, leaderboard
from search.results.text import Format, render
from search.run.cluster import Resources
from search.run.confirm import confirm
from search.run.launch import launch
from tests.printed import first_python
from tests.search import boards
from tests.search.boards import confirmed_study, opened
from tests.search.conftest import facts, listed


@pytest.mark.parametrize("dimensions", [3, 4])
def test_the_cards_program_runs_as_printed(local_ray, prepared, tmp_path, tmp_path_factory, monkeypatch, dimensions):
    exported = export(opened(confirmed_study(tmp_path_factory)), out=tmp_path / "bundle")
    (tmp_path / "this").mkdir()
    (tmp_path / "this" / "folder").symlink_to(exported.folder)
    monkeypatch.chdir(tmp_path)
    data = PreparedData(prepared)
    kspace = data.read(data.subset(exported.record.tasks[0], split="val")[0]).kspace.copy()
    columns = kspace.shape[-1]
    kspace[..., : columns // 2 - 8 : 2] = kspace[..., columns // 2 + 8 :: 2] = 0
    given = kspace if dimensions == 3 else np.stack([kspace, 2 * kspace])
    names = {"kspace": given}
    exec(first_python((exported.folder / "README.md").read_text(encoding="utf-8")), names)
    image = names["image"]
    assert np.iscomplexobj(image)
    assert image.shape == (*given.shape[:-3], *given.shape[-2:])
    assert np.isfinite(image).all()
    assert np.abs(image).max() > 0


def bars(line: str) -> int:
    """The bars that part a row's cells."""
    return len(re.findall(r"(?<!\\)\|", line))


def tables(markdown: str) -> list[list[str]]:
    """The tables of a Markdown text, each as its lines."""
    found: list[list[str]] = [[]]
    for line in markdown.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [lines for lines in found if lines]


@pytest.fixture(scope="module")
def barred(local_ray, tmp_path_factory):
    """A confirmed study one of whose tasks has a bar in its name."""
    folder = tmp_path_factory.mktemp("barred")
    known = facts(folder / "data")
    known = type(known)(known.path, known.hash, {"PD|w": 40, "FS": 30}, known.prepared)
    wanted = listed("I2V2", tasks=("PD|w", "FS"), scarce={"task": "FS", "slices": [12]}, confirm={"top": 1, "seeds": 1})
    shared = {"runs_dir": folder, "trainer": boards.train, "resources": Resources(max_concurrent=1)}
    launch(wanted, known, "barred", **shared)
    return confirm("barred", data=known, **shared).study


def test_a_bar_in_a_tasks_name_does_not_break_the_cards_tables(barred, tmp_path):
    card = (export(barred, out=tmp_path / "bundle").folder / "README.md").read_text(encoding="utf-8")
    metrics, over_seeds = tables(card)
    assert metrics[2].startswith(r"| PD\|w | ")
    assert r"ssim/PD\|w" in over_seeds[0]
    for head, *rows in (metrics, over_seeds):
        assert len(rows) > 1
        assert {bars(row) for row in rows} == {bars(head)}


def test_a_bar_in_a_tasks_name_does_not_break_a_leaderboard_in_markdown(barred):
    for frame in (leaderboard(barred), confirmed(barred)):
        ((head, *rows),) = tables(render(frame, Format.markdown))
        assert r"ssim/PD\|w" in head
        assert len(rows) > 1
        assert {bars(row) for row in rows} == {bars(head)}
