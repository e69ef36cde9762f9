"""Checkpoints on disk: whole or not there, wherever a writer dies, and damage is found before one is trusted."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from search.run import checkpoints as module
from search.run.checkpoints import (
    DamagedCheckpoint,
    checkpoints,
    epoch_of,
    keep_last,
    newest,
    path_of,
    read,
    sweep,
    write,
)

CONTENT = bytes(range(256)) * 20


def save(folder: Path) -> None:
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes(CONTENT)


def written(folder: Path, *epochs: int) -> Path:
    reports = {}
    for epoch in epochs:
        reports[epoch] = {"epoch": epoch, "objective": epoch / 10}
        path = write(folder, epoch, save, reports)
    return path


def test_a_checkpoint_is_read_back_with_the_reports_of_all_epochs(tmp_path):
    path = written(tmp_path, 1, 2, 3)
    assert path == path_of(tmp_path, 3) == tmp_path / "epoch-00003"
    found = read(path)
    assert (found.path, found.epoch, list(found.reports)) == (path, 3, [1, 2, 3])
    assert found.reports[2] == {"epoch": 2, "objective": 0.2}
    assert (path / "checkpoint.pt").read_bytes() == CONTENT
    assert [epoch_of(path), epoch_of(tmp_path / "checkpoint_000001")] == [3, None]


def test_the_newest_two_are_kept_while_a_trial_runs_and_one_when_it_has_ended(tmp_path):
    written(tmp_path, 1, 2, 3, 4)
    assert [path.name for path in checkpoints(tmp_path)] == ["epoch-00004", "epoch-00003"]
    keep_last(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00004"]


def test_an_attempt_that_was_taken_for_dead_removes_nothing_newer(tmp_path):
    written(tmp_path, 1, 2, 3, 4)
    write(tmp_path, 2, save, {2: {}})
    assert [path.name for path in checkpoints(tmp_path)][:2] == ["epoch-00004", "epoch-00003"]


@pytest.mark.parametrize("name", ["checkpoint.pt", "reports.json"])
def test_damage_at_any_place_is_found_and_an_older_whole_one_is_taken(tmp_path, name):
    rng = random.Random(0)
    written(tmp_path / "whole", 1, 2)
    size = (tmp_path / "whole" / "epoch-00002" / name).stat().st_size
    for number in range(40):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / str(number))
        path = folder / "epoch-00002" / name
        if number % 2:
            os.truncate(path, rng.randrange(size))
        else:
            content = bytearray(path.read_bytes())
            content[rng.randrange(size)] ^= 1 << rng.randrange(8)
            path.write_bytes(content)
        with pytest.raises(DamagedCheckpoint, match=str(path.parent)) as raised:
            read(path.parent)
        older, damage = newest(checkpoints(folder))
        assert older is not None
        assert (older.epoch, damage) == (1, str(raised.value))


def test_where_none_is_whole_the_reason_is_told(tmp_path):
    path = written(tmp_path, 1)
    (path / "checkpoint.pt").unlink()
    found, damage = newest([*checkpoints(tmp_path), tmp_path / "gone" / "epoch-00009"])
    assert found is None
    assert str(path) in damage
    assert newest([tmp_path / "gone"]) == (None, f"the checkpoint {tmp_path / 'gone'} is missing")
    assert newest([]) == (None, None)


@pytest.mark.parametrize("die_at", range(1, 14))
def test_a_writer_that_dies_between_any_two_steps_leaves_the_older_or_the_newer_one_whole(tmp_path, die_at):
    """The steps are counted in a process of its own, which ends at once, as by kill -9."""
    written(tmp_path, 1, 2)
    left = [die_at]
    originals = {"sync": module.sync, "rmtree": shutil.rmtree, "rename": Path.rename, "write": Path.write_text}

    def counted(name: str):
        def step(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return originals[name](*arguments, **named)

        return step

    child = os.fork()
    if child == 0:
        with (
            patch.object(module, "sync", counted("sync")),
            patch.object(shutil, "rmtree", counted("rmtree")),
            patch.object(Path, "rename", counted("rename")),
            patch.object(Path, "write_text", counted("write")),
        ):
            write(tmp_path, 3, save, {1: {}, 2: {}, 3: {}})
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    found, damage = newest(checkpoints(tmp_path))
    assert found is not None
    assert damage is None
    assert found.epoch in (2, 3)
    assert (found.path / "checkpoint.pt").read_bytes() == CONTENT
    sweep(tmp_path)
    assert not list(tmp_path.glob(".*"))
    if code == 0:
        assert found.epoch == 3


def test_the_steps_at_which_a_writer_was_killed_are_all_of_them(tmp_path):
    """Else the test above would end before the last."""
    counts = {"sync": 0, "rmtree": 0}
    written(tmp_path, 1, 2)
    with patch.object(module, "sync", lambda path: counts.__setitem__("sync", counts["sync"] + 1)):
        write(tmp_path, 3, save, {3: {}})
    assert counts["sync"] == 4, "two files, their folder, and the folder that holds its name"


def test_an_empty_folder_and_half_written_ones_are_swept(tmp_path):
    (tmp_path / "search-0001" / ".epoch-00001.77-abc.part").mkdir(parents=True)
    written(tmp_path / "search-0002", 1)
    (tmp_path / "search-0002" / ".epoch-00002.77-abc.part").mkdir()
    (tmp_path / "experiment_state-2026.json").write_text("{}")
    module.sweep_all(tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_dir()) == [
        "search-0002",
        "search-0002/epoch-00001",
    ]
    assert not list(tmp_path.glob("experiment*"))


def test_a_checkpoint_of_an_earlier_version_stands_for_itself(tmp_path):
    (tmp_path / "checkpoint_000004").mkdir()
    found = read(tmp_path / "checkpoint_000004")
    assert (found.epoch, found.reports) == (0, {})


def test_a_checkpoint_of_another_studys_trial_of_the_same_number_is_not_taken(tmp_path):
    write(tmp_path, 3, save, {3: {}}, token="theirs")
    assert newest(checkpoints(tmp_path), "mine") == (None, None)
    path = write(tmp_path, 3, save, {3: {}}, token="mine")
    assert read(path).token == "mine"
    assert newest(checkpoints(tmp_path), "mine")[0].path == path
