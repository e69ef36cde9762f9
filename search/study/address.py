"""Names of studies and addresses of storages: what they may be, and how they are printed without a password."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

import sqlalchemy.exc
from sqlalchemy.engine import URL, make_url

from recon.errors import InputError

JOURNAL = "journal://"
LONGEST_NAME = 100
_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+._-]*://")
_PLAIN = re.compile(r"[\w.-]*")
"""Users and databases that are printed."""
_HOST = re.compile(r"[A-Za-z0-9._-]*|[0-9A-Fa-f:.]+")
_AUTHORITY = re.compile(r"[^:]*://[^/?#@:]*(?P<port>:\d*(?=[/?#]))?")
"""The beginning of a URL without a user: scheme, host and, where it is followed by no more, port."""
_HARMLESS = {"host", "port", "sslmode", "charset", "timeout", "connect_timeout", "application_name", "mode", "uri"}
"""Options in a URL whose values are printed."""
_USER = re.compile(r"[^/@\s:]*:.*@", re.DOTALL)
"""``user:password@``."""
_EXAMPLES = "give one like sqlite:///study.db, postgresql://user@host/db or journal://file"


def check_name(name: str) -> str:
    """The name of a study, which is also that of its folder.

    Raises InputError, with the rule, for any other text.
    """
    if not _NAME.fullmatch(name):
        said = repr(name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…")
        raise InputError(
            f"{said} cannot name a study: use letters (A to Z), digits, '-', '_' and '.', with no '-' or '.' at the "
            f"beginning, at most {LONGEST_NAME} characters"
        )
    return name


def study_folder(name: str, runs_dir: Path) -> Path:
    """``runs/NAME``.

    Raises InputError where the name breaks the rule.
    """
    return Path(runs_dir) / check_name(name)


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file, whatever characters its path has."""
    try:
        return URL.create("sqlite", database=str(path.resolve())).render_as_string(hide_password=False)
    except UnicodeEncodeError:
        raise InputError(
            f"the folder {str(path.parent)!r} has a name that is no text; choose another --runs-dir"
        ) from None


def storage_url(name: str, storage: str | None, runs_dir: Path) -> str:
    """The URL of a study's storage; without one, that of the SQLite file ``runs/NAME/study.db``."""
    return storage or sqlite_url(study_folder(name, runs_dir) / "study.db")


def parsed_url(url: str) -> URL:
    """The parts of a URL that is no journal's.

    Raises InputError, without what may be a password, for a text that is no URL or whose password splits it elsewhere.
    """
    try:
        found = make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise InputError(f"--storage {shown(url)} is not a URL; {_EXAMPLES}") from None
    except ValueError:
        raise InputError(f"--storage {shown(url)} is not a URL: its port is no number; {_EXAMPLES}") from None
    if _split(url, found):
        raise InputError(
            f"--storage {shown(url)} is not a URL: where its password ends is not clear; write '@', ':', '/', '?' and "
            "'#' in a password as %40, %3A, %2F, %3F and %23"
        )
    return found


def _split(url: str, found: URL) -> bool:
    """Whether a sign in a password may have split a URL at the wrong place, so that its host is part of the password:
    in ``postgresql://host:1/db?password=a@b`` it would be b."""
    if found.get_backend_name() == "sqlite":
        return False
    authority = _AUTHORITY.match(url)
    before = url[: url.rfind("@")][authority.end() if authority else 0 :] if "@" in url else ""
    port_first = authority is not None and authority["port"] is not None and before != ""
    return not _HOST.fullmatch(found.host or "") or "?" in before or "#" in before or port_first


def file_of(url: str) -> Path | None:
    """The file of a storage; None for a database on a server."""
    if url.startswith(JOURNAL):
        return Path(url.removeprefix(JOURNAL))
    parsed = parsed_url(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def shown(url: str) -> str:
    """A storage's URL as it may be printed: without its password, wherever it stands. Never raises.

    Of a text that is no URL only the scheme is shown, since any part may be the password.
    """
    if url.startswith(JOURNAL):
        return f"{JOURNAL}{shown_file(url, url.removeprefix(JOURNAL))}"
    try:
        found = make_url(url)
        if not _split(url, found):
            return _shown(url, found)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        pass
    scheme = _SCHEME.match(url)
    return f"{scheme[0] if scheme else ''}***"


def shown_file(url: str, path: Path | str) -> str:
    """The path of a storage's file as it may be printed: not where ``user:password@`` stands in the URL, as a URL of a
    server with another scheme has it."""
    return "***" if _USER.search(unquote(url.partition("://")[2])) else str(path)


def _shown(text: str, url: URL) -> str:
    plain = set(url.query) <= _HARMLESS and all(isinstance(one, str) for one in url.query.values())
    options = "" if not url.query else "?***"
    if options and plain:
        options = "?" + "&".join(f"{name}={value}" for name, value in url.query.items())
    if url.get_backend_name() == "sqlite" and not url.host and not url.username:
        written = url.set(query={}).render_as_string() + options
        return written if shown_file(text, written) == written else f"{url.drivername}:///***"
    user = _plain(url.username, _PLAIN) + (":***" if url.password is not None else "")
    host = _plain(url.host, _HOST)
    place = f"[{host}]" if ":" in host else host
    port = f":{url.port}" if url.port is not None else ""
    database = "" if url.database is None else f"/{_plain(url.database, _PLAIN)}"
    return f"{url.drivername}://{user + '@' if user else ''}{place}{port}{database}{options}"


def _plain(part: str | None, form: re.Pattern[str]) -> str:
    return part or "" if form.fullmatch(part or "") else "***"


def secrets(url: URL) -> set[str]:
    """The texts that may be part of a URL's password, as a driver's message may repeat them."""
    whole = {url.password} if isinstance(url.password, str) else set()
    unclear = {piece for name, value in url.query.items() if name not in _HARMLESS for piece in _pieces(value)}
    if url.get_backend_name() != "sqlite":
        unclear |= {part for part in (url.username, url.database) if part and not _PLAIN.fullmatch(part)}
    # A message may repeat a part of it; two letters would be found in any message.
    pieces = {piece for part in unclear for piece in re.split(r"[:/@?&=#;]", part) if len(piece) > 2}
    found: set[str] = set()
    for part in whole | unclear | pieces:
        written = (part, quote(part, safe=""), quote_plus(part), unquote(part), repr(part)[1:-1])
        found |= {text for one in written for text in (one, one.strip()) if text}
    return found


def _pieces(value: str | tuple[str, ...]) -> Iterator[str]:
    yield from (value,) if isinstance(value, str) else value
