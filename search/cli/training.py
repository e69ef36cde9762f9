"""The command that trains one network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recon.config import TrainConfig
from recon.errors import InputError
from recon.evaluation.definitions import Quantity
from search.cli.app import app, complain
from search.cli.fields import Offered, changed, file_of_fields, merged, offering, settings, validated
from search.cli.options import RUNS, Device, RunsDir, Storage, Threads, named_count, use_threads
from search.cli.talk import bar, talk

if TYPE_CHECKING:
    from recon.data.prepared import PreparedData
    from search.run.single import Single

FIELDS = (
    Offered.of("network.layout"),
    Offered.of("weighting.kind", "--weighting"),
    Offered.of("network.channels"),
    Offered.of("network.pools"),
    Offered.of("cut"),
    Offered.of("epochs"),
    Offered.of("batch_size"),
    Offered.of("optimiser"),
    Offered.of("learning_rate"),
    Offered.of("schedule"),
    Offered.of("clip_norm"),
    Offered.of("seed"),
)
QUIET_SECONDS = 20.0
"""The least time between lines on an epoch's steps in a log without a terminal; epochs have lines of their own."""


@app.command()
@offering(TrainConfig, *FIELDS)
def train(
    data: Annotated[
        Path | None,
        typer.Argument(metavar="[PREPARED]", help="Prepared data set; default with --like: the study's."),
    ] = None,
    *,
    out: Annotated[
        Path, typer.Option(help="Folder of checkpoint and curve.csv; a training that is found there goes on.")
    ],
    task: Annotated[
        list[str] | None, typer.Option(help="Task to train; repeatable; default: all tasks of the data.")
    ] = None,
    slices: Annotated[
        list[str] | None, typer.Option(metavar="TASK=N", help="Number of training slices of a task; repeatable.")
    ] = None,
    acceleration: Annotated[
        list[float] | None,
        typer.Option(help="Acceleration of training masks; repeatable. Validation and test take the mean."),
    ] = None,
    space: Annotated[
        Path | None, typer.Option(help="Space (YAML): train --layout as a search of this space does.")
    ] = None,
    scarce_slices: Annotated[
        int | None, typer.Option("--n", help="N, with --space; default: the first N of the space.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(metavar="STUDY:TRIAL", help="Trial of a study: train what it trained.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML or JSON file with fields of the training.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Value of any field, such as network.consistency=accelerated; repeatable.",
        ),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint whose weights the training starts from (transfer).")
    ] = None,
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
    device: Device = "auto",
    threads: Threads = 1,
    fields: Mapping[str, Any] = {},
) -> None:
    """Train one network, without a search.

    With --space or --like, the network is trained exactly as in a search, including its start; other options change
    that training.

    Example: splitpoint train data/prepared --layout I2V10 --slices PDw-FS=32 --epochs 10 --out runs/one
    """
    if space is not None and like is not None:
        raise InputError("--space and --like exclude each other: each says what is trained")
    if scarce_slices is not None and space is None:
        raise InputError("--n goes with --space; --slices TASK=N cuts a task otherwise")
    flags = {one.name: one.flag for one in FIELDS if one.name in fields}
    changes: dict[str, Any] = dict(fields)
    if task:
        changes["tasks"] = list(task)
    if slices:
        changes["slices"] = dict(named_count(text) for text in slices)
    if acceleration:
        middle = sum(acceleration) / len(acceleration)
        found = {"train": list(acceleration), "val": [middle], "test": [middle]}
        changes |= {f"masks.{split}.accelerations": values for split, values in found.items()}
        flags |= {f"masks.{split}.accelerations": "--acceleration" for split in found}
    by_set = settings(set_ or [])
    changes |= by_set
    flags |= {name: f"--set {name}" for name in by_set}
    given = file_of_fields(config) if config is not None else {}

    def configured(base: Mapping[str, Any]) -> TrainConfig:
        return validated(TrainConfig, changed(merged(base, given), changes), flags)

    if like is not None:
        study, sign, trial = like.rpartition(":")
        if not (study and sign and trial):
            raise InputError(f"--like {like!r} is not STUDY:TRIAL, such as first:12")
        single = _like(study, trial, data, storage, runs_dir)
    elif space is not None:
        single = _of_space(space, _required(data), scarce_slices, changes)
    else:
        # What is wrong with a field is said before data are opened and torch is imported.
        cut = changed(merged({}, given), changes).get("slices")
        configured({"tasks": list(cut) if cut and isinstance(cut, Mapping) else ["any task"]})
        single = None
    use_threads(threads)
    from recon.data.prepared import PreparedData

    if single is None:
        prepared = PreparedData(_required(data))
        _run(configured({"tasks": list(prepared.tasks)}), prepared, out, init, device)
        return
    prepared = PreparedData(single.data)
    base = single.config.model_dump(mode="json")
    if "epochs" in changes and "validate_at" not in changes:
        base["validate_at"] = None
    wanted = configured(base)
    start = init or single.init
    if start is None and single.start is not None:
        talk.print(f"{out / 'start'}: the {single.start.network.layout} network that this training starts from")
        start = _run(single.start, prepared, out / "start", None, device)
    _run(wanted, prepared, out, start, device)


