"""Checkpoints: the state of a training as a folder that appears whole, and what is read back from it.

The folder holds ``checkpoint.pt`` (tensors and plain values) and ``config.json``. Exporting and testing a trained
network read it here too. ``recon.training.loop`` decides what is in the state.
"""

from __future__ import annotations

import csv
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recon.config import TrainConfig
from recon.errors import InputError
from recon.files import replace_directory, replace_file
from recon.network.unrolled import UnrolledNetwork
from recon.stored import load_weights, read_json, train_config

CHECKPOINT = "checkpoint.pt"
CONFIG = "config.json"
CURVE = "curve.csv"
"""The file with the metrics by epoch, beside the checkpoint in a training's folder."""
STATE = {"epoch", "seconds", "gpu_seconds", "network", "weighting"}
"""What every checkpoint holds."""
UNFINISHED = {"optimiser", "schedule"}
"""What a checkpoint also holds while epochs are left: more than half of the file."""


def save_checkpoint(directory: Path, state: dict[str, Any], config: TrainConfig) -> None:
    """Write ``checkpoint.pt`` (tensors and plain values only) and ``config.json``; the directory is replaced whole."""
    with replace_directory(directory) as fresh:
        torch.save(state, fresh / CHECKPOINT)
        (fresh / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")


def note_epoch(curve: Path, epoch: int, metrics: Mapping[str, float]) -> None:
    """Add an epoch to ``curve.csv``: one line per epoch, with every digit. Lines of later epochs come from another run
    and are removed."""
    rows: list[dict[str, str]] = []
    if curve.is_file():
        with curve.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]
    rows.append({"epoch": str(epoch), **{name: repr(float(value)) for name, value in metrics.items()}})
    with replace_file(curve) as fresh, fresh.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)


def load_checkpoint(directory: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Any], TrainConfig]:
    """Read a checkpoint directory. Nothing in it is unpickled (``weights_only``).

    Raises InputError if there is no checkpoint or it is damaged.
    """
    directory = Path(directory)
    for name in (CHECKPOINT, CONFIG):
        if not (directory / name).is_file():
            raise InputError(f"{directory} holds no checkpoint: {name} is missing")
    config = train_config(read_json(directory / CONFIG), directory / CONFIG)
    damaged = f"{directory / CHECKPOINT} is damaged or no checkpoint of ours"
    if not zipfile.is_zipfile(directory / CHECKPOINT):  # torch would take it for a file in its oldest format
        raise InputError(damaged)
    try:
        state: dict[str, Any] = torch.load(directory / CHECKPOINT, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        # torch's own message tells the user to load it without weights_only.
        raise InputError(damaged) from error
    if not isinstance(state, dict) or not set(state) >= STATE:
        raise InputError(f"{directory / CHECKPOINT} is no checkpoint of ours: it lacks {', '.join(sorted(STATE))}")
    return state, config


def load_network(directory: Path, device: torch.device | str = "cpu") -> tuple[UnrolledNetwork, TrainConfig]:
    """The network of a checkpoint, in evaluation mode."""
    state, config = load_checkpoint(directory, device)
    network = UnrolledNetwork(config.network, config.tasks).to(device)
    load_weights(network, state["network"], Path(directory) / CHECKPOINT)
    return network.eval(), config


def resumed(checkpoint: Path, config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """The state of the checkpoint from which this training continues.

    Raises InputError if the checkpoint belongs to another training. A shorter one counts as another, because its
    schedule ended with its last epoch.
    """
    state, trained = load_checkpoint(checkpoint, device)
    longer = trained.model_copy(update={"epochs": config.epochs})
    if state["epoch"] >= trained.epochs and trained.epochs < config.epochs and longer == config:
        raise InputError(
            f"{checkpoint} is the checkpoint of a finished training of {trained.epochs} epochs, without its "
            f"optimiser, so it cannot go on to {config.epochs}; start another training from its weights (--init)"
        )
    if trained != config:
        raise InputError(f"{checkpoint} is the checkpoint of another training: {_first_difference(trained, config)}")
    missing = UNFINISHED - set(state)
    if missing and state["epoch"] < config.epochs:
        raise InputError(f"{checkpoint} cannot be continued: it lacks {', '.join(sorted(missing))}")
    return state


def start_from(network: UnrolledNetwork, checkpoint: Path) -> None:
    """Copy the weights of a trained network into every task's path of this one (transfer learning).

    The checkpoint must have the same blocks, data consistency, SENSE start and U-Net. If it was trained for one task
    only, that task's path initialises the paths of all tasks here.

    Raises InputError if the two do not fit, or if a block that is private in the checkpoint is shared here: nothing
    says which task's weights it should take.
    """
    source, _ = load_network(checkpoint)
    known = [task for task in network.tasks if task in source.tasks]
    for number, (theirs, ours) in enumerate(zip(source.layout.kinds, network.layout.kinds, strict=False), start=1):
        if len(known) > 1 and "IYV".index(theirs) > "IYV".index(ours):
            raise InputError(
                f"{checkpoint} has layout {source.layout}: its block {number} holds weights of each task's own, which "
                f"layout {network.layout} shares; start from a layout whose blocks are shared there"
            )
    for task in network.tasks:
        if task in source.tasks:
            path = source.for_task(task)
        elif len(source.tasks) == 1:
            path = source.for_task(source.tasks[0])
        else:
            raise InputError(
                f"{checkpoint} was trained for {', '.join(source.tasks)}, which does not say what {task} starts from"
            )
        network.load_task(task, path)


def _first_difference(theirs: TrainConfig, ours: TrainConfig) -> str:
    a, b = theirs.model_dump(), ours.model_dump()
    name = next(key for key in a if a[key] != b[key])
    return f"{name} is {json.dumps(a[name])} in it, where {json.dumps(b[name])} is asked for"
