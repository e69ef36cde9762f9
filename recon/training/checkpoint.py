"""Checkpoints: the state of a training in one file that appears whole, and what is read back from it.

The folder of a checkpoint holds ``checkpoint.pt``: tensors, plain values and the configuration, in torch's format, with
a checksum behind them. Exporting and testing a trained network read it here too. ``recon.training.loop`` decides what
is in the state.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from recon.config import TrainConfig
from recon.errors import DamagedError, InputError
from recon.files import replace_file, sync
from recon.network.unrolled import UnrolledNetwork
from recon.stored import load_weights, read_json, train_config

CHECKPOINT = "checkpoint.pt"
CONFIG = "config.json"
"""Beside the checkpoints of earlier versions; now the configuration is in the checkpoint."""
CURVE = "curve.csv"
"""The file with the metrics by epoch, beside the checkpoint in a training's folder."""
STATE = {"epoch", "seconds", "gpu_seconds", "network", "weighting"}
"""What every checkpoint holds."""
UNFINISHED = {"optimiser", "schedule"}
"""What a checkpoint also holds while epochs are left: more than half of the file."""
Curve = list[dict[str, float]]
"""The metrics of the epochs reported so far, in order, each with its ``epoch``."""

_SEAL = b"\nsha256:"
_SEAL_BYTES = len(_SEAL) + 64


def save_checkpoint(directory: Path, state: Mapping[str, Any], config: TrainConfig) -> None:
    """Write ``checkpoint.pt`` into a folder, which is made if need be; an older one is replaced in one step.

    The file is on the disk when this returns. A process that is killed before leaves the older one.

    Args:
        directory: the checkpoint's folder.
        state: tensors and plain values; at least those of ``STATE``.
        config: the training's configuration.

    Raises OSError if it cannot be stored, for example because the disk is full.
    """
    directory = Path(directory)
    new = not directory.is_dir()
    with replace_file(directory / CHECKPOINT) as fresh, fresh.open("wb") as file:
        sealed = _Sealed(file)
        try:
            torch.save({**state, "config": config.model_dump_json()}, sealed)  # type: ignore[arg-type]
        except RuntimeError:
            # torch writes on after an error, and then reports a wrong position in the file.
            if sealed.error is not None:
                raise sealed.error from None
            raise
        file.write(_SEAL + sealed.digest.hexdigest().encode())
    if new:
        sync(directory.parent)
    (directory / CONFIG).unlink(missing_ok=True)


class _Sealed:
    """A file that is written from beginning to end, with the digest of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            self.digest.update(content)
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def write_curve(path: Path, curve: Curve) -> None:
    """Write ``curve.csv``: one line per epoch, with every digit. Nothing is written if the file has this content."""
    names = dict.fromkeys(name for line in curve for name in line)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(names))
    writer.writeheader()
    for line in curve:
        writer.writerow({name: value if name == "epoch" else repr(float(value)) for name, value in line.items()})
    content = text.getvalue().encode()
    if not path.is_file() or path.read_bytes() != content:
        with replace_file(path) as fresh:
            fresh.write_bytes(content)


def read_curve(path: Path, epoch: int) -> Curve:
    """The lines of ``curve.csv`` up to an epoch; none if there is no such file. Checkpoints of earlier versions do not
    hold them."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        lines = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [{**line, "epoch": int(line["epoch"])} for line in lines if line["epoch"] <= epoch]


def load_checkpoint(directory: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Any], TrainConfig]:
    """Read a checkpoint's folder. Nothing in it is unpickled (``weights_only``).

    Raises:
        DamagedError: there is no checkpoint, or it is not as it was written, or none of ours.
        InputError: it may not be read, or another version wrote it.
    """
    directory = Path(directory)
    path = directory / CHECKPOINT
    try:
        with path.open("rb") as file:
            whole = _is_whole(file)
            state = _load(file, device, whole) if whole is not False else None
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError(f"{directory} holds no checkpoint: {CHECKPOINT} is missing") from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read ({error.strerror})") from error
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror or error})") from error
    # What has no checksum was written by an earlier version, or was cut off.
    if state is None or (whole is None and isinstance(state, dict) and "config" in state):
        raise DamagedError(f"{path} is damaged or no checkpoint of ours")
    wanted = STATE | {"config"} if whole else STATE
    if not isinstance(state, dict) or not set(state) >= wanted:
        raise DamagedError(f"{path} is no checkpoint of ours: it lacks {', '.join(sorted(wanted))}")
    if whole is None:
        return state, _earlier_config(directory)
    return state, train_config(json.loads(state.pop("config")), path)


def usable(directory: Path) -> bool:
    """Whether a checkpoint's folder holds a checkpoint of ours, whole."""
    try:
        load_checkpoint(directory)
    except DamagedError:
        return False
    return True


def _is_whole(file: IO[bytes]) -> bool | None:
    """Whether a file is what its checksum says; None if it has none."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _SEAL_BYTES))
    seal = file.read()
    if not seal.startswith(_SEAL):
        return None
    digest = hashlib.sha256()
    left = size - _SEAL_BYTES
    file.seek(0)
    while left:
        block = file.read(min(left, 2**20))
        if not block:
            return False
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode() == seal.removeprefix(_SEAL)


def _load(file: IO[bytes], device: torch.device | str, whole: bool | None) -> Any:
    """What torch reads from a file; None if that is nothing of torch's."""
    # Damaged content makes torch raise anything. With a checksum it is whole, and only what is not ours is refused.
    refused: type[Exception] = pickle.UnpicklingError if whole else Exception
    try:
        file.seek(0)
        if not zipfile.is_zipfile(file):  # torch would take it for a file in its oldest format
            return None
        if not whole and zipfile.ZipFile(file).testzip() is not None:  # torch misses some flipped bits
            return None
        file.seek(0)
        # torch's own message tells the user to load it without weights_only.
        return torch.load(file, map_location=device, weights_only=True)
    except refused:
        return None


def _earlier_config(directory: Path) -> TrainConfig:
    path = directory / CONFIG
    if not path.is_file():
        raise DamagedError(f"{directory} holds no checkpoint: {CONFIG} is missing")
    try:
        return train_config(read_json(path), path)
    except InputError as error:
        raise DamagedError(str(error)) from error


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
