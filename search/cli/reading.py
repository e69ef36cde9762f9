"""Commands that read a study: leaderboard, noise, export, report."""

from __future__ import annotations

import contextlib
import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from recon.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
from search.cli.app import app
from search.cli.options import RUNS, RunsDir, Storage, StudyName
from search.cli.talk import talk, watched


@app.command()
def studies(
    format: Annotated[Literal["table", "csv", "json"], typer.Option(help="Format of the table.")] = "table",
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """List the studies in the runs folder or in a storage.

    One line per study: its searched trials by state, its baselines and confirmations, the best objective, the data.

    Example: splitpoint studies --runs-dir runs
    """
    from search.results.text import objects, plain_table
    from search.study.address import shown
    from search.study.open import lost_studies
    from search.study.open import studies as listed

    found = listed(storage, runs_dir)
    if storage is None:
        for sentence in lost_studies(found["study"], runs_dir):
            talk.print(sentence)
    if format == "json":
        print(json.dumps(objects(found), indent=2))
    elif format == "csv":
        sys.stdout.write(found.to_csv(index=False))
    elif found.empty:
        talk.print(f"there is no study in {runs_dir if storage is None else shown(storage)}")
    else:
        sys.stdout.write(plain_table(found.assign(best=found["best"].map("{:.4f}".format, na_action="ignore"))))


@contextlib.contextmanager
def _no_collecting() -> Iterator[None]:
    """Keep Python from looking for garbage among objects that are all kept, which takes a third of a large table's
    time."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


@app.command()
def leaderboard(
    study: StudyName,
    format: Annotated[
        Literal["table", "csv", "json", "markdown", "parquet"], typer.Option(help="Format of the table.")
    ] = "table",
    out: Annotated[Path | None, typer.Option(help="File to write to; default: standard output.")] = None,
    confirmed: Annotated[
        bool, typer.Option("--confirmed", help="Show means over seeds of confirmed configurations.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Show running, stopped and failed trials too.")] = False,
    kind: Annotated[
        Literal["mtl", "joint", "stl", "stl-steps", "joint-stl", "joint-tuned", "transfer"] | None,
        typer.Option(help="Show only this kind of trial."),
    ] = None,
    stage: Annotated[
        Literal["search", "baseline", "confirm"] | None, typer.Option(help="Show only this stage.")
    ] = None,
    weighting: Annotated[str | None, typer.Option(help="Show only this weighting.")] = None,
    layout: Annotated[str | None, typer.Option(help="Show only layouts that match a glob, such as 'I2*'.")] = None,
    scarce_slices: Annotated[int | None, typer.Option("--n", help="Show only trials at this N.")] = None,
    sort: Annotated[str | None, typer.Option(help="Column to sort by; default: the objective.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Number of rows to show; default: all.")] = None,
    watch: Annotated[
        float | None, typer.Option(min=0.5, metavar="SECONDS", help="Show the table again every so many seconds.")
    ] = None,
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Rank a study's trials; works while the search runs.

    Example: splitpoint leaderboard first --all --sort ssim/PDw-FS --format csv
    """
    with _no_collecting():
        from search.results import leaderboard, text
        from search.study.open import open_study

        form = text.Format(format)
        choice = leaderboard.Selection(everything, kind, stage, weighting, layout, scarce_slices, sort, top)
        opened = open_study(study, storage, runs_dir)

    @_no_collecting()
    def frame() -> pd.DataFrame:
        found = leaderboard.confirmed(opened, choice) if confirmed else leaderboard.leaderboard(opened, choice)
        if found.empty and watch is None:
            talk.print("no finished trial" + ("" if everything else " yet; --all shows the others too"))
        return found

    if watch is not None:
        console = Console()
        watched(lambda: text.rich_table(frame(), opened.name, console.width), watch, console)
    elif form is text.Format.table and out is None and sys.stdout.isatty():
        console = Console()
        console.print(text.rich_table(frame(), opened.name, console.width))
    else:
        text.write(frame(), form, out)


@app.command()
def noise(
    study: StudyName,
    format: Annotated[Literal["text", "json"], typer.Option(help="Format of tables and verdict.")] = "text",
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Say which layouts differ, and how much of it is chance.

    Trainings over seeds (confirmations, a grid) give the layouts' effect, the noise of one run, and groups of layouts
    that can be told apart. Searched trials give the effects of the kinds of blocks. A verdict then names only what is
    sure.

    Example: splitpoint noise first --format json
    """
    from search.results.noise.study import facts, study_noise, tables
    from search.results.noise.words import dumped
    from search.results.text import plain_table
    from search.study.open import open_study

    found = study_noise(open_study(study, storage, runs_dir))
    if format == "json":
        print(dumped(facts(found)))
        return
    for title, table in tables(found):
        sys.stdout.write(f"{title}\n{plain_table(table)}\n")
    for sentence in found.missing:
        talk.print(sentence)
    print(found.verdict)


@app.command()
def export(
    study: StudyName,
    trial: Annotated[
        str | None, typer.Option(help="Name of a trial in the leaderboard; default: the confirmed best.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the bundle; default: RUNS_DIR/STUDY/bundle.")] = None,
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Export the confirmed best, or one trial, as a bundle.

    Writes weights (safetensors), configuration, a card, and one network per task with only that task's path.

    Example: splitpoint export first --out bundles/knee
    """
    from search.results.export import export as run
    from search.study.open import open_study

    exported = run(open_study(study, storage, runs_dir), trial, out)
    talk.print(exported.why)
    print(exported.folder)


@app.command()
def report(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of a study, or a folder of results.")],
    tables: Annotated[
        bool, typer.Option("--tables", help="Write the paper's tables and paired differences to standard output.")
    ] = False,
    figures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to draw curves, differences and reconstructed slices into."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="ROW", help="Row to show differences from as well, named as in the tables; repeatable."),
    ] = None,
    format: Annotated[Literal["text", "markdown", "latex"], typer.Option(help="Format of the tables.")] = "text",
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Report a study: tables and figures in the paper's form.

    Shows means over seeds with standard errors, and paired differences from STL, transfer and others with 95 %
    intervals over seeds and test volumes; ▼ is negative transfer. Run `splitpoint test --study` first. The report needs
    only a folder with trials.json and tables (RUNS_DIR/STUDY/test, or a copy of it).

    Example: splitpoint report paper --tables --format markdown --figures figures
    """
    from search.report.compare import Comparison
    from search.report.figures import draw_figures
    from search.report.tables import legend, write
    from search.report.tables import tables as make
    from search.results.folder import ABOUT, read_results

    if not tables and figures is None:
        raise InputError("say what to report: give --tables, --figures DIR, or both")
    folder = Path(study)
    if not (folder / ABOUT).is_file() and len(folder.parts) == 1 and study not in (".", ".."):
        folder = study_results(study, storage, runs_dir)
    comparison = Comparison(read_results(folder))
    if tables:
        sys.stdout.write(write(make(comparison, against or ()), format, legend(comparison)))
    if figures is not None:
        drawn = draw_figures(comparison, figures)
        for path in drawn.paths:
            print(path)
        if drawn.without:
            talk.print(
                f"no pictures of {', '.join(drawn.without)}: they need the images of STL and a multi-task network in "
                f"{folder / 'images'}"
            )


def study_results(study: str, storage: str | None, runs_dir: Path) -> Path:
    """A study's folder of results."""
    from search.results.folder import ABOUT
    from search.study.open import open_study
    from search.study.storage import study_folder

    folder = study_folder(study, runs_dir) / "test"
    if not (folder / ABOUT).is_file():
        open_study(study, storage, runs_dir)
        raise InputError(f"{folder / ABOUT} is missing; run splitpoint test --study {study} first")
    return folder
