"""Reads the knee data of Hammernik et al. 2018 (Magn Reson Med 79:3055-3071): one folder per patient, one file per
slice.

``rawdata<i>.mat`` holds ``rawdata`` (readout, phase encoding, coils) and sometimes ``padlength_left`` and
``padlength_right``; ``espirit<i>.mat`` holds ``sensitivities`` of the same shape. Both in MATLAB's format 5 or 7.3.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from recon.data.readers.raw import Hints, RawVolume, check_shape, headless, parsing
from recon.errors import InputError

FORMAT = "hammernik"
SUFFIXES = (".mat",)
NAMED = re.compile(r"rawdata(\d+)\.mat", re.IGNORECASE)


def recognises(path: Path) -> bool:
    """Whether the file is a slice of such a folder, by its name and ending."""
    return NAMED.fullmatch(path.name) is not None


def stands_for(path: Path) -> Path | None:
    """The folder's first slice stands for the volume; the others and ``espirit<i>.mat`` stand for nothing."""
    if not recognises(path):
        return None if path.name.lower().startswith("espirit") else path
    return _slices(path.parent)[0]


def read(path: Path, hints: Hints) -> RawVolume:
    """Read the shape of a patient's folder from its first slice.

    The volume is named by the folder and the one above it (``coronal_pd-3``), the task by the one above; the patient is
    the volume, as the folders number each contrast's patients anew.

    Raises:
        InputError: a variable that is missing, or slices of several shapes; names the file.
    """
    files = _slices(path.parent)
    shapes = {}
    for file in files:
        shapes[file] = _shape(file, "rawdata")
    first = shapes[files[0]]
    for file, shape in shapes.items():
        if shape != first:
            raise InputError(f"{file}: rawdata is {shape}, that of {files[0].name} is {first}")
    if len(first) != 3:
        raise InputError(f"{files[0]}: rawdata is {first}, where readout, phase encoding and coils are expected")
    rows, columns, coils = first
    check_shape(files[0], (coils, rows, columns))
    beside = [file.with_name("espirit" + file.name[len("rawdata") :]) for file in files]
    folder = path.parent.resolve()

    def load(position: int) -> NDArray[np.complex64]:
        return _complex(files[position], "rawdata").transpose(2, 0, 1)

    def load_maps(position: int) -> NDArray[np.complex64]:
        if not beside[position].is_file():
            raise InputError(f"{beside[position]} with the slice's own maps is missing")
        shape = _shape(beside[position], "sensitivities")
        if shape[:3] != first or any(size != 1 for size in shape[3:]):
            raise InputError(f"{beside[position]}: sensitivities are {shape}, rawdata {first}")
        return _complex(beside[position], "sensitivities").reshape(first).transpose(2, 0, 1)

    left, right = (_number(files[0], f"padlength_{side}") for side in ("left", "right"))
    has_maps = any(file.is_file() for file in beside)
    return headless(
        path,
        (len(files), coils, rows, columns),
        load,
        hints,
        format=FORMAT,
        name=f"{folder.parent.name}-{folder.name}" if folder.parent.name else folder.name,
        task=folder.parent.name or folder.name,
        files=(*files, *(file for file in beside if file.is_file())),
        padding=None if left is None or right is None else (left, right),
        load_maps=load_maps if has_maps else None,
    )


def _slices(folder: Path) -> list[Path]:
    numbered = {int(found[1]): one for one in folder.iterdir() if (found := NAMED.fullmatch(one.name))}
    return [numbered[number] for number in sorted(numbered)]


def _is_new(path: Path) -> bool:
    """Whether the file is MATLAB's 7.3, which is HDF5 (behind a header of text)."""
    return bool(h5py.is_hdf5(path))


def _shape(path: Path, name: str) -> tuple[int, ...]:
    """The shape of a variable as MATLAB counts it."""
    shape: tuple[int, ...] | None = None
    with parsing(path):
        if _is_new(path):
            with h5py.File(path, "r") as file:
                found = file.get(name)
                shape = None if not isinstance(found, h5py.Dataset) else tuple(int(n) for n in found.shape[::-1])
        else:
            sizes = {one: size for one, size, _ in scipy.io.whosmat(path)}
            shape = None if name not in sizes else tuple(int(n) for n in sizes[name])
    if shape is None:
        raise InputError(f"{path}: the variable {name} is missing")
    return shape


def _variable(path: Path, name: str) -> NDArray[Any]:
    """A variable, its axes in MATLAB's order."""
    with parsing(path):
        if _is_new(path):
            with h5py.File(path, "r") as file:
                array = np.asarray(file[name][()]).T
        else:
            array = np.asarray(scipy.io.loadmat(path, variable_names=[name])[name])
    return array


def _complex(path: Path, name: str) -> NDArray[np.complex64]:
    check_shape(path, _shape(path, name))
    array = _variable(path, name)
    if array.dtype.names and {"real", "imag"} <= set(array.dtype.names):
        array = array["real"] + 1j * array["imag"]
    if array.dtype.kind != "c":
        raise InputError(f"{path}: {name} is of type {array.dtype}, where complex numbers are expected")
    return array.astype(np.complex64)


def _number(path: Path, name: str) -> int | None:
    with parsing(path):
        if _is_new(path):
            with h5py.File(path, "r") as file:
                there = name in file
        else:
            there = name in {one for one, _, _ in scipy.io.whosmat(path)}
    if not there:
        return None
    value = np.asarray(_variable(path, name)).reshape(-1)
    # Kinds first: a complex number of format 7.3 is a pair, and pairs cannot be compared.
    if value.dtype.kind not in "biuf" or value.size != 1 or not 0 <= value[0] < 2**31 or value[0] % 1:
        raise InputError(f"{path}: {name} is {value[:3]}, where a number of columns is expected")
    return int(value[0])
