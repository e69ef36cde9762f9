"""A trained network on raw files: fastMRI's reconstruction layout, which its own evaluation reads.

The raw file goes through the same steps as training data did, with the options that the bundle remembers. A file that
was acquired in part is reconstructed from its own lines; of a fully sampled one, the lines that the bundle's test mask
keeps are used, so that it can be compared with what was left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from recon.bundle import Bundle
from recon.data import readers, volume
from recon.data.index import IndexRow
from recon.data.options import PrepareOptions
from recon.data.prepare import task_of
from recon.data.prepared import Slice
from recon.data.readers import RawVolume
from recon.device import choose_device
from recon.errors import InputError
from recon.evaluation.compare import magnitude
from recon.evaluation.methods import network_method
from recon.files import replace_file
from recon.physics.masks import Mask, fixed, given


@dataclass(frozen=True)
class Reconstruction:
    """The written file, its task, and the mask that was used."""

    path: Path
    task: str
    slices: int
    mask: Mask
    own_lines: bool
    """Whether the raw file was acquired in part, and its own lines were used."""


def reconstruct_file(
    bundle: Bundle,
    raw: Path,
    out: Path,
    *,
    task: str | None = None,
    options: PrepareOptions | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Reconstruction:
    """Reconstruct a raw volume, slice by slice, and write it whole or not at all.

    The file holds ``reconstruction`` (slices, rows, columns), magnitudes in the units of the raw k-space's orthonormal
    transform (noise units where the data are prewhitened), cut to the header's region; attributes say what made it.

    Args:
        bundle: the network, and how its training data were prepared.
        raw: a file of any format that ``recon.data.readers`` knows.
        out: the file to write. A folder, or a name without ending, gets a file with the raw file's name.
        task: one of the bundle's tasks; if None, the raw file's own task.
        options: preparation options to use instead of the bundle's.
        device: ``auto``, ``cpu``, ``cuda`` …
        progress: called with (slices done, all slices).

    Raises:
        InputError: a raw file that cannot be read, a task that the bundle does not know, or an output that is the
            input.
    """
    options = options or bundle.prepare_options
    opened = readers.read_volume(raw, options.hints)
    name = _task(bundle, opened, raw, task, options)
    target = Path(out)
    if target.is_dir() or not target.suffix:
        target = target / f"{opened.name}.h5"
    if target.resolve() == Path(raw).resolve():
        raise InputError(f"{target} is the raw file itself; give another --out")
    where = choose_device(device)
    method = network_method(bundle.network.for_task(name).to(where), name, where)
    seen = volume.survey(opened, options)
    seen.require_whole()
    matrices = volume.coil_matrices(opened, options, seen)
    padding = (opened.pad_left, opened.pad_right)
    mask = fixed(bundle.config.masks.test, opened.columns, padding)
    if opened.mask is not None:
        mask = given(opened.mask, padding)
    rows, columns = volume.crop_of(opened, options)
    with replace_file(target) as fresh, h5py.File(fresh, "w") as file:
        images = file.create_dataset("reconstruction", (opened.slices, rows, columns), np.float32)
        for position, piece in enumerate(volume.pieces(opened, options, matrices)):
            scale = float(np.abs(piece.target).max()) or 1.0
            row = IndexRow(
                slice_id=position,
                task=name,
                volume=opened.name,
                patient=opened.patient,
                slice=position,
                split="test",
                coils=len(piece.kspace),
                rows=opened.image_rows,
                columns=opened.columns,
                pad_left=opened.pad_left,
                pad_right=opened.pad_right,
                crop_rows=rows,
                crop_columns=columns,
                scale=scale,
                rank_volumes=-1,
                rank_slices=-1,
                file="",
            )
            images[position] = magnitude(Slice(piece.kspace, piece.maps, piece.target, row), method, mask)
            if progress is not None:
                progress(position + 1, opened.slices)
        file.attrs.update(_about(bundle, opened, name, mask))
    return Reconstruction(target, name, opened.slices, mask, opened.mask is not None)


def _task(bundle: Bundle, opened: RawVolume, raw: Path, task: str | None, options: PrepareOptions) -> str:
    known = bundle.config.tasks
    name = task or (known[0] if len(known) == 1 else task_of(raw, opened, options))
    if name not in known:
        said = f"--task is {name}" if task else f"{raw} says that it is {name}"
        raise InputError(f"{said}, and the bundle reconstructs {', '.join(known)}; give --task")
    return name


def _about(bundle: Bundle, opened: RawVolume, task: str, mask: Mask) -> dict[str, Any]:
    return {
        "task": task,
        "acquisition": opened.acquisition,
        "layout": bundle.config.network.layout,
        "mask": mask.kind,
        "lines": mask.lines,
        "net_acceleration": mask.net_acceleration,
        "source": opened.path.name,
        "study": str(bundle.provenance.get("study", "")),
        "trial": str(bundle.provenance.get("trial", "")),
        "torch": str(torch.__version__),
    }
