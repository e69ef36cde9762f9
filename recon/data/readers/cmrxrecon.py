"""Reads the cardiac data of the CMRxRecon challenges (2023 to 2026): MATLAB's format 7.3, a folder per person.

``P001/cine_sax.mat`` holds k-space under a name that begins with ``kspace`` or ``kus``: in MATLAB's order readout,
phase encoding, coils, slices and times, of which some files lack coils (``kspace_single_…``) or times. In 2026,
``kdata_….mat`` is three-dimensional: readout, two phase encodings, coils, times and velocity encodings.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.data.readers.hybrid import Scan, slices_of
from recon.data.readers.raw import Hints, RawVolume, acquired_samples, check_shape, headless, parsing
from recon.errors import InputError

FORMAT = "cmrxrecon"
SUFFIXES = (".mat",)

VARIABLE = re.compile(r"(kspace|kus|kdata)(_\w+)?", re.IGNORECASE)
COMPANION = re.compile(r".*_mask(_.*)?|(usmask|coilmap|segmask).*", re.IGNORECASE)
"""Names, without their ending, of files that belong to another one's k-space."""
PERSON, CENTRE = re.compile(r"P\d+"), re.compile(r"Center\d+", re.IGNORECASE)


def recognises(path: Path) -> bool:
    """Whether the file is HDF5 with a variable of k-space, and lies as the challenges' files do."""
    if path.suffix.lower() not in SUFFIXES or not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return bool(_variables(file))
    except OSError:
        return False


def stands_for(path: Path) -> Path | None:
    """A file of masks or maps stands for nothing."""
    return None if COMPANION.fullmatch(path.stem) else path


def read(path: Path, hints: Hints) -> RawVolume:
    """Read the shape of k-space. The frames of a slice are slices of one volume: first all slices of the first time.

    The volume is named by the person and the file (``P001_cine_sax``), the task by the file. Persons of several centres
    are numbered anew, so that a centre's and a scanner's folder above the person's are part of the name.

    Raises:
        InputError: naming the file and the variable that does not fit, or frames that are sampled differently.
    """
    with parsing(path), h5py.File(path, "r") as file:
        names = _variables(file)
        name = names[0]
        parts = [file[name][part] for part in ("real", "imag")] if isinstance(file[name], h5py.Group) else [file[name]]
        shape = tuple(int(n) for n in parts[0].shape)
        kind = parts[0].dtype
        apart = len(parts) == 2 and parts[0].shape == parts[1].shape
    if len(names) > 1:
        raise InputError(f"{path}: it holds {', '.join(names)}, where one variable of k-space is expected")
    pairs = kind.names is not None and {"real", "imag"} <= set(kind.names)
    if not (kind.kind == "c" or pairs or apart):
        raise InputError(f"{path}: {name} is of type {kind}, where complex numbers are expected")
    volume = name.lower().startswith("kdata")
    frames, coils, columns, rows, readout = _sizes(path, name, shape, volume)
    check_shape(path, (coils, rows, columns))

    def part(index: tuple[int | slice, ...]) -> NDArray[np.complex64]:
        with h5py.File(path, "r") as file:
            if apart:
                return np.asarray(file[name]["real"][index] + 1j * file[name]["imag"][index], np.complex64)
            found = file[name][index]
        return np.asarray(found["real"] + 1j * found["imag"] if pairs else found, np.complex64)

    def frame(position: int) -> NDArray[np.complex64]:
        index = tuple(int(place) for place in np.unravel_index(position, frames)) if frames else ()
        return part(index).reshape(coils, columns, rows).swapaxes(1, 2)

    load, slices = frame, math.prod(frames)
    if volume:
        # Times and velocity encodings, each with the slices of its readout.
        deep = slices_of(readout, hints.oversampling)
        hints = hints.model_copy(update={"oversampling": None})

        def scan(number: int) -> Scan:
            place = tuple(int(one) for one in np.unravel_index(number, frames))
            return Scan((readout, coils, rows, columns), deep, lambda coil: part((*place, coil)).transpose(2, 1, 0))

        scans = [scan(number) for number in range(slices)]
        slices *= deep

        def load(position: int) -> NDArray[np.complex64]:
            return scans[position // deep].load(position % deep)

    person = _person(path)
    raw = headless(
        path,
        (slices, coils, rows, columns),
        load,
        hints,
        format=FORMAT,
        name=f"{person}_{path.stem}" if person else path.stem,
        task=path.stem,
        files=(path,),
        patient=person or path.stem,
        phase_encodings=2 if volume else 1,
    )
    if raw.mask is not None:
        _require_one_mask(raw)
    return raw


def _variables(file: h5py.File) -> list[str]:
    """Names of k-space: data sets, or groups of a real and an imaginary one."""
    return [
        name
        for name, one in file.items()
        if VARIABLE.fullmatch(name)
        and (isinstance(one, h5py.Dataset) or all(isinstance(one.get(part), h5py.Dataset) for part in ("real", "imag")))
    ]


def _sizes(path: Path, name: str, shape: tuple[int, ...], volume: bool) -> tuple[tuple[int, ...], int, int, int, int]:
    """Frames, coils, columns, rows and readout of a variable; h5py gives MATLAB's axes in reverse."""
    single = "single" in name.lower()
    dimensions = (6,) if volume else (3, 4) if single else (4, 5)
    if len(shape) not in dimensions or 0 in shape:
        due = "times, coils and three encodings" if volume else "slices, coils, phase encoding and readout"
        raise InputError(f"{path}: {name} is {' × '.join(map(str, shape))}, where {due} are expected")
    if volume:
        return shape[:2], shape[2], shape[3], shape[4], shape[5]
    if single:
        return shape[:-2], 1, shape[-2], shape[-1], 0
    return shape[:-3], shape[-3], shape[-2], shape[-1], 0


def _person(path: Path) -> str:
    """The person's folder, with those of the centre and the scanner above it where the challenge has them."""
    folder = path.resolve().parent
    if not PERSON.fullmatch(folder.name):
        return ""
    scanner, centre = folder.parent, folder.parent.parent
    known = [centre.name, scanner.name, folder.name] if CENTRE.fullmatch(centre.name) else [folder.name]
    return "-".join(known)


def _require_one_mask(raw: RawVolume) -> None:
    """Raise InputError where the first or the last slice has other samples than the middle one."""
    with parsing(raw.path):
        masks = [acquired_samples(raw.load(position))[2] for position in (0, raw.slices // 2, raw.slices - 1)]
    if any(one is None or masks[0] is None or not np.array_equal(one, masks[0]) for one in masks):
        raise InputError(f"{raw.path}: its frames are undersampled by different masks; a volume has one mask")
