"""Options that several commands share, and what is made of an option's text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from recon.errors import InputError

RUNS = Path("runs")
GRACE = 8.0
"""``search.run.leaving.GRACE_SECONDS``, which would load Ray."""


def study_names(begun: str) -> list[str]:
    """Studies in the folder of studies whose names begin so, for shells that complete them."""
    folder = Path(os.environ.get("SPLITPOINT_RUNS", RUNS))
    return sorted(path.parent.name for path in folder.glob("*/study.db") if path.parent.name.startswith(begun))


StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.", autocompletion=study_names)]
Storage = Annotated[
    str | None,
    typer.Option(
        help="Storage of the study: an Optuna URL or journal://PATH; default: RUNS_DIR/STUDY/study.db.",
        envvar="SPLITPOINT_STORAGE",
    ),
]
RunsDir = Annotated[
    Path, typer.Option(envvar="SPLITPOINT_RUNS", help="Folder of all studies; each has a folder in it.")
]
Device = Annotated[str, typer.Option(help="Device to compute on: auto, cpu, cuda, cuda:1 …")]


def use_threads(threads: int) -> None:
    """Set PyTorch's number of threads from here on. Its default of one per core takes two to three times as long if
    other work runs on the machine."""
    import torch

    torch.set_num_threads(threads)


Threads = Annotated[
    int,
    typer.Option(min=1, help="Number of processor threads; more than one pays where nothing else runs."),
]
Axes = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Axes of NumPy arrays in their order, such as 'slices coils rows columns'; 'readout' in place "
        "of 'slices' is a three-dimensional scan.",
    ),
]
Data = Annotated[Path, typer.Option(help="Prepared data set.")]
Address = Annotated[
    str | None,
    typer.Option(help="Address of a Ray cluster: auto on one of its hosts, or HOST:PORT; default: start a Ray here."),
]
Cpus = Annotated[float, typer.Option(min=0.1, help="Number of processors per trial.")]
Gpus = Annotated[
    float | None,
    typer.Option(min=0, help="Number of GPUs per trial, such as 0.5; default: 1 where the cluster has GPUs, else 0."),
]
Concurrent = Annotated[
    int | None, typer.Option(min=1, help="Number of trials to run side by side; default: as many as fit.")
]
Failures = Annotated[
    int,
    typer.Option(
        min=0,
        help="Number of retries of a trial whose worker died, each from the last checkpoint; an epoch makes them count "
        "anew.",
    ),
]
TrialTimeout = Annotated[
    float | None, typer.Option(min=1, help="Seconds that one attempt of a trial may take; then it fails.")
]
Silence = Annotated[
    float | None,
    typer.Option(
        min=1,
        help="Seconds without a report after which a trial's worker is ended and tried again; default: ten times the "
        "longest epoch so far, and 15 minutes at least.",
    ),
]
Grace = Annotated[
    float, typer.Option(min=0, help="Seconds that running trials have for their next checkpoint after SIGTERM.")
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Ray's own messages.")]


def axis_names(text: str | None) -> tuple[str, ...] | None:
    """The names in ``--axes``, separated by spaces or commas."""
    return tuple(text.replace(",", " ").split()) if text else None


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
