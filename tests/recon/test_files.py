"""Files and folders appear whole or not at all, and nothing else is left beside them."""

import pytest

from recon.files import replace_directory, replace_file


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


def test_the_old_directory_returns_where_the_new_one_cannot_take_its_place(tmp_path):
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "old").write_text("old")

    def lost():
        with replace_directory(path) as fresh:
            fresh.rmdir()

    with pytest.raises(FileNotFoundError):
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
