"""Commands that look after a study on its hosts and disks: status and clean."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from search.cli.app import app
from search.cli.options import RUNS, RunsDir, Storage, StudyName
from search.cli.talk import watched


@app.command()
def status(
    study: StudyName,
    as_json: Annotated[bool, typer.Option("--json", help="Write everything as JSON.")] = False,
    last: Annotated[int, typer.Option(min=0, help="Number of ended trials to show.")] = 5,
    watch: Annotated[
        float | None, typer.Option(min=0.5, metavar="SECONDS", help="Show the status again every so many seconds.")
    ] = None,
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Say what runs where, how far it is, and when it will end.

    Reads the storage alone, so it works from any host that reaches it, while the search runs and later.

    Example: splitpoint status first --watch 5
    """
    from search.results.status import status as read
    from search.results.status import text
    from search.study.open import open_study

    opened = open_study(study, storage, runs_dir)
    if watch is not None:
        watched(lambda: Text(text(read(opened, last))), watch, Console())
    elif as_json:
        print(json.dumps(read(opened, last).as_dict(), indent=2))
    else:
        sys.stdout.write(text(read(opened, last)))
