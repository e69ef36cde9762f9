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
from search.cli.talk import talk, watched


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


@app.command()
def clean(
    study: StudyName,
    keep: Annotated[
        int | None,
        typer.Option(min=0, help="Number of best searched trials whose checkpoints stay; default: those to confirm."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be freed, and free nothing.")] = False,
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Free the checkpoints that a study does not need any more.

    Checkpoints of the best searched trials, of baselines and confirmations and of trials that may go on stay, and all
    records. A freed trial can be trained again: splitpoint train --like STUDY:TRIAL.

    Example: splitpoint clean first --keep 3 --dry-run
    """
    from search.results.clean import clean as run
    from search.results.clean import size
    from search.study.open import open_study

    cleaned = run(open_study(study, storage, runs_dir), keep, dry_run)
    if dry_run:
        for one in cleaned.spares:
            print(f"{one.path}  {size(one.bytes)}  {one.why}")
    talk.print(f"{'would free' if dry_run else 'freed'} {cleaned}")
