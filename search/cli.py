"""The command line: each command is a thin coat over a function in Python.

Machine output goes to stdout, talk to stderr. Exit codes: 0 done, 1 failed while running, 2 wrong input, said in one sentence.
Heavy imports stand inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from recon.errors import InputError

app = typer.Typer(
    name="splitpoint",
    help="Find where a multi-task MR reconstruction network should split.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
talk = Console(stderr=True, highlight=False, soft_wrap=True)

RunsDir = Annotated[
    Path,
    typer.Option("--runs-dir", envvar="SPLITPOINT_RUNS", help="Where studies live, a folder each.", show_default=True),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""
    try:
        app()
    except InputError as error:
        talk.print(f"splitpoint: {error}", markup=False, style="red")
        sys.exit(2)
    except KeyboardInterrupt:
        talk.print("splitpoint: interrupted; the same command goes on from here")
        sys.exit(130)