def _required(data: Path | None) -> Path:
    if data is None:
        raise InputError("PREPARED is missing: the folder of the prepared data set")
    return data


def _like(study: str, trial: str, data: Path | None, storage: str | None, runs_dir: Path) -> Single:
    from search.run.single import like_trial
    from search.study.open import open_study

    return like_trial(open_study(study, storage, runs_dir), trial, data)


def _of_space(space: Path, data: Path, scarce_slices: int | None, changes: dict[str, Any]) -> Single:
    """The space's training; what a search would choose is taken out of the changes."""
    from search.run.single import of_space
    from spaces.reading import load_space

    layout = changes.pop("network.layout", None)
    if layout is None:
        raise InputError("--layout is missing: the layout that a search of the space would train")
    return of_space(
        load_space(space), data, layout, changes.pop("weighting.kind", None), scarce_slices, changes.pop("seed", None)
    )


def _run(config: TrainConfig, data: PreparedData, out: Path, init: Path | None, device: str) -> Path:
    """Train into a folder, and print the checkpoint's place; the checkpoint."""
    from recon.training import loop

    checkpoint = out / "checkpoint"
    weights = [Quantity.WEIGHT.of(one) for one in config.tasks] if len(config.tasks) > 1 else []
    names = [Quantity.LOSS, *(Quantity.SSIM.of(one) for one in config.tasks), *weights]
    plan: loop.Plan | None = None

    with bar("training", "steps", every=QUIET_SECONDS) as step:

        def started(found: loop.Plan) -> None:
            nonlocal plan
            plan = found
            cut = ", ".join(f"{task} {count}" for task, count in found.slices.items())
            begun = f", going on after epoch {found.finished}" if found.finished else ""
            talk.print(
                f"{found.device}: {found.parameters:,} parameters, training slices {cut}; {found.epochs} epochs of "
                f"{found.steps_per_epoch} steps{begun}"
            )

        def stepped(done: int) -> None:
            assert plan is not None
            step(done, plan.steps)

        def report(epoch: loop.EpochReport) -> None:
            numbers = "  ".join(f"{name} {epoch.metrics[name]:.4f}" for name in names)
            talk.print(f"epoch {epoch.epoch}/{config.epochs}  {numbers}  {epoch.metrics['seconds']:.0f} s")

        try:
            loop.train(
                config,
                data,
                init=init,
                out=out,
                device=device,
                report=report,
                started=started,
                progress=stepped,
                warn=talk.print,
            )
        except loop.TrainingError as error:
            raise typer.Exit(complain(str(error), 1)) from error
    if plan is None:
        talk.print(f"{checkpoint} has {config.epochs} of {config.epochs} epochs; nothing is left to do")
    print(checkpoint)
    return checkpoint
