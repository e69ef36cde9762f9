"""A bundle: a trained network as others receive it.

A folder with ``model.safetensors``, ``config.json``, a card (``README.md``), and under ``tasks/`` one network a task
that holds only the path that the task uses; each of those is a bundle in itself. Nothing in a bundle is unpickled when
it is loaded. What the card says is left to whoever exports.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recon.config import TrainConfig
from recon.errors import InputError
from recon.files import replace_directory
from recon.unrolled import UnrolledNetwork

FORMAT = 1
MODEL, CONFIG, CARD, TASKS = "model.safetensors", "config.json", "README.md", "tasks"


@dataclass
class Bundle:
    """A network with what is known of it.

    Attributes:
        network: in evaluation mode.
        config: how it was trained; ``config.tasks`` are the tasks that it reconstructs.
        provenance: where it comes from: study, trial, data hash, code version, metrics with their definition.
    """

    network: UnrolledNetwork
    config: TrainConfig
    provenance: dict[str, Any] = field(default_factory=dict)


def save(directory: Path, bundle: Bundle, card: str) -> None:
    """Write a bundle with its per-task networks; the folder appears whole or not at all, and replaces an older one.

    Args:
        directory: the bundle's folder.
        bundle: what to write.
        card: the card's text, in Markdown.

    Raises InputError where ``directory`` holds something else than a bundle.
    """
    directory = Path(directory)
    if directory.exists() and not (
        directory.is_dir() and (not any(directory.iterdir()) or (directory / MODEL).is_file())
    ):
        raise InputError(
            f"{directory} exists and is no bundle; give a new folder, or one that holds a bundle to replace"
        )
    network, config = bundle.network, bundle.config
    with replace_directory(directory) as fresh:
        _write(fresh, bundle, card)
        for task in config.tasks:
            single = network.for_task(task)
            folder = fresh / TASKS / slug(task)
            folder.mkdir(parents=True)
            # The layout of a single path is all I: with one task the three kinds of block are the same network.
            alone = config.model_copy(
                update={
                    "tasks": (task,),
                    "slices": {name: count for name, count in config.slices.items() if name == task},
                    "network": config.network.model_copy(update={"layout": str(single.layout)}),
                }
            )
            whole = config.network.layout
            note = f"# {task}\n\nThe path that {task} takes through the {whole} network two folders up; equal output.\n"
            _write(folder, Bundle(single, alone, {**bundle.provenance, "path_of": whole}), note)


def load(directory: Path, device: torch.device | str = "cpu") -> Bundle:
    """Read a bundle.

    Raises InputError, in one sentence, where the folder is no bundle or a damaged one.
    """
    directory = Path(directory)
    for name in (MODEL, CONFIG):
        if not (directory / name).is_file():
            raise InputError(f"{directory} is no bundle: {name} is missing")
    try:
        stored = json.loads((directory / CONFIG).read_text())
        if stored.get("format") != FORMAT:
            raise InputError(
                f"{directory / CONFIG} has format {stored.get('format')!r}; this version reads format {FORMAT}"
            )
        config = TrainConfig.model_validate(stored["train"])
        network = UnrolledNetwork(config.network, config.tasks)
        network.load_state_dict(load_file(directory / MODEL))
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, ValidationError) as error:
        raise InputError(
            f"{directory / CONFIG} is not a bundle's configuration: {str(error).splitlines()[0]}"
        ) from error
    except (SafetensorError, RuntimeError) as error:
        raise InputError(
            f"{directory / MODEL} does not fit {CONFIG} beside it: {str(error).splitlines()[0]}"
        ) from error
    return Bundle(network.to(device).eval(), config, stored.get("provenance", {}))


def slug(name: str) -> str:
    """A task's name as a folder: letters, digits, dot, dash and underscore stay."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def _write(directory: Path, bundle: Bundle, card: str) -> None:
    save_file(
        {name: value.contiguous().cpu() for name, value in bundle.network.state_dict().items()}, directory / MODEL
    )
    text = {"format": FORMAT, "train": bundle.config.model_dump(mode="json"), "provenance": bundle.provenance}
    (directory / CONFIG).write_text(json.dumps(text, indent=2) + "\n")
    (directory / CARD).write_text(card)
