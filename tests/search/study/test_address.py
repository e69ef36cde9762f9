"""Names of studies, URLs made of paths, and passwords that are never printed."""

import traceback
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import URL, make_url

from recon.errors import InputError
from search.study.address import LONGEST_NAME, check_name, file_of, parsed_url, secrets, shown, study_folder
from search.study.open import create_study, open_study, studies
from search.study.storage import cause, connect_options, open_storage
from tests.search.study import postgres

SECRET = "hunter2"
ODD = ("a?b", "a#b", "a%20b", "é ü", "a{b}", "a&c=d", "a@b:c", "a+b", "a'\\b")


@pytest.mark.parametrize("name", ["a", "first", "A-1_b.c", "_x", "0", "a" * LONGEST_NAME, "a..b", "first.db"])
def test_names_of_letters_digits_and_three_signs_name_studies(name, tmp_path):
    assert study_folder(name, tmp_path) == tmp_path / name


WRONG = (
    *("", ".", "..", ".a", "-a", "--all", "a/b", "a\\b", "a:b", " a", "a ", "a b", "a\n", "a\0", "é", "a?b", "a#b"),
    *("a%b", "a*", "~", "$a", "a/references", "a" * (LONGEST_NAME + 1), "a" * 5000),
)


@pytest.mark.parametrize("name", WRONG)
def test_any_other_name_is_refused_in_one_sentence_wherever_it_is_used(name, tmp_path):
    url = f"sqlite:///{tmp_path}/shared.db"
    for run in (
        lambda: check_name(name),
        lambda: create_study(name, None, tmp_path),
        lambda: create_study(name, url, tmp_path),
        lambda: open_study(name, None, tmp_path),
        lambda: open_study(name, url, tmp_path),
    ):
        with pytest.raises(InputError, match="cannot name a study: use letters") as error:
            run()
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400
    assert not list(tmp_path.iterdir()), "nothing is made"


@pytest.mark.parametrize("command", [("leaderboard",), ("confirm",), ("test", "--study")])
def test_every_command_refuses_a_wrong_name_with_exit_code_2(splitpoint, tmp_path, command):
    code, out, err = splitpoint(*command, "a?b", "--runs-dir", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "'a?b' cannot name a study" in err


@pytest.mark.parametrize("odd", ODD)
def test_a_path_keeps_its_odd_characters_in_every_kind_of_file(tmp_path, odd):
    runs = tmp_path / odd
    for storage in (None, f"journal://{runs}/deep/study.journal"):
        where = ("one", storage, runs)
        study = create_study(*where)
        study.search.set_user_attr("a", 1)
        assert open_study(*where).attributes == {"a": 1}
        assert file_of(study.url) == (runs / "deep" / "study.journal" if storage else runs / "one" / "study.db")
        assert open_storage(study.url).get_all_studies()
    create_study("two", None, runs)
    assert list(studies(None, runs)["study"]) == ["one", "two"]
    assert list(studies(f"journal://{runs}/deep/study.journal", runs)["study"]) == ["one"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [odd]
    assert (runs / "one" / "study.db").read_bytes().startswith(b"SQLite format 3")


def test_an_option_of_a_url_reaches_the_driver(tmp_path):
    create_study("one", f"sqlite:///{tmp_path}/study.db?timeout=3", tmp_path)
    assert (tmp_path / "study.db").is_file()
    assert file_of(f"sqlite:///{tmp_path}/study.db?timeout=3") == tmp_path / "study.db"
    assert file_of("postgresql://sp@host/db") is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql+psycopg://me@host:5432/db", "postgresql+psycopg://me@host:5432/db"),
        ("postgresql://me:s@[::1]:5432/db?sslmode=require", "postgresql://me:***@[::1]:5432/db?sslmode=require"),
        ("postgresql:///db?host=/run", "postgresql:///db?host=/run"),
        ("postgresql://me:se/cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host:1/db?password=a@b", "postgresql://***"),
        ("mysql+pymysql://me:a%40b@10.0.0.1/db", "mysql+pymysql://me:***@10.0.0.1/db"),
        ("sqlite:////runs/one/study.db", "sqlite:////runs/one/study.db"),
        ("sqlite:///runs/one/study.db?timeout=3", "sqlite:///runs/one/study.db?timeout=3"),
        ("journal:///a/b", "journal:///a/b"),
        ("me:secret@host/db", "***"),
        ("postgresql://me:secret@host:port/db", "postgresql://***"),
        ("", "***"),
    ],
)
def test_what_a_url_shows(url, said):
    assert shown(url) == said


