"""The command line: each command is a thin coat over a function in Python.

Machine output goes to stdout, talk to stderr. Exit codes: 0 done, 1 failed while running, 2 wrong input, said in one
sentence. Heavy imports stand inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.text import Text

from recon.config import MasksConfig, WeightingKind
from recon.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Model = TypeVar("Model", bound=BaseModel)

app = typer.Typer(
    name="splitpoint",
    help="Find where a multi-task MR reconstruction network should split.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
talk = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
CONTINUED = ("prepare", "train", "launch", "confirm")
"""Commands that go on where an interrupted run of theirs ended."""

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="The study's name.")]
Storage = Annotated[
    str | None,
    typer.Option(
        help="Optuna URL, or journal://PATH; without it RUNS_DIR/STUDY/study.db.", envvar="SPLITPOINT_STORAGE"
    ),
]
RunsDir = Annotated[Path, typer.Option(envvar="SPLITPOINT_RUNS", help="Where studies live, a folder each.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]


def use_threads(threads: int) -> int:
    """Let PyTorch compute with so many threads from here on: its own default, one a core, takes two to three times as
    long where other work runs."""
    import torch

    torch.set_num_threads(threads)
    return threads


Threads = Annotated[
    int,
    typer.Option(min=1, callback=use_threads, help="Processor threads; several pay where nothing else runs."),
]
Data = Annotated[Path, typer.Option(help="Prepared data set.")]
Address = Annotated[
    str | None,
    typer.Option(help="Of a Ray cluster: auto on one of its hosts, or HOST:PORT; without it a Ray of its own, here."),
]
Cpus = Annotated[float, typer.Option(min=0.1, help="Processors a trial.")]
Gpus = Annotated[
    float | None,
    typer.Option(min=0, help="GPUs a trial, such as 0.5; without it 1 where the cluster has any, else 0."),
]
Concurrent = Annotated[int | None, typer.Option(min=1, help="Trials side by side; without it as many as fit.")]
Failures = Annotated[int, typer.Option(min=0, help="Retries of a trial whose worker died, from its last checkpoint.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Let Ray speak.")]

RUNS = Path("runs")
PROBLEMS_SHOWN = 20
"""Lines of findings that prepare prints; all are in problems.csv."""


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
    except OSError as error:
        # One that names a file is the user's to mend: a full disk, a folder that may not be written.
        if error.filename is None:
            raise
        code = complain(f"{error.filename}: {error.strerror}", 1)
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        complain("interrupted" + ("; the same command goes on from here" if arguments[0] in CONTINUED else ""), code)
    sys.exit(code)


def complain(sentence: str, code: int) -> int:
    """Say what is wrong in one line on stderr; the exit code is handed back."""
    talk.print("splitpoint: " + " ".join(line.strip() for line in sentence.splitlines()))
    return code


@app.command()
def simulate(
    out: Annotated[
        Path, typer.Argument(metavar="OUT_DIR", help="Folder for the raw files, with train/, val/ and test/ inside.")
    ],
    train: Annotated[int, typer.Option(help="Training subjects; each gives one volume a contrast.")] = 8,
    val: Annotated[int, typer.Option(help="Validation subjects.")] = 2,
    test: Annotated[int, typer.Option(help="Test subjects, from a knee that no other subject comes from.")] = 2,
    matrix: Annotated[int, typer.Option(help="Rows and columns of the reconstructed image.")] = 320,
    slices: Annotated[int, typer.Option(help="Coronal slices a volume.")] = 30,
    coils: Annotated[int, typer.Option(help="Receive coils.")] = 15,
    snr: Annotated[
        float,
        typer.Option(help="Of muscle in the proton-density scan, coils combined; inspect says the ceiling it sets."),
    ] = 30.0,
    seed: Annotated[int, typer.Option(help="Reproduces every file bit for bit.")] = 0,
    format: Annotated[
        Literal["fastmri", "ismrmrd", "hammernik", "cfl", "numpy"],
        typer.Option(help="Of the files; fastMRI's HDF5, ISMRMRD with a noise scan, MATLAB's, BART's or NumPy's."),
    ] = "fastmri",
    workers: Annotated[int, typer.Option(min=1, help="Subjects made side by side.")] = os.cpu_count() or 1,
) -> None:
    """Simulate raw two-contrast knee k-space.

    Example: splitpoint simulate data/raw --train 8 --val 2 --test 2 --matrix 64 --coils 8
    """
    from recon.simulate import simulate as run
    from search.parallel import side_by_side

    with bar("simulating", "volumes") as step, side_by_side(workers) as mapped:
        files = run(
            out,
            subjects={"train": train, "val": val, "test": test},
            matrix=matrix,
            slices=slices,
            coils=coils,
            snr=snr,
            seed=seed,
            format=format,
            map=mapped,
            progress=step,
        )
    talk.print(f"{len(files)} volumes in {out}")


@app.command()
def prepare(
    raw: Annotated[list[Path], typer.Argument(metavar="RAW", help="Raw files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder of the prepared data set.")],
    task: Annotated[
        list[str] | None, typer.Option(metavar="NAME=GLOB", help="Task of the files that a glob matches; repeatable.")
    ] = None,
    calibration: Annotated[
        Literal["full", "mask"], typer.Option(help="ESPIRiT from the full centre, or from what a mask keeps.")
    ] = "full",
    calibration_width: Annotated[int, typer.Option(help="Edge of ESPIRiT's calibration region.")] = 24,
    eigenvalue_crop: Annotated[float, typer.Option(help="Maps are zero below this of ESPIRiT's eigenvalue.")] = 0.95,
    espirit: Annotated[
        Literal["splitpoint", "bart"], typer.Option(help="Whose ESPIRiT: ours, or BART's where it is installed.")
    ] = "splitpoint",
    maps: Annotated[
        Literal["espirit", "own"], typer.Option(help="Maps by ESPIRiT, or those that come with the raw data.")
    ] = "espirit",
    prewhiten: Annotated[
        Literal["auto", "scan", "edge", "off"],
        typer.Option(help="By the noise scan where there is one, by it alone, by the corners of k-space, or not."),
    ] = "auto",
    coils: Annotated[int | None, typer.Option(help="Compress to this many virtual coils.")] = None,
    compression: Annotated[
        Literal["svd", "geometric"], typer.Option(help="One matrix a volume, or one for each readout position.")
    ] = "svd",
    axes: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Of NumPy arrays: 'slices coils rows columns' in their order.")
    ] = None,
    oversampling: Annotated[float, typer.Option(help="Of the readout, in files without a header.")] = 1.0,
    patients: Annotated[
        Literal["header", "files"], typer.Option(help="Whose a volume is: by its header, or each its own.")
    ] = "header",
    reuse: Annotated[
        list[Path] | None,
        typer.Option(metavar="PREPARED", help="Data set whose maps of the same samples are taken; repeatable."),
    ] = None,
    split: Annotated[
        Literal["auto", "folders", "random"],
        typer.Option(help="By folders named train, val and test, or drawn; auto looks whether there are such folders."),
    ] = "auto",
    split_seed: Annotated[int, typer.Option(help="Of a drawn split.")] = 0,
    subset_seed: Annotated[int, typer.Option(help="Of the nested subsets of a scarce task.")] = 0,
    address: Address = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Volumes side by side; without it as many as fit.")] = None,
) -> None:
    """Prepare raw k-space for training.

    ISMRMRD, fastMRI's HDF5, Hammernik's .mat, BART's .cfl and NumPy's .npy. Coil maps, targets, the split, and nested
    subsets of each task, in one folder; what was found wrong with a file is shown, and stands in problems.csv. The same
    command again continues what is unfinished.

    Example: splitpoint prepare data/raw --out data/prepared
    """
    import pandas as pd

    from recon.data.prepare import prepare as run
    from recon.data.prepared import PrepareOptions
    from recon.data.readers import Hints
    from search.parallel import ray_map

    globs = dict(named_glob(text) for text in task or [])
    options = options_of(
        PrepareOptions,
        calibration=calibration,
        calibration_width=calibration_width,
        eigenvalue_crop=eigenvalue_crop,
        espirit=espirit,
        maps=maps,
        prewhiten=prewhiten,
        coils=coils,
        compression=compression,
        hints=options_of(
            Hints, axes=tuple(axes.replace(",", " ").split()) if axes else None, oversampling=oversampling
        ),
        patients=patients,
        split=split,
        split_seed=split_seed,
        subset_seed=subset_seed,
        tasks=globs,
    )
    with bar("preparing", "volumes") as step, ray_map(address=address, workers=workers) as mapped:
        report = run(
            raw, out, options, reuse=reuse or [], map=mapped, progress=lambda done, total, result: step(done, total)
        )
    for problem in report.problems.head(PROBLEMS_SHOWN).itertuples():
        where = "" if problem.slice is pd.NA else f" slice {problem.slice}:"
        talk.print(f"{problem.severity}: {problem.file}:{where} {problem.what}")
    if len(report.problems) > PROBLEMS_SHOWN:
        talk.print(f"{len(report.problems) - PROBLEMS_SHOWN} more such lines in {out / 'problems.csv'}")
    done = (
        f"{len(report.prepared)} volumes prepared, {len(report.kept)} kept, {len(report.duplicates)} listed twice, "
        f"{len(report.failed)} left out"
    )
    talk.print(f"{done} in {report.seconds:.0f} s: {out}, hash {(report.hash or 'none')[:12]}")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def inspect(
    data: Annotated[Path, typer.Argument(metavar="PREPARED", help="Prepared data set.")],
    out: Annotated[
        Path | None, typer.Option(help="Contact sheet (PNG); without it PREPARED/contact_sheet.png.")
    ] = None,
    slices: Annotated[int, typer.Option(min=1, help="Slices of each task on the sheet.")] = 3,
    space: Annotated[
        Path | None, typer.Option(help="Space (YAML) whose masks are counted and drawn; without it the paper's.")
    ] = None,
) -> None:
    """Say what prepared data hold, and draw a contact sheet.

    A line for each task and split on standard output; images, maps and masks of a few slices in a picture. Of simulated
    data also the ceiling: the SSIM of the noise-free truth on validation. Where it is low, simulate at a higher --snr.

    Example: splitpoint inspect data/prepared --space spaces/quickstart.yaml
    """
    from recon.data.inspect import contact_sheet, summary
    from recon.data.prepared import TRUTH, TRUTH_IS, PreparedData
    from search.leaderboard import plain_table
    from spaces.schema import load_space

    prepared = PreparedData(data)
    masks = load_space(space).training.masks if space is not None else MasksConfig()
    table = summary(prepared, masks)
    if "ceiling" in table:
        table["ceiling"] = table["ceiling"].round(3)
    sys.stdout.write(plain_table(table))
    if "ceiling" in table:
        talk.print(f"ceiling: mean SSIM, definition «paper», of the {TRUTH} on validation. {TRUTH_IS}")
    path = contact_sheet(prepared, out or data / "contact_sheet.png", slices=slices, mask=masks.val)
    talk.print(f"hash {prepared.hash[:12]}, contact sheet {path}")


@app.command()
def train(
    data: Annotated[Path, typer.Argument(metavar="PREPARED", help="Prepared data set.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; a training found there goes on.")],
    layout: Annotated[str, typer.Option(help="Kind of each block: I shared, Y multi-head, V split.")] = "I2V10",
    task: Annotated[
        list[str] | None, typer.Option(help="Task to train; repeatable; without it all that the data hold.")
    ] = None,
    slices: Annotated[
        list[str] | None, typer.Option(metavar="TASK=N", help="Training slices of a task; repeatable.")
    ] = None,
    cut: Annotated[
        Literal["volumes", "slices"], typer.Option(help="Cut a task by whole volumes, or by slices at random.")
    ] = "volumes",
    weighting: Annotated[WeightingKind, typer.Option(help="Of the tasks' losses.")] = "naive",
    channels: Annotated[int, typer.Option(help="Of the U-Net's first layer.")] = 18,
    pools: Annotated[int, typer.Option(help="Of the U-Net.")] = 4,
    epochs: Annotated[int, typer.Option(help="Passes over the training slices.")] = 120,
    batch_size: Annotated[int, typer.Option(help="Slices a step.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Of Adam; the peak where the schedule is one-cycle.")] = 2e-4,
    schedule: Annotated[
        Literal["constant", "one-cycle", "cosine"], typer.Option(help="Of the learning rate.")
    ] = "constant",
    clip_norm: Annotated[float | None, typer.Option(help="Clip the gradient's norm.")] = None,
    acceleration: Annotated[
        list[float] | None, typer.Option(help="Of training masks; repeatable; the mean serves validation.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and masks.")] = 0,
    init: Annotated[Path | None, typer.Option(help="Checkpoint to start from (transfer).")] = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Train one network, without a search.

    Example: splitpoint train data/prepared --layout I2V10 --slices PDw-FS=32 --epochs 10 --out runs/one
    """
    from recon import training
    from recon.config import MaskConfig, MasksConfig, NetworkConfig, TrainConfig, WeightingConfig
    from recon.data.prepared import PreparedData

    prepared = PreparedData(data)
    masks = MasksConfig()
    if acceleration:
        middle = (sum(acceleration) / len(acceleration),)
        masks = MasksConfig(
            train=options_of(
                MaskConfig, accelerations=tuple(acceleration), centre_fractions=masks.train.centre_fractions
            ),
            val=options_of(MaskConfig, accelerations=middle, centre_fractions=masks.val.centre_fractions),
            test=options_of(MaskConfig, accelerations=middle, centre_fractions=masks.test.centre_fractions),
        )
    config = options_of(
        TrainConfig,
        tasks=tuple(task) if task else prepared.tasks,
        network=options_of(NetworkConfig, layout=layout, channels=channels, pools=pools),
        weighting=options_of(WeightingConfig, kind=weighting),
        slices=dict(named_count(text) for text in slices or []),
        cut=cut,
        masks=masks,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        clip_norm=clip_norm,
        seed=seed,
    )
    checkpoint = out / "checkpoint"
    resume = checkpoint if checkpoint.is_dir() else None
    if resume is not None:
        state, trained = training.load_checkpoint(resume)
        if trained == config:
            rest = "going on from there" if state["epoch"] < epochs else "nothing is left to do"
            talk.print(f"{resume} has {state['epoch']} of {epochs} epochs; {rest}")

    weights = [f"weight/{one}" for one in config.tasks] if len(config.tasks) > 1 else []

    def report(epoch: training.EpochReport) -> None:
        epoch.save(checkpoint)
        numbers = "  ".join(
            f"{name} {epoch.metrics[name]:.4f}" for name in ["loss", *(f"ssim/{one}" for one in config.tasks), *weights]
        )
        talk.print(f"epoch {epoch.epoch}/{epochs}  {numbers}  {epoch.metrics['seconds']:.0f} s")

    try:
        training.train(config, prepared, init=init, resume=resume, device=device, report=report)
    except training.TrainingError as error:
        raise typer.Exit(complain(str(error), 1)) from error
    print(checkpoint)


