"""Commands that search: launch and confirm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from search.cli.app import app
from search.cli.options import (
    GRACE,
    RUNS,
    Address,
    Concurrent,
    Cpus,
    Data,
    Failures,
    Gpus,
    Grace,
    RunsDir,
    Silence,
    Storage,
    StudyName,
    TrialTimeout,
    Verbose,
)
from search.cli.talk import finish


@app.command()
def launch(
    space: Annotated[
        Path, typer.Argument(metavar="SPACE", help="Space to search (YAML), such as spaces/quickstart.yaml.")
    ],
    data: Data,
    study: Annotated[str, typer.Option(help="Name of the study; a study of this name goes on.")],
    trials: Annotated[int | None, typer.Option(min=1, help="Number of searched trials; default: the space's.")] = None,
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
    address: Address = None,
    cpus_per_trial: Cpus = 1,
    gpus_per_trial: Gpus = None,
    max_concurrent: Concurrent = None,
    max_failures: Failures = 2,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Try configurations again that failed because of the machine, or that took too long."
        ),
    ] = False,
    trial_timeout: TrialTimeout = None,
    silence: Silence = None,
    grace: Grace = GRACE,
    submit: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Run it on a cluster's head, through the dashboard at this address, and follow its log; Ctrl-C leaves "
            "it running, and the same command returns to it.",
        ),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Search a space; poor trials stop early.

    Baselines and known configurations run first, then configurations from the sampler. The same command again continues
    what is unfinished; a larger --trials extends a finished search.

    Example: splitpoint launch spaces/quickstart.yaml --data data/prepared --study first
    """
    if submit is not None:
        from search.run.submit import submit as send
        from search.run.submit import without_option

        raise typer.Exit(send(without_option(sys.argv[2:], "--submit"), submit, study))
    from search.run.cluster import Resources
    from search.run.launch import launch as run
    from search.run.tuning import Limits
    from spaces.reading import load_space

    loaded = load_space(space)
    if trials is not None:
        loaded = loaded.model_copy(update={"trials": trials})
    resources = Resources(cpus_per_trial, gpus_per_trial, max_concurrent, max_failures)
    outcome = run(
        loaded,
        data,
        study,
        storage=storage,
        runs_dir=runs_dir,
        address=address,
        resources=resources,
        limits=Limits(trial_timeout, silence),
        retry_failed=retry_failed,
        grace=grace,
        verbose=verbose,
    )
    finish(outcome)


@app.command()
def confirm(
    study: StudyName,
    top: Annotated[int | None, typer.Option(min=1, help="Number of leaders to retrain; default: the space's.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds per leader and baseline; default: the space's.")
    ] = None,
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
    address: Address = None,
    cpus_per_trial: Cpus = 1,
    gpus_per_trial: Gpus = None,
    max_concurrent: Concurrent = None,
    max_failures: Failures = 2,
    trial_timeout: TrialTimeout = None,
    silence: Silence = None,
    grace: Grace = GRACE,
    verbose: Verbose = False,
) -> None:
    """Retrain the leaders and the baselines over seeds.

    The best of many trials would score lower in a second training, so only confirmed results count. The same command
    again continues what is unfinished; more --seeds or a larger --top extend it.

    Example: splitpoint confirm first --top 3 --seeds 3
    """
    from search.run.cluster import Resources
    from search.run.confirm import confirm as run
    from search.run.tuning import Limits

    resources = Resources(cpus_per_trial, gpus_per_trial, max_concurrent, max_failures)
    outcome = run(
        study,
        top,
        seeds,
        storage=storage,
        runs_dir=runs_dir,
        address=address,
        resources=resources,
        limits=Limits(trial_timeout, silence),
        grace=grace,
        verbose=verbose,
    )
    finish(outcome)
