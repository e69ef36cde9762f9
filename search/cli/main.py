"""The command line: each command is a thin wrapper around a Python function.

Machine output goes to stdout, talk to stderr. Exit codes: 0 done, 1 failed while running, 2 wrong input, said in one
sentence. Heavy imports stand inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import sys

import typer

from recon.errors import InputError, complaint, said_of
from search.cli.app import app, complain
from search.errors import SearchError, Terminated

CONTINUED = ("prepare", "train", "launch", "confirm")
"""Commands that go on where an interrupted run of theirs ended."""


def main() -> None:
    """Run the command line on ``sys.argv``; a user's mistake is one sentence and exit code 2."""
    arguments = sys.argv[1:] or ["--help"]
    try:
        code = app(arguments, prog_name="splitpoint", standalone_mode=False) or 0
    except InputError as error:
        code = complain(str(error), 2)
    except typer.TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "splitpoint")
        code = complain(f"{usage(error)}; see {command} --help", error.exit_code)
    except SearchError as error:
        code = complain(str(error), 1)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            # One that names a file is the user's to mend: a full disk, a folder that may not be written.
            code = complain(f"{error.filename}: {error.strerror}", 2 if error.errno in USERS else 1)
        elif (said := storage_trouble(error)) is not None:
            code = complain(said, 1)
        else:
            raise
    except Terminated:
        code = 143
    except KeyboardInterrupt:
        code = 130
    if code in (130, 143):
        complain("interrupted" + ("; the same command goes on from here" if arguments[0] in CONTINUED else ""), code)
    sys.exit(code)


def storage_trouble(error: Exception) -> str | None:
    """What to say if a study's storage failed while a command read or wrote it; None for any other error."""
    if "sqlalchemy" not in sys.modules:
        return None
    from search.study.storage import cause, is_away

    return f"the study's storage failed: {cause(error)}" if is_away(error) else None


USERS = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENAMETOOLONG, errno.EINVAL),
}
"""Errors of the system that a path which the user gave causes; a full disk is none of them."""


def usage(error: typer.TyperException) -> str:
    """What is wrong with the arguments, with the value found."""
    from pydantic import ValidationError  # a tenth of a second, which help need not wait for

    option = next(iter(getattr(getattr(error, "param", None), "opts", [])), None)
    if isinstance(error.__cause__, ValidationError) and option is not None:
        return said_of(option, complaint(error.__cause__.errors()[0]))
    return error.format_message().rstrip(".")
