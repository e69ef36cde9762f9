"""Journals whose last line a power loss or a full disk has torn."""

import json
import logging
import os
import time

import pytest

from recon.errors import InputError
from search.study import journal
from search.study.journal import JournalFile
from search.study.open import create_study, open_study

TRIALS = 4


@pytest.fixture
def path(tmp_path):
    """A journal of four complete trials."""
    study = create_study("one", f"journal://{tmp_path}/study.journal", tmp_path)
    for _ in range(TRIALS):
        study.search.tell(study.search.ask(), 1.0)
    return tmp_path / "study.journal"


def opened(path, run=open_study):
    return run("one", f"journal://{path}", path.parent)


def complete(study) -> int:
    return sum(trial.state.is_finished() for trial in study.search.trials)


@pytest.mark.parametrize("torn", [1, 2, 20, 60, -1, -12])
def test_a_torn_last_line_is_cut_when_a_journal_is_opened_for_writing(path, torn, caplog):
    """Cut by so many bytes; below zero, so many bytes of the line are left."""
    content = path.read_bytes()
    begin = content[:-1].rindex(b"\n") + 1
    path.write_bytes(content[:-1][:-torn] if torn > 0 else content[: begin - torn])
    study = opened(path, create_study)
    (said,) = [one for one in caplog.records if one.name == journal.__name__]
    assert f"last line of the journal {path} was torn" in said.getMessage()
    assert "\n" not in said.getMessage()
    assert path.read_bytes() == content[:begin]
    assert complete(study) == TRIALS - 1
    study.search.tell(study.search.ask(), 1.0)
    assert complete(opened(path)) == complete(opened(path, create_study)) == TRIALS


def test_it_is_said_in_one_line_on_stderr(path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    path.write_bytes(path.read_bytes()[:-20])
    opened(path, create_study)
    assert capsys.readouterr().err.count("was torn") == 1
    opened(path, create_study)
    assert "was torn" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "tail", [b"\0" * 5000, b"\xff\xfe{", b'{"op_code": 9, "worker', b"null", b'{"op_code"\n', b"\0\0\n"]
)
def test_what_else_a_power_loss_leaves_at_the_end_is_cut_too(path, tail):
    content = path.read_bytes()
    path.write_bytes(content + tail)
    assert complete(opened(path)) == TRIALS
    assert path.read_bytes() == content + tail, "a reader changes nothing"
    assert complete(opened(path, create_study)) == TRIALS
    assert path.read_bytes() == content


def test_a_last_line_that_lacks_its_end_alone_is_kept(path, caplog):
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    study = opened(path, create_study)
    assert path.read_bytes() == content
    assert complete(study) == TRIALS
    assert not [one for one in caplog.records if one.name == journal.__name__]


def test_a_reader_does_not_change_the_file_and_reads_what_is_whole(path):
    torn = path.read_bytes()[:-20]
    path.write_bytes(torn)
    before = os.stat(path).st_mtime_ns
    assert complete(opened(path)) == TRIALS - 1
    assert (path.read_bytes(), os.stat(path).st_mtime_ns) == (torn, before)
    assert sorted(one.name for one in path.parent.iterdir()) == ["one", "study.journal"]


def test_a_torn_line_does_not_join_what_an_open_study_writes_next(path):
    """Another process died within its line while this one goes on."""
    study = opened(path, create_study)
    with path.open("ab") as file:
        file.write(b'{"op_code":9,"worker')
    study.search.set_user_attr("a", 1)
    assert opened(path).attributes == {"a": 1}
    assert b"worker{" not in path.read_bytes()


@pytest.mark.parametrize("run", [open_study, create_study])
@pytest.mark.parametrize("line", [1, 4, 7])
@pytest.mark.parametrize("broken", [b"{", b"null", b"\0\0\0", b'{"op_code":77}', b'{"op_code":5}', b"\xff"])
def test_a_line_that_is_broken_in_the_middle_is_a_sentence_with_file_and_line(path, run, line, broken):
    lines = path.read_bytes().splitlines()
    lines[line - 1] = broken
    content = b"".join(one + b"\n" for one in lines)
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        opened(path, run)
    said = str(error.value)
    assert str(path) in said
    assert "\n" not in said
    assert f"line {line} of" in said or (line == 1 and "its first line" in said)
    assert path.read_bytes() == content


def test_a_file_that_is_no_journal_is_said_and_left_as_it_is(tmp_path):
    for content in (b"SQLite format 3\0" + bytes(range(256)) * 20, b"a text", b"a text\nof two lines\n", b"{}\n"):
        path = tmp_path / "study.db"
        path.write_bytes(content)
        for run in (create_study, open_study):
            with pytest.raises(InputError) as error:
                opened(path, run)
            assert "study.db" in str(error.value)
        assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b'{"op_', b'{"op_code":0,"worker_id":"a', b"\0\0\0\0"])
def test_a_journal_that_broke_in_its_first_line_begins_anew(tmp_path, content):
    path = tmp_path / "study.journal"
    path.write_bytes(content)
    study = opened(path, create_study)
    study.search.set_user_attr("a", 1)
    assert opened(path).attributes == {"a": 1}


def test_a_write_that_a_full_disk_breaks_off_leaves_no_half_line(path, monkeypatch):
    study, content, write = opened(path, create_study), path.read_bytes(), os.write

    def full(file, text):
        if len(text) < 40:
            raise OSError(28, "No space left on device")
        return write(file, text[: len(text) // 2])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        study.search.set_user_attr("a", 1)
    assert path.read_bytes() == content
    monkeypatch.undo()
    study.search.set_user_attr("a", 1)
    assert opened(path).attributes == {"a": 1}


def test_a_journal_that_was_deleted_is_not_made_anew(path):
    study = opened(path, create_study)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        study.search.set_user_attr("a", 1)
    assert not path.exists()


def test_the_lock_of_a_dead_process_holds_nobody_up_for_ever(path, monkeypatch):
    (path.parent / "study.journal.lock").touch()
    monkeypatch.setattr(journal, "LOCK_SECONDS", 1)
    began = time.monotonic()
    with pytest.warns(UserWarning, match="grace_period"):  # Optuna finds a second too short
        study = opened(path, create_study)
    assert complete(study) == TRIALS
    assert 1 <= time.monotonic() - began < 10
    assert not (path.parent / "study.journal.lock").exists()


def test_a_reader_waits_for_no_lock(path):
    (path.parent / "study.journal.lock").touch()
    began = time.monotonic()
    assert complete(opened(path)) == TRIALS
    assert time.monotonic() - began < 5


def test_lines_are_optunas_own(path):
    """What is written here, Optuna reads; and each line is what ``JournalFile`` takes for a line."""
    assert all("op_code" in json.loads(line) for line in path.read_text().splitlines())
    assert path.read_bytes().startswith(journal._BEGIN)
    logs = list(JournalFile(path).read_logs(0))
    assert logs == JournalFile(path).since(0)