FORMS = (
    *("{s}@host/db", "sp:{s}@host/db", "//sp:{s}@host/db", "postgresql:/sp:{s}@host/db", "postgresql//sp:{s}@host/db"),
    *(
        "postgresql://sp:{s}@127.0.0.1:1/db",
        "postgresql+psycopg://sp:{s}@127.0.0.1:1/db",
        "POSTGRESQL://sp:{s}@host/db",
    ),
    *("postgresql://sp:{s}@127.0.0.1:notaport/db", "postgresql://sp:{s}@127.0.0.1:99999999/db"),
    *("postgresql://127.0.0.1:1/db?password={s}", "postgresql://127.0.0.1:1/db?passwd={s}"),
    *("postgresql+psycopg://127.0.0.1:1/db?PASSWORD={s}&sslmode=disable", "postgresql://127.0.0.1:1/db;password={s}"),
    *("postgresql+psycopg:///sp:{s}@127.0.0.1/db", "postgresql://sp%3A{s}@127.0.0.1:1/db", "nothing://sp:{s}@host/db"),
    *("mysql://sp:{s}@127.0.0.1:1/db", "mysql+pymysql://sp:{s}@host:x/db", "sqlite:///sp:{s}@host/db"),
    *("sqlite://sp:{s}@host/db", "journal://sp:{s}@host/db", "http://sp:{s}@host", " postgresql://sp:{s}@host/db"),
    *("postgresql+nothing://sp:{s}@host/db", "postgresql://sp:{s}@ho st/db", "postgresql+psycopg://127.0.0.1:1/db#{s}"),
)
SIGNS = st.text(st.sampled_from("@:/?#%&=+ {}[]'\"\\$;,.é\n"), max_size=3)


def parts_of(url: str) -> tuple[URL | None, str]:
    """The parts of a URL, or the traceback of its refusal."""
    try:
        return parsed_url(url), ""
    except InputError as error:
        return None, "".join(traceback.format_exception(error))


@settings(max_examples=400, deadline=None)
@given(form=st.sampled_from(FORMS), before=SIGNS, after=SIGNS, written=st.sampled_from([str, quote, quote_plus]))
@example(form="postgresql://sp:{s}@127.0.0.1:1/db", before="a@", after="", written=str)
@example(form="postgresql://sp:{s}@127.0.0.1:1/db", before="{", after="}", written=str)
def test_no_url_shows_its_password_whatever_is_wrong_with_it(form, before, after, written):
    url = form.replace("{s}", written(before + SECRET + after))
    assert SECRET not in shown(url)
    parsed, said = parts_of(url)
    assert SECRET not in said
    if parsed is None:
        return
    # What a driver may say: any part of the URL, or all of it.
    parts = (parsed.username, parsed.password, parsed.host, parsed.database, *parsed.query.values())
    if parsed.get_backend_name() != "sqlite":
        for part in filter(None, parts):
            assert SECRET not in cause(OSError(f"missing = after {part!r} in conninfo"), secrets(parsed))
            assert SECRET not in cause(OSError(f"bad {part}"), secrets(parsed))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("password", [SECRET, f"a@{SECRET}", f"{{{SECRET}}}", f"%2F{SECRET}", f"a='{SECRET}"])
def test_a_storage_that_cannot_be_opened_prints_no_password_and_its_traceback_has_none(
    form, password, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        open_storage(form.replace("{s}", password))
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)
    assert SECRET not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    "url",
    [f"sp:{SECRET}@host/db", f"postgresql://127.0.0.1:1/db?password={SECRET}", "postgresql://sp@host:notaport/db"],
)
@pytest.mark.parametrize("command", ["leaderboard", "studies"])
def test_a_wrong_url_is_one_sentence_and_exit_code_2(splitpoint, url, command):
    arguments = ("one",) if command == "leaderboard" else ()
    code, out, err = splitpoint(command, *arguments, "--storage", url)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert SECRET not in err
    assert err.startswith("splitpoint: --storage ")


def test_what_is_wrong_with_a_url_is_said():
    for url, said in (
        ("postgresql://sp@host:notaport/db", "its port is no number"),
        ("postgresql://sp@host:1/db?password=a@b", "where its password ends is not clear"),
        (f"postgresql://sp:a@{SECRET}@host/db", "where its password ends is not clear"),
        ("study.db", "is not a URL; give one like sqlite"),
    ):
        with pytest.raises(InputError, match=said):
            parsed_url(url)


def test_a_server_that_is_gone_is_noticed_and_what_the_url_says_goes_first():
    found = connect_options(make_url("postgresql+psycopg://sp@host/db?connect_timeout=3"))
    assert "connect_timeout" not in found
    assert {"keepalives", "keepalives_idle", "tcp_user_timeout"} <= set(found)
    assert connect_options(make_url("mysql+pymysql://sp@host/db")) == {"connect_timeout": 10}
    assert connect_options(make_url("mssql+pyodbc://sp@host/db")) == {}


def test_a_database_on_a_server_opens_and_its_refusal_has_no_password(tmp_path):
    with postgres.server() as url:
        create_study("one", url, tmp_path).search.set_user_attr("a", 1)
        assert open_study("one", url, tmp_path).attributes == {"a": 1}
        assert list(studies(url, tmp_path)["study"]) == ["one"]
        with pytest.raises(InputError, match="does not exist") as error:
            open_storage(url.replace("/postgres", "/nothing"))
        assert SECRET not in str(error.value)
        with pytest.raises(InputError) as error:
            open_storage(f"{url}?passwort={SECRET}")
        assert SECRET not in str(error.value)
        assert Path(tmp_path / "one").is_dir()
