"""A bundle: a trained network as others receive it.

A folder with ``model.safetensors``, ``config.json`` and a card (``README.md``). ``tasks/`` holds one network per task,
with only the path that this task uses; each of them is a bundle in itself. Loading a bundle unpickles nothing. Whoever
exports the bundle writes the card's text.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from recon.arrays import Array, reconstruct_arrays
from recon.config import TrainConfig
from recon.data.options import PrepareOptions
from recon.errors import InputError
from recon.files import replace_directory
from recon.network.unrolled import UnrolledNetwork
from recon.stored import load_weights, read_json, train_config

FORMAT = 1
MODEL, CONFIG, CARD, TASKS = "model.safetensors", "config.json", "README.md", "tasks"


@dataclass
class Bundle:
    """A trained network, its configuration, and where it comes from.

    Attributes:
        network: the network, in evaluation mode.
        config: the training's configuration; ``config.tasks`` are the tasks that the network reconstructs.
        provenance: where it comes from: study, trial, data hash, code version, metrics with their definition.
    """

    network: UnrolledNetwork
    config: TrainConfig
    provenance: dict[str, Any] = field(default_factory=dict)

    def reconstruct(self, kspace: Array, task: str | None = None, mask: Any = None, maps: Any = None) -> Array:
        """Reconstruct slices of k-space: arrays in, images out, in the same units.

        Args:
            kspace: (coils, rows, columns) or (slices, coils, rows, columns), complex, NumPy or torch: centred, by the
                orthonormal Fourier transform, without readout oversampling, zero where nothing was acquired.
            task: one of ``config.tasks``; may be left out if there is only one.
            mask: the acquired samples, (columns,) or (rows, columns); without it, the samples that are not zero.
            maps: coil maps in ``kspace``'s shape, or several sets of them with an axis of sets before the coils;
                without them, ESPIRiT computes them with the training data's options.

        Returns:
            The complex images, (rows, columns) or (slices, rows, columns), of ``kspace``'s kind. With several sets of
            maps, one image per set, with an axis of sets before the rows; the magnitude of all is √Σ|x|² over sets.

        Raises:
            InputError: as for ``recon.arrays.reconstruct_arrays``; or no task is given and the bundle has several.
        """
        if task is None and len(self.config.tasks) > 1:
            raise InputError(f"the bundle reconstructs {', '.join(self.config.tasks)}; say which as task")
        options = self.prepare_options
        return reconstruct_arrays(
            self.network,
            kspace,
            self.config.tasks[0] if task is None else task,
            mask,
            maps,
            calibration_width=options.calibration_width,
            eigenvalue_crop=options.eigenvalue_crop,
            maps_sets=options.maps_sets,
        )

    @property
    def prepare_options(self) -> PrepareOptions:
        """The options that the training data were prepared with; the defaults if the bundle does not store them."""
        return PrepareOptions.model_validate(self.provenance.get("prepare") or {})


def save(directory: str | Path, bundle: Bundle, card: str) -> None:
    """Write a bundle with its per-task networks. The folder appears whole or not at all, and replaces an older bundle.

    Args:
        directory: the bundle's folder.
        bundle: what to write.
        card: the card's text, in Markdown.

    Raises InputError if ``directory`` holds something other than a bundle.
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
        for task, name in slugs(config.tasks).items():
            single = network.for_task(task)
            folder = fresh / TASKS / name
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


def load(directory: str | Path, device: torch.device | str = "cpu") -> Bundle:
    """Read a bundle.

    Raises InputError, in one sentence, if the folder is not a bundle or is damaged.
    """
    directory = Path(directory)
    for name in (MODEL, CONFIG):
        if not (directory / name).is_file():
            raise InputError(f"{directory} is no bundle: {name} is missing")
    stored = read_json(directory / CONFIG)
    if stored.get("format") != FORMAT:
        raise InputError(f"{directory / CONFIG} has format {stored.get('format')}; this version reads format {FORMAT}")
    config = train_config(stored.get("train"), directory / CONFIG)
    network = UnrolledNetwork(config.network, config.tasks)
    try:
        weights = load_file(directory / MODEL)
    except SafetensorError as error:
        raise InputError(f"{directory / MODEL} is damaged or no safetensors file: {error}") from error
    load_weights(network, weights, directory / MODEL)
    return Bundle(network.to(device).eval(), config, stored.get("provenance", {}))


def slugs(names: Iterable[str]) -> dict[str, str]:
    """A distinct file name for each task: letters, digits, inner dots, dashes and underscores stay."""
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._-]+|^\.+", "_", name)
        # Told apart without regard to case, as some file systems do not.
        taken = {other.lower() for other in found.values()}
        found[name] = next(one for one in _numbered(plain) if one.lower() not in taken)
    return found


def _numbered(name: str) -> Iterator[str]:
    """The name, then the name with 2, 3 … appended, without end."""
    yield name
    for number in itertools.count(2):
        yield f"{name}_{number}"


def _write(directory: Path, bundle: Bundle, card: str) -> None:
    save_file(
        {name: value.contiguous().cpu() for name, value in bundle.network.state_dict().items()}, directory / MODEL
    )
    text = {"format": FORMAT, "train": bundle.config.model_dump(mode="json"), "provenance": bundle.provenance}
    (directory / CONFIG).write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
    (directory / CARD).write_text(card, encoding="utf-8")
