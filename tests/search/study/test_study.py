"""Storages and studies: opened by name or URL, and refused in a sentence."""

import sqlite3
import threading
from pathlib import Path

import optuna
import pytest

from recon.errors import InputError
from recon.version import code_version
from search.run.driver import BEAT_LOST_SECONDS, driving
from search.run.launch import agree
from search.study.open import OpenStudy, create_study, open_study
from search.study.storage import filesystem, open_storage
from tests.search.conftest import facts, space


def test_a_study_is_two_optuna_studies_that_maximise_in_one_file(tmp_path):
    study = create_study("one", None, tmp_path)
    assert Path(tmp_path / "one" / "study.db").is_file()
    names = optuna.get_all_study_names(f"sqlite:///{tmp_path}/one/study.db")
    assert sorted(names) == ["one", "one/references"]
    assert study.search.direction == study.references.direction == optuna.study.StudyDirection.MAXIMIZE
    assert open_study("one", None, tmp_path).records() == []


def test_a_space_that_was_stored_before_there_was_a_start_is_read_as_random(tmp_path):
    content = space().model_dump(mode="json")
    del content["start"]
    study = create_study("old", None, tmp_path)
    study.search.set_user_attr("space", content)
    study.search.set_user_attr("data_hash", "abc")
    assert open_study("old", None, tmp_path).space.start.init == "random"
    agree(study, space(), facts(tmp_path / "data"))
    with pytest.raises(InputError, match=r'another space: start.init is "joint", not "random"'):
        agree(study, space(start={"init": "joint"}), facts(tmp_path / "data"))


def test_a_journal_file_is_a_storage_too(tmp_path):
    url = f"journal://{tmp_path}/deep/study.journal"
    create_study("one", url, tmp_path).search.set_user_attr("a", 1)
    assert open_study("one", url, tmp_path).attributes == {"a": 1}


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("no url", "is not a URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///nowhere/study.db", "there is no study file nowhere/study.db"),
        ("journal://nowhere/study.journal", "there is no study file nowhere/study.journal"),
        ("postgresql+nothing://me:secret@host/db", "cannot be opened|driver that is not installed"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_said_in_a_sentence_without_the_password(url, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        open_storage(url)
    assert "secret" not in str(error.value)


def test_a_file_that_is_no_database_is_said(tmp_path):
    (tmp_path / "study.db").write_text("this is text, not a database, and long enough to be looked at " * 20)
    with pytest.raises(InputError, match=r"cannot be opened: .*not a database"):
        open_storage(f"sqlite:///{tmp_path}/study.db")


def test_a_study_that_does_not_exist_is_said_with_those_that_do(tmp_path):
    url = f"sqlite:///{tmp_path}/shared.db"
    create_study("one", url, tmp_path)
    create_study("two", url, tmp_path)
    with pytest.raises(InputError, match=r"there is no study 'three' in sqlite:////.*; studies there: one, two"):
        open_study("three", url, tmp_path)
    with pytest.raises(InputError, match="there is no study file"):
        open_study("three", None, tmp_path)
    assert not (tmp_path / "three").exists(), "reading makes nothing"


def test_readers_are_not_held_up_by_a_writer(tmp_path):
    study = create_study("one", None, tmp_path)
    writer = sqlite3.connect(tmp_path / "one" / "study.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE studies SET study_name = study_name")
    try:
        seen = []
        reader = threading.Thread(target=lambda: seen.append(open_study("one", None, tmp_path).records()))
        reader.start()
        reader.join(10)
        assert seen == [[]]
    finally:
        writer.execute("ROLLBACK")
        writer.close()
    assert study.records() == []


def test_write_ahead_logging_is_for_local_disks(tmp_path, monkeypatch):
    def mode(name: str) -> str:
        create_study(name, None, tmp_path)
        with sqlite3.connect(tmp_path / name / "study.db") as connection:
            return connection.execute("PRAGMA journal_mode").fetchone()[0]

    monkeypatch.setattr("search.study.storage.filesystem", lambda path: "ext4")
    assert mode("local") == "wal"
    monkeypatch.setattr("search.study.storage.filesystem", lambda path: "nfs4")
    assert mode("shared") == "delete"


def test_commits_wait_for_the_disk_only_where_write_ahead_logging_does_not_keep_the_file_whole(tmp_path, monkeypatch):
    def synchronous(name: str) -> int:
        engine = create_study(name, None, tmp_path).storage.engine  # type: ignore[attr-defined]
        with engine.connect() as connection:
            return connection.exec_driver_sql("PRAGMA synchronous").scalar_one()

    normal, full = 1, 2
    monkeypatch.setattr("search.study.storage.filesystem", lambda path: "ext4")
    assert synchronous("local") == normal
    monkeypatch.setattr("search.study.storage.filesystem", lambda path: "nfs4")
    assert synchronous("shared") == full


def test_the_file_system_of_a_path_is_that_of_its_innermost_mount(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda1 / ext4 rw 0 0\nhost:/x {tmp_path}/far nfs4 rw 0 0\nhost:/y {tmp_path}/a\\040b cifs rw 0 0\n"
        f"host:/z {tmp_path}/é lustre rw 0 0\n"
    )
    assert filesystem(tmp_path / "far" / "runs" / "study.db", mounts) == "nfs4"
    assert filesystem(tmp_path / "a b" / "study.db", mounts) == "cifs"
    assert filesystem(tmp_path / "é" / "study.db", mounts) == "lustre"
    assert filesystem(tmp_path / "near", mounts) == "ext4"
    assert filesystem(tmp_path, tmp_path / "none") is None


def test_a_study_has_one_driver_at_a_time(tmp_path):
    study = create_study("one", None, tmp_path)
    with driving(study), pytest.raises(InputError, match="being run by another process"), driving(study):
        pytest.fail("two drivers")
    with driving(study) as driver:
        assert driver.study is study


def elsewhere(study: OpenStudy, folder: Path) -> OpenStudy:
    folder.mkdir()
    return OpenStudy(study.name, study.storage, study.url, folder)


def test_a_driver_with_another_folder_is_known_by_its_heartbeat_until_it_falls_silent(tmp_path):
    study = create_study("one", None, tmp_path)
    other = elsewhere(study, tmp_path / "other")
    with driving(study), pytest.raises(InputError, match=r"run by process \d+ on .*, heard of 0 s ago"), driving(other):
        pytest.fail("two drivers")
    with driving(study):
        claim = study.attributes["driver"]
        study.search.set_user_attr("driver", {**claim, "beat": claim["beat"] - BEAT_LOST_SECONDS})
        with driving(other):
            pass


def test_the_code_version_names_the_commit_of_a_checkout():
    version = code_version()
    assert version.startswith("0.")
    assert ("(" in version) == (Path(__file__).parents[3] / ".git").exists()