@app.command()
def launch(
    space: Annotated[
        Path, typer.Argument(metavar="SPACE", help="Space to search (YAML), such as spaces/quickstart.yaml.")
    ],
    data: Data,
    study: Annotated[str, typer.Option(help="Name of the study; the same name again goes on.")],
    trials: Annotated[int | None, typer.Option(min=1, help="Searched trials, instead of the space's number.")] = None,
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
    address: Address = None,
    cpus_per_trial: Cpus = 1,
    gpus_per_trial: Gpus = None,
    max_concurrent: Concurrent = None,
    max_failures: Failures = 2,
    verbose: Verbose = False,
) -> None:
    """Search a space; poor trials stop early.

    Baselines and known configurations first, then what the sampler chooses. The same command again continues what is
    unfinished; a larger --trials extends a finished search.

    Example: splitpoint launch spaces/quickstart.yaml --data data/prepared --study first
    """
    from search.launch import Resources
    from search.launch import launch as run
    from spaces.schema import load_space

    loaded = load_space(space)
    if trials is not None:
        loaded = loaded.model_copy(update={"trials": trials})
    resources = Resources(cpus_per_trial, gpus_per_trial, max_concurrent, max_failures)
    outcome = run(
        loaded, data, study, storage=storage, runs_dir=runs_dir, address=address, resources=resources, verbose=verbose
    )
    finish(outcome)


