"""Reads ISMRMRD HDF5 (Inati et al. 2017, Magn Reson Med 77:411-421): Cartesian raw data, in slices or in a slab.

mridata.org serves this format, and the converters of the vendors' formats write it. The heads of all readouts are read
at once, the samples slice by slice. A readout's flags say what it is for (``heads``), and its head and the header where
it lies (``placing``). Averages are averaged; repetitions, echoes and the like are images of their own.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.data.readers import drawn, header
from recon.data.readers.mrd import arrange, orientation
from recon.data.readers.mrd.calibration import calibration_of
from recon.data.readers.mrd.heads import COUNTERS, are_readouts, find_group, read_heads, read_noise, roles
from recon.data.readers.mrd.placing import rows_of
from recon.data.readers.mrd.scan import File, Image, encoding_of
from recon.data.readers.raw import SIMULATION, Hints, RawVolume, parsing, usual_task
from recon.errors import InputError

FORMAT = "ismrmrd"
SUFFIXES = (".h5", ".hdf5", ".mrd", ".ismrmrd")

MOST_READOUTS = 2**23
"""More than this is a damaged file: 8 million readouts are a day's scanning."""
IMAGES = ("encoding", *COUNTERS)
"""What tells the images of a slice apart, in the order of the names of volumes."""
SHORT = {"contrast": "echo", "repetition": "rep"}
"""What a volume's name calls them, where it is something else."""


def recognises(path: Path) -> bool:
    """Whether the file is HDF5 with a group of readouts and an XML header."""
    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return find_group(file) is not None
    except (OSError, RuntimeError, KeyError):
        # What h5py raises for a file that is cut off or damaged.
        return False


def read_all(path: Path, hints: Hints) -> list[RawVolume]:
    """Read header and heads of an ISMRMRD file; hints overrule the header.

    A readout's line is its encoding step, moved so that the header's centre step lies at encoded columns // 2; columns
    outside the acquired ones count as padding. Slices come in the order of their positions along the slice direction.
    With a second phase encoding, the readout is transformed and gives the slices; rows are the first phase encoding,
    columns the second.

    Raises:
        InputError: not Cartesian, several images per slice though hints do not ask for them, lines missing from most
            slices, or a field that does not fit; names the file.
    """
    file = _open(path, hints)
    keys = np.stack(
        [file.heads["encoding_space_ref"], *(file.heads["idx"][counter] for counter in COUNTERS)], axis=1
    ).astype(np.int64)
    if hints.images == "average":
        keys[:, IMAGES.index("repetition")] = 0
    images = np.unique(keys[file.roles.image], axis=0)
    several = [name for name, values in zip(IMAGES, images.T, strict=True) if np.unique(values).size > 1]
    if several and hints.images == "one":
        raise InputError(
            f"{path}: it holds {len(images)} images a slice, told apart by {' and '.join(several)}; "
            "--images volumes makes each a volume, --images average averages repetitions"
        )
    return [_volume(file, keys, image, several) for image in images]


def _open(path: Path, hints: Hints) -> File:
    with parsing(path), h5py.File(path, "r") as file:
        name = find_group(file)
        assert name is not None  # ``recognises`` saw it
        document = file[name]["xml"][0]
        data = file[name]["data"]
        kind, count = data.dtype, int(data.size)
        drawn_noise = file[drawn.NAME][()] if drawn.NAME in file else None
        simulation = str(file.attrs.get(SIMULATION, ""))
    if not are_readouts(kind):
        raise InputError(f"{path}: {name}/data does not hold ISMRMRD readouts (its type is {str(kind)[:60]})")
    if not 0 < count <= MOST_READOUTS:
        raise InputError(f"{path}: {name}/data holds {count} readouts, where 1 to {MOST_READOUTS} are expected")
    heads = read_heads(path, name, count)
    found = roles(heads)
    if not found.image.size:
        raise InputError(
            f"{path}: none of its {count} readouts is of an image (noise, navigators or calibration alone)"
        )
    noise = drawn.parse(path, drawn_noise) or hints.simulated_noise
    return File(path, name, header.parse(path, document), heads, found, noise, simulation, hints)


def _volume(file: File, keys: NDArray[np.int64], image: NDArray[np.int64], several: list[str]) -> RawVolume:
    """The volume of one image.

    Args:
        file: all of it.
        keys: (readouts, ``IMAGES``): what image each readout of the file belongs to.
        image: (``IMAGES``,): the one that is due.
        several: which of ``IMAGES`` tell the file's images apart.
    """
    path, hints = file.path, file.hints
    encoding = encoding_of(file, int(image[0]))
    numbers = file.roles.image[(keys[file.roles.image] == image).all(axis=1)]
    heads = file.heads[numbers]
    coils = np.unique(heads["active_channels"])
    if coils.size > 1 or coils[0] == 0:
        raise InputError(
            f"{path}: its readouts have {', '.join(map(str, coils))} coils, where all have the same number"
        )
    rows, note = rows_of(path, encoding, heads)
    slices = orientation.slices_of(heads)
    calibration = calibration_of(file, keys, image)
    slab = np.unique(heads["idx"]["kspace_encode_step_2"]).size > 1
    one = Image(file, encoding, numbers, calibration, rows, slices)
    layout, notes = arrange.slab(one) if slab else arrange.stack(one)
    acquisition = header.protocol(file.document) or "unnamed"
    suffixes = [f"{SHORT.get(name, name)}{image[IMAGES.index(name)] + 1}" for name in several]
    own_name = path.name.removesuffix(path.suffix).removesuffix(".ismrmrd")
    # Echoes have contrasts of their own; repetitions and phases show the same one.
    echo = [suffix for suffix in suffixes if suffix.startswith("echo")]
    noise = file.roles.noise

    def load_noise() -> NDArray[np.complex64]:
        return read_noise(path, file.group, noise, file.heads, int(numbers[0]), int(coils[0]))

    return RawVolume(
        path=path,
        name="_".join([own_name, *suffixes]),
        format=FORMAT,
        acquisition=acquisition,
        task="-".join([hints.task or usual_task(acquisition), *echo]),
        patient=hints.patient or header.patient(file.document) or own_name,
        slices=layout.slices,
        coils=int(coils[0]),
        rows=layout.rows,
        columns=layout.columns,
        image_rows=layout.image_rows,
        pad_left=layout.padding[0],
        pad_right=layout.padding[1],
        crop=layout.crop,
        mask=layout.mask,
        load=layout.load,
        files=(path,),
        load_noise=load_noise if noise.size else None,
        load_calibration=layout.load_calibration,
        simulated_noise=None if several else file.simulated_noise,
        simulation=file.simulation,
        phase_encodings=2 if slab else 1,
        geometry=layout.geometry,
        notes=tuple(one for one in (note, slices.note, *notes) if one),
    )
