"""Files and folders appear whole or not at all, and nothing else is left beside them."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recon.files import remove_parts, replace_directory, replace_file, sync


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "made" / "for it" / "table.csv"
    with replace_file(path) as fresh:
        fresh.write_text("half")
        assert not path.exists()
        fresh.write_text("whole")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["table.csv"]


def test_a_file_that_is_not_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def half():
        with replace_file(path) as fresh:
            fresh.write_text("half")
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_a_file_that_was_never_written_replaces_nothing(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replace_file(path):
        pass
    assert path.read_text() == "old"


@pytest.mark.parametrize("older", [False, True])
def test_a_directory_takes_the_place_of_an_older_one_as_a_whole(tmp_path, older):
    path = tmp_path / "bundle"
    if older:
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "old").write_text("old")
    with replace_directory(path) as fresh:
        (fresh / "new").write_text("new")
        assert path.exists() == older
    assert names(path) == ["new"]
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("older", [False, True])
def test_a_directory_that_is_not_finished_leaves_what_was_there(tmp_path, older):
    path = tmp_path / "bundle"
    if older:
        path.mkdir()
        (path / "old").write_text("old")

    def half():
        with replace_directory(path) as fresh:
            (fresh / "new").write_text("half")
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        half()
    assert names(tmp_path) == (["bundle"] if older else [])
    if older:
        assert names(path) == ["old"]


def test_the_old_directory_returns_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "old").write_text("old")
    rename = os.rename

    def once(source, target):
        if Path(source) == made[0]:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))
        rename(source, target)

    made = []

    def lost():
        with replace_directory(path) as fresh:
            made.append(fresh)
            (fresh / "new").write_text("new")

    monkeypatch.setattr(os, "rename", once)
    with pytest.raises(OSError, match="Input/output error"):
        lost()
    assert names(tmp_path) == ["bundle"]
    assert names(path) == ["old"]


def test_a_link_to_a_directory_stays_and_its_target_is_replaced(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.mkdir()
    link.symlink_to(target)
    with replace_directory(link) as fresh:
        (fresh / "new").write_text("new")
    assert link.is_symlink()
    assert names(target) == ["new"]


def test_a_file_is_not_replaced_by_a_directory(tmp_path):
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(NotADirectoryError, match="this is a file"), replace_directory(path):
        raise AssertionError("the body must not run")
    assert path.read_text() == "mine"
    assert names(tmp_path) == ["notes"]


@pytest.fixture
def changes(monkeypatch):
    """What reaches the disk, in order: («fsync» or «rename», a path)."""
    found = []
    fsync, places = os.fsync, {"replace": os.replace, "rename": os.rename}

    def synced(handle):
        found.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    for name, rename in places.items():

        def renamed(source, target, *, rename=rename):
            found.append(("rename", str(source)))
            rename(source, target)

        monkeypatch.setattr(os, name, renamed)
    return found


def test_a_file_is_synced_before_it_takes_its_name_and_its_folder_afterwards(tmp_path, changes):
    with replace_file(tmp_path / "table.csv") as fresh:
        fresh.write_text("whole")
    assert changes == [("fsync", str(fresh)), ("rename", str(fresh)), ("fsync", str(tmp_path))]


def test_all_that_a_directory_holds_is_synced_before_it_takes_its_name(tmp_path, changes):
    with replace_directory(tmp_path / "bundle") as fresh:
        (fresh / "deep").mkdir()
        (fresh / "deep" / "inner").write_text("1")
        (fresh / "outer").write_text("2")
        (fresh / "link").symlink_to("outer")
    before = changes[: changes.index(("rename", str(fresh)))]
    assert {path for _, path in before} == {str(fresh / name) for name in ("deep", "deep/inner", "outer")} | {
        str(fresh)
    }
    assert changes[len(before) + 1 :] == [("fsync", str(tmp_path))]


def test_a_file_system_that_cannot_sync_is_no_error_and_a_full_one_is(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("content")

    def answer(number):
        def fsync(handle):
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", answer(errno.EINVAL))
    sync(tmp_path / "file")
    sync(tmp_path)
    monkeypatch.setattr(os, "fsync", answer(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left on device") as caught:
        sync(tmp_path / "file")
    assert caught.value.filename == str(tmp_path / "file")


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    parts = {
        f".table.csv.{ended.pid}-0123abcd.part": False,
        f".table.csv.{os.getpid()}-0123abcd.part": False,  # an earlier process with this one's number
        f".table.csv.{os.getppid()}-0123abcd.part": True,
        f".other.csv.{ended.pid}-0123abcd.part": True,
        "table.csv": True,
    }
    for name in parts:
        (tmp_path / name).write_text("half")
    folder = tmp_path / f".table.csv.{ended.pid}-4567abcd.part"
    (folder / "deep").mkdir(parents=True)
    remove_parts(tmp_path / "table.csv")
    assert names(tmp_path) == sorted(name for name, stays in parts.items() if stays)