@app.command()
def confirm(
    study: StudyName,
    top: Annotated[int | None, typer.Option(min=1, help="Leaders to retrain; without it the space's number.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds of each, baselines too; without it the space's number.")
    ] = None,
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
    address: Address = None,
    cpus_per_trial: Cpus = 1,
    gpus_per_trial: Gpus = None,
    max_concurrent: Concurrent = None,
    max_failures: Failures = 2,
    verbose: Verbose = False,
) -> None:
    """Retrain the leaders and the baselines over seeds.

    The best of many trials is better than it would be again: only what is confirmed is believed. The same command again
    continues what is unfinished, and more --seeds or a larger --top extend it.

    Example: splitpoint confirm first --top 3 --seeds 3
    """
    from search.confirm import confirm as run
    from search.launch import Resources

    resources = Resources(cpus_per_trial, gpus_per_trial, max_concurrent, max_failures)
    outcome = run(
        study, top, seeds, storage=storage, runs_dir=runs_dir, address=address, resources=resources, verbose=verbose
    )
    finish(outcome)


@app.command()
def leaderboard(
    study: StudyName,
    format: Annotated[
        Literal["table", "csv", "json", "markdown", "parquet"], typer.Option(help="How the table is written.")
    ] = "table",
    out: Annotated[Path | None, typer.Option(help="Write here instead of to standard output.")] = None,
    confirmed: Annotated[
        bool, typer.Option("--confirmed", help="Means over the seeds of confirmed configurations.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Running, stopped and failed trials too.")] = False,
    kind: Annotated[
        Literal["mtl", "joint", "stl", "stl-steps", "joint-stl", "joint-tuned", "transfer"] | None,
        typer.Option(help="Only these."),
    ] = None,
    stage: Annotated[Literal["search", "baseline", "confirm"] | None, typer.Option(help="Only these.")] = None,
    weighting: Annotated[str | None, typer.Option(help="Only this weighting.")] = None,
    layout: Annotated[str | None, typer.Option(help="Only layouts that match a glob, such as 'I2*'.")] = None,
    scarce_slices: Annotated[int | None, typer.Option("--n", help="Only this N.")] = None,
    sort: Annotated[str | None, typer.Option(help="Column to sort by; without it the objective.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    watch: Annotated[
        float | None, typer.Option(min=0.5, metavar="SECONDS", help="Draw the table again and again.")
    ] = None,
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Rank a study's trials; works while the search runs.

    Example: splitpoint leaderboard first --all --sort ssim/PDw-FS --format csv
    """
    from search import leaderboard as board
    from search.study import open_study

    form = board.Format(format)
    choice = board.Choice(everything, kind, stage, weighting, layout, scarce_slices, sort, top)
    opened = open_study(study, storage, runs_dir)

    def frame() -> pd.DataFrame:
        found = board.confirmed(opened, choice) if confirmed else board.leaderboard(opened, choice)
        if found.empty and watch is None:
            talk.print("no finished trial" + ("" if everything else " yet; --all shows the others too"))
        return found

    if watch is not None:
        console = Console()
        watched(lambda: board.rich_table(frame(), opened.name, console.width), watch, console)
    elif form is board.Format.table and out is None and sys.stdout.isatty():
        console = Console()
        console.print(board.rich_table(frame(), opened.name, console.width))
    else:
        board.write(frame(), form, out)


@app.command()
def noise(
    study: StudyName,
    format: Annotated[Literal["text", "json"], typer.Option(help="How tables and verdict are written.")] = "text",
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Say which layouts differ, and how much of it is chance.

    From trainings over seeds (confirmations, a grid): the layouts' effect, the noise of one run, and groups of layouts
    that can be told apart. From searched trials: what kinds of blocks do. Then a verdict that names only what is sure.

    Example: splitpoint noise first --format json
    """
    from search import noise as measured
    from search.leaderboard import plain_table
    from search.study import open_study

    found = measured.study_noise(open_study(study, storage, runs_dir))
    if format == "json":
        print(measured.dumped(measured.facts(found)))
        return
    for title, table in measured.tables(found):
        sys.stdout.write(f"{title}\n{plain_table(table)}\n")
    for sentence in found.missing:
        talk.print(sentence)
    print(found.verdict)


@app.command()
def export(
    study: StudyName,
    trial: Annotated[
        str | None, typer.Option(help="A trial by its name in the leaderboard; without it the confirmed best.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the bundle; without it RUNS_DIR/STUDY/bundle.")] = None,
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Export the confirmed best, or one trial, as a bundle.

    Weights (safetensors), configuration, a card, and for each task a network with only its path.

    Example: splitpoint export first --out bundles/knee
    """
    from search.export import export as run
    from search.study import open_study

    exported = run(open_study(study, storage, runs_dir), trial, out)
    talk.print(exported.why)
    print(exported.folder)


@app.command()
def report(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="The study's name, or a folder of results, which stands alone.")
    ],
    tables: Annotated[
        bool, typer.Option("--tables", help="The paper's tables and paired differences, on standard output.")
    ] = False,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Draw curves, differences and pictures of reconstructed slices into a folder."
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="ROW", help="Also differences from this row, named as tables name it; repeatable."),
    ] = None,
    format: Annotated[
        Literal["text", "markdown", "latex"], typer.Option(help="Of the tables on standard output.")
    ] = "text",
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Report a study: tables and figures in the paper's form.

    Means over seeds with standard errors, and paired differences from STL, transfer and others with 95 % intervals over
    seeds and test volumes; ▼ is negative transfer. Needs `splitpoint test --study` first. A folder that holds
    trials.json and tables (RUNS_DIR/STUDY/test, or a copy of it) is all that it takes.

    Example: splitpoint report paper --tables --format markdown --figures figures
    """
    from search.report.compare import Comparison
    from search.report.figures import draw
    from search.report.tables import legend, write
    from search.report.tables import tables as make
    from search.results import ABOUT, read_results

    if not tables and figures is None:
        raise InputError("say what to report: give --tables, --figures DIR, or both")
    folder = Path(study)
    if not (folder / ABOUT).is_file() and len(folder.parts) == 1 and study not in (".", ".."):
        folder = study_results(study, storage, runs_dir)
    comparison = Comparison(read_results(folder))
    if tables:
        sys.stdout.write(write(make(comparison, against or ()), format, legend(comparison)))
    if figures is not None:
        drawn = draw(comparison, figures)
        for path in drawn.paths:
            print(path)
        if drawn.without:
            talk.print(
                f"no pictures of {', '.join(drawn.without)}: they need the images of STL and a multi-task network in "
                f"{folder / 'images'}"
            )


@app.command("test")
def run_test(
    bundle: Annotated[Path | None, typer.Argument(metavar="[BUNDLE]", help="An exported bundle.")] = None,
    data: Annotated[Path | None, typer.Option(help="Prepared data set; a study knows its own.")] = None,
    study: Annotated[
        str | None, typer.Option(metavar="STUDY", help="Instead of a bundle: every network of a study, over its seeds.")
    ] = None,
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
    workers: Annotated[int, typer.Option(min=1, help="Networks of a study tested side by side.")] = os.cpu_count() or 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder of tables and pictures; without it test/ beside the bundle.")
    ] = None,
    classical: Annotated[
        bool, typer.Option(help="Also sigpy's ℓ1-wavelet reconstruction, tuned on validation.")
    ] = True,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Test a bundle on the test split, which nothing else opens.

    Beside the network stand the zero-filled image and sigpy's ℓ1-wavelet reconstruction, and of simulated data the
    noise-free truth, which is their ceiling. The summary goes to standard output, tables of every slice and a picture
    of each task into the folder.

    With --study, instead: every network that the study trained over its seeds, slice by slice, for its report's tables.
    The same command again tests what is new.

    Example: splitpoint test runs/first/bundle --data data/prepared
    """
    from recon import bundle as bundles
    from recon.data.prepared import TRUTH, TRUTH_IS, PreparedData
    from recon.final_test import NETWORK, final_test
    from recon.training import choose_device
    from search.leaderboard import plain_table

    if (bundle is None) == (study is None):
        raise InputError("give a bundle, or a study with --study")
    if study is not None:
        if out is not None or not classical:
            raise InputError("--out and --no-classical are of a bundle's test; a study's goes into its own folder")
        test_networks(study, storage, runs_dir, data, workers, str(choose_device(device)))
        return
    assert bundle is not None
    if data is None:
        raise InputError("--data is missing: the prepared data whose test split is opened")
    loaded = bundles.load(bundle)
    folder = out or bundle.resolve().parent / "test"
    with talk.status("testing") as status:
        result = final_test(
            loaded,
            PreparedData(data, open_test=True),
            folder,
            classical=classical,
            device=str(choose_device(device)),
            progress=lambda line: status.update(Text(f"testing: {line}")),
        )
    shown = result.summary[result.summary["definition"] == "paper"]
    names = ["task", "method", "volumes", "slices", "ssim_mean", "ssim_std", "psnr_mean", "nrmse_mean"]
    sys.stdout.write(plain_table(shown[names].round(4)))
    for line in against_classical(result.slices):
        talk.print(line)
    if shown["method"].eq(TRUTH).any():
        talk.print(TRUTH_IS)
    for kind, suffix in (("tables", ".csv"), ("pictures", ".png")):
        paths = [str(path) for path in result.files if path.suffix == suffix]
        talk.print(f"{kind}: {'  '.join(paths)}")
    talk.print(f"bundle: {bundle} ({loaded.config.network.layout}, method «{NETWORK}» above)")


@app.command()
def reconstruct(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="An exported bundle.")],
    raw: Annotated[list[Path], typer.Argument(metavar="RAW", help="Raw files, or folders of them, in any format.")],
    out: Annotated[Path, typer.Option(help="File, or folder of files named as the raw ones.")],
    task: Annotated[str | None, typer.Option(help="Which of the bundle's tasks; without it as the file says.")] = None,
    axes: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Of NumPy arrays: 'slices coils rows columns' in their order.")
    ] = None,
    oversampling: Annotated[float, typer.Option(help="Of the readout, in files without a header.")] = 1.0,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Run a bundle on raw files, into fastMRI's layout.

    A file with `reconstruction` (slices, rows, columns) for each raw one, which fastMRI's own evaluation reads.
    Prepared as the bundle's training data were. Files acquired in part are reconstructed from their own lines, fully
    sampled ones from those that the bundle's test mask keeps.

    Example: splitpoint reconstruct runs/first/bundle data/raw/test --out reconstructions
    """
    from recon import bundle as bundles
    from recon.data.prepare import find
    from recon.data.readers import Hints
    from recon.reconstruct import reconstruct_file, remembered_options

    loaded = bundles.load(bundle)
    options = remembered_options(loaded)
    named = axis_names(axes)
    if named or oversampling != 1.0:
        options = options.model_copy(update={"hints": options_of(Hints, axes=named, oversampling=oversampling)})
    files = [source.path for source in find(raw)]
    if len(files) > 1 and (out.is_file() or out.suffix):
        raise InputError(f"--out {out} is one file, and there are {len(files)} to reconstruct; give a folder")
    failed = 0
    with bar("reconstructing", "volumes") as step:
        for done, file in enumerate(files, start=1):
            try:
                made = reconstruct_file(loaded, file, out, task=task, options=options, device=device)
            except InputError as error:
                if len(files) == 1:
                    raise
                failed += 1
                complain(str(error), 1)
            else:
                print(made.path)
            step(done, len(files))
    if failed:
        raise typer.Exit(complain(f"{failed} of {len(files)} files were left out", 1))


def against_classical(slices: pd.DataFrame) -> Iterator[str]:
    """The network's SSIM minus the ℓ1-wavelet's for each task, paired by slice, with an interval over volumes."""
    from recon.definitions import L1_WAVELET
    from recon.final_test import NETWORK
    from search.report.compare import difference

    paper = slices[slices["definition"] == "paper"]
    for task, rows in paper.groupby("task", sort=False):
        ssim = rows.pivot(index=["volume", "slice"], columns="method", values="ssim")
        if L1_WAVELET in ssim:
            found = difference((ssim[NETWORK] - ssim[L1_WAVELET]).to_frame())
            interval = "" if math.isnan(found.low) else f" [{found.low:+.4f}, {found.high:+.4f}]"
            yield f"{task}: {NETWORK} minus {L1_WAVELET} {found.mean:+.4f}{interval}, 95 % over volumes"


def test_networks(
    study: str, storage: str | None, runs_dir: Path, data: Path | None, workers: int, device: str
) -> None:
    """Test a study's networks, and print the mean of each configuration over its seeds."""
    from recon.data.prepared import TRUTH, TRUTH_IS
    from search.leaderboard import plain_table
    from search.parallel import side_by_side
    from search.results import KEYS, TABLE
    from search.study import open_study
    from search.tested import study_test

    opened = open_study(study, storage, runs_dir)
    with bar("testing", "networks") as step, side_by_side(workers) as mapped:
        table = study_test(opened, data, device=device, map=mapped, progress=step)
    groups = [one for one in (*KEYS, "task") if one not in ("trial", "seed")]
    by_seed = table.groupby([*groups, "seed"], dropna=False, sort=False)[["ssim", "psnr", "nrmse"]].mean().reset_index()
    grouped = by_seed.groupby(groups, dropna=False, sort=False)
    means = grouped[["ssim", "psnr", "nrmse"]].mean().assign(seeds=grouped.size()).reset_index()
    sys.stdout.write(plain_table(means.rename(columns={"scarce_slices": "N"}).round(4)))
    if means["kind"].eq(TRUTH).any():
        talk.print(TRUTH_IS)
    talk.print(f"table: {opened.folder / 'test' / TABLE}")


def study_results(study: str, storage: str | None, runs_dir: Path) -> Path:
    """A study's folder of results."""
    from search.results import ABOUT
    from search.study import open_study, study_folder

    folder = study_folder(study, runs_dir) / "test"
    if not (folder / ABOUT).is_file():
        open_study(study, storage, runs_dir)
        raise InputError(f"{folder / ABOUT} is missing; run splitpoint test --study {study} first")
    return folder


def axis_names(text: str | None) -> tuple[str, ...] | None:
    """The names in ``--axes``, parted by spaces or commas."""
    return tuple(text.replace(",", " ").split()) if text else None


@contextlib.contextmanager
def bar(verb: str, things: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr with rate and time left; plain lines where stderr is no terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{60 * task.speed:.1f} a minute")

    if not talk.is_terminal:
        began = time.monotonic()

        def line(done: int, total: int) -> None:
            # A tenth at a time: a log wants to know that it goes on, not each step.
            if done == total or done * 10 // total > (done - 1) * 10 // total:
                seconds = time.monotonic() - began
                talk.print(f"{verb}: {done} of {total} {things}, {seconds:.0f} s, {60 * done / seconds:.1f} a minute")

        yield line
        return
    parts = (
        TextColumn(verb),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(things),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*parts, console=talk) as progress:
        task = progress.add_task(verb, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def watched(draw: Callable[[], Any], seconds: float, console: Console) -> None:
    """Draw again every so many seconds until Ctrl-C."""
    from rich.live import Live

    with (
        Live(draw(), console=console, screen=False, auto_refresh=False) as live,
        contextlib.suppress(KeyboardInterrupt),
    ):
        while True:
            time.sleep(seconds)
            live.update(draw(), refresh=True)


def finish(outcome: Any) -> None:
    """Say how a run ended; exit code 1 where it did not do all that was asked."""
    if outcome.complaint is not None:
        raise typer.Exit(complain(outcome.complaint, 1))


def named_glob(text: str) -> tuple[str, str]:
    """``NAME=GLOB`` as (glob, name), as PrepareOptions takes it."""
    name, sign, glob = text.partition("=")
    if not (name and sign and glob):
        raise InputError(f"--task {text!r} is not NAME=GLOB, such as PDw='*CORPD_*'")
    return glob, name


def named_count(text: str) -> tuple[str, int]:
    """``TASK=N`` as (task, N)."""
    name, sign, count = text.partition("=")
    if not (name and sign and count.isdecimal()):
        raise InputError(f"--slices {text!r} is not TASK=N, such as PDw-FS=32")
    return name, int(count)


def options_of(model: type[Model], **values: Any) -> Model:
    """A configuration from options; what does not fit is one sentence that names the option."""
    try:
        return model(**values)
    except ValidationError as error:
        place = error.errors()[0]["loc"]
        # An option that is given more than once has the singular of its field's name.
        name = str(place[0]).replace("_", "-").replace("accelerations", "acceleration") if place else None
        raise InputError(said(error) if name is None else f"--{name}: {said(error)}") from error


def usage(error: typer.TyperException) -> str:
    """What is wrong with the arguments, with the value found."""
    option = next(iter(getattr(getattr(error, "param", None), "opts", [])), None)
    if isinstance(error.__cause__, ValidationError) and option is not None:
        return f"{option}: {said(error.__cause__)}"
    return error.format_message().rstrip(".")


def said(error: ValidationError) -> str:
    """Pydantic's first complaint; ours name the value found themselves, its own do not."""
    first = error.errors()[0]
    message = first["msg"]
    if first["type"] == "value_error":
        return message.removeprefix("Value error, ").rstrip(".")
    return f"{message[0].lower()}{message[1:]}, found {first['input']!r}"


if __name__ == "__main__":
    main()
