"""A trained network on raw files: images as fastMRI's own evaluation reads them, as NIfTI or as PNG.

The raw file goes through the same steps as training data did, with the options that the bundle remembers. A file that
was acquired in part is reconstructed from its own samples; of a fully sampled one, the lines that the bundle's test
mask keeps are used, so that it can be compared with what was left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from recon.image_files import ImageFormat, Images, target_of, write_images
from recon.physics.coils import magnitude_of
from recon.physics.masks import Mask, fixed, given


@dataclass(frozen=True)
class Reconstruction:
    """The written file, its task, and the mask that was used."""

    path: Path
    task: str
    slices: int
    mask: Mask
    own_lines: bool
    """Whether the raw file was acquired in part, and its own samples were used."""
    notes: tuple[str, ...] = ()
    """Sentences on the raw file and on what the written one lacks."""


def reconstruct_files(
    bundle: Bundle,
    files: Sequence[Path],
    out: Path,
    *,
    task: str | None = None,
    options: PrepareOptions | None = None,
    format: ImageFormat | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Reconstruction | InputError]:
    """Reconstruct every volume of raw files, each into a file of its own; ``reconstruct_volume`` has the arguments.

    Args:
        progress: called with (files done, all files).

    Yields:
        What was written of each volume, and the error in place of one that is left out.

    Raises:
        InputError: ``out`` is one file for several volumes, or no format's name ends like it; and what keeps a single
            volume from being reconstructed.
    """
    options = options or bundle.prepare_options
    target_of(out, "volume", format)  # a name that fits is wanted before any work
    one_file = out.is_file() or bool(out.suffix and not out.is_dir())
    if one_file and len(files) > 1:
        raise InputError(f"--out {out} is one file, and there are {len(files)} to reconstruct; give a folder")
    written: dict[Path, Path] = {}
    for number, file in enumerate(files, start=1):
        several = len(files) > 1
        try:
            volumes = readers.read_volumes(file, options.hints)
        except InputError as error:
            if not several:
                raise
            volumes = ()
            yield error
        several |= len(volumes) > 1
        if one_file and several:
            raise InputError(f"--out {out} is one file, and {file} holds {len(volumes)} volumes; give a folder")
        for opened in volumes:
            try:
                target, _ = target_of(out, opened.name, format)
                if target in written:
                    raise InputError(f"{file}: {target} was just written from {written[target]}; rename one of them")
                made = reconstruct_volume(bundle, opened, out, task=task, options=options, format=format, device=device)
            except InputError as error:
                if not several:
                    raise
                yield error
            else:
                written[target] = file
                yield made
        if progress is not None:
            progress(number, len(files))


def reconstruct_file(
    bundle: Bundle,
    raw: Path,
    out: Path,
    *,
    task: str | None = None,
    options: PrepareOptions | None = None,
    format: ImageFormat | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Reconstruction:
    """Reconstruct the raw volume of a file; ``reconstruct_volume`` says how.

    Args:
        raw: a file of any format that ``recon.data.readers`` knows.

    Raises:
        InputError: a raw file that cannot be read or holds several volumes, and what ``reconstruct_volume`` raises.
    """
    options = options or bundle.prepare_options
    opened = readers.read_volume(raw, options.hints)
    return reconstruct_volume(
        bundle, opened, out, task=task, options=options, format=format, device=device, progress=progress
    )


def reconstruct_volume(
    bundle: Bundle,
    opened: RawVolume,
    out: Path,
    *,
    task: str | None = None,
    options: PrepareOptions | None = None,
    format: ImageFormat | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Reconstruction:
    """Reconstruct a raw volume, slice by slice, and write it whole or not at all.

    The images are magnitudes in the units of the raw k-space's orthonormal transform (noise units where the data are
    prewhitened), cut to the header's region. fastMRI's HDF5 holds them as ``reconstruction`` (slices, rows, columns),
    and attributes that say what made it; NIfTI holds them with voxel size and place in the patient, as far as the raw
    file says; PNG shows all slices on one sheet.

    Args:
        bundle: the network, and how its training data were prepared.
        opened: the raw volume.
        out: the file to write. A folder, or a name without ending, gets a file with the volume's name.
        task: one of the bundle's tasks; if None, the raw file's own task.
        options: preparation options to use instead of the bundle's.
        format: of the file to write; None: as the ending of ``out`` says, and fastMRI's in a folder.
        device: ``auto``, ``cpu``, ``cuda`` …
        progress: called with (slices done, all slices).

    Raises:
        InputError: a task that the bundle does not know, samples that cannot be used, or an output that is the input
            or that no format's name ends like.
    """
    options = options or bundle.prepare_options
    name = _task(bundle, opened, task, options)
    target, chosen = target_of(Path(out), opened.name, format)
    if target.resolve() in {file.resolve() for file in (opened.path, *opened.files)}:
        raise InputError(f"{target} is the raw file itself; give another --out")
    mask = _mask(bundle, opened)
    where = choose_device(device)
    method = network_method(bundle.network.for_task(name).to(where), name, where)
    seen = volume.survey(opened, options)
    seen.require_whole()
    matrices = volume.coil_matrices(opened, options, seen)
    rows, columns = volume.crop_of(opened, options)
    images = np.empty((opened.slices, rows, columns), np.float32)
    for position, piece in enumerate(volume.pieces(opened, options, matrices)):
        if position not in seen.noise_alone:
            volume.require_maps(opened, piece)
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
            scale=float(magnitude_of(piece.target).max()) or 1.0,
            rank_volumes=-1,
            rank_slices=-1,
            file="",
        )
        images[position] = magnitude(Slice(piece.kspace, piece.maps, piece.target, row), method, mask)
        if progress is not None:
            progress(position + 1, opened.slices)
    if not images.any():
        raise InputError(f"{opened.path}: its images would be black; the coil maps are zero in all slices")
    about = _about(bundle, opened, name, mask)
    made = Images(images, (opened.image_rows, opened.columns), opened.geometry, about)
    notes = (*opened.notes, *write_images(target, chosen, made))
    return Reconstruction(target, name, opened.slices, mask, opened.mask is not None, notes)


def _mask(bundle: Bundle, opened: RawVolume) -> Mask:
    """The samples to reconstruct from: the volume's own where it was acquired in part, else the test mask's."""
    padding = (opened.pad_left, opened.pad_right)
    if opened.mask is None:
        return fixed(bundle.config.masks.test, (opened.image_rows, opened.columns), padding)
    if opened.mask.ndim == 2 and opened.rows != opened.image_rows:
        raise InputError(
            f"{opened.path}: it is undersampled in two dimensions, and its {opened.rows} rows are more than the "
            f"image's {opened.image_rows}; without readout oversampling (--oversampling 1) it can be reconstructed"
        )
    return given(opened.mask, padding)


def _task(bundle: Bundle, opened: RawVolume, task: str | None, options: PrepareOptions) -> str:
    known = bundle.config.tasks
    name = task or (known[0] if len(known) == 1 else task_of(opened.path, opened, options))
    if name not in known:
        said = f"--task is {name}" if task else f"{opened.path} says that it is {name}"
        raise InputError(f"{said}, and the bundle reconstructs {', '.join(known)}; give --task")
    return name


def _about(bundle: Bundle, opened: RawVolume, task: str, mask: Mask) -> dict[str, Any]:
    return {
        "task": task,
        "acquisition": opened.acquisition,
        "layout": bundle.config.network.layout,
        "mask": mask.kind,
        mask.unit: mask.count,
        "net_acceleration": mask.net_acceleration,
        "source": opened.path.name,
        "study": str(bundle.provenance.get("study", "")),
        "trial": str(bundle.provenance.get("trial", "")),
        "torch": str(torch.__version__),
    }
