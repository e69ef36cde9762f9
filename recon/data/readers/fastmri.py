"""Reads fastMRI's HDF5 layout: ``kspace`` (slices, coils, rows, columns), ``ismrmrd_header`` (XML) and attributes.

Single-coil files leave the coils out. M4Raw's files (Lyu et al. 2023, Sci Data 10:264) have this layout, too, but their
headers do not follow ISMRMRD's schema and may lack the encoding.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
from ismrmrd import xsd
from numpy.typing import NDArray

from recon.data.readers import drawn, header
from recon.data.readers.raw import (
    SIMULATION,
    Geometry,
    Hints,
    RawVolume,
    acquired_samples,
    check_shape,
    parsing,
    usual_task,
)
from recon.errors import InputError

FORMAT = "fastmri"
SUFFIXES = (".h5", ".hdf5")

ELEMENTS = {field.name for field in dataclasses.fields(xsd.ismrmrdHeader)}
"""Names of the elements that a header consists of."""
M4RAW_NAME = re.compile(r"(?P<subject>\d{10})_[A-Za-z]\w*?\d\d")
"""M4Raw names its files by subject, contrast and repetition: ``2022061003_T201``."""


def recognises(path: Path) -> bool:
    """Whether the file is HDF5 with fastMRI's k-space and header in it."""
    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return "kspace" in file and "ismrmrd_header" in file
    except OSError:
        # A truncated file has an intact signature but cannot be opened.
        return False


def read(path: Path, hints: Hints) -> RawVolume:
    """Read the header and the middle slice of a fastMRI file; hints overrule the header.

    Padding is fastMRI's: left = encoded columns // 2 − centre line, and left + maximum + 1 is the first column of the
    right padding. The readout oversampling is the ratio of the encoded to the reconstructed field of view. Files of
    fastMRI's test split carry the ``mask`` that was kept, of columns or of rows and columns; in a file without it, the
    zeros of the middle slice say what was not acquired. Where the header has no encoding, they say the padding, too.

    Raises:
        InputError: naming the file and the field that is missing or does not fit.
    """
    with parsing(path), h5py.File(path, "r") as file:
        kspace = file["kspace"]
        whole = isinstance(kspace, h5py.Dataset)
        shape = tuple(int(n) for n in kspace.shape) if whole else ()
        kind = kspace.dtype if whole else None
        document = file["ismrmrd_header"][()]
        attributes = dict(file.attrs)
        noise = file[drawn.NAME][()] if drawn.NAME in file else None
        mask = np.squeeze(np.asarray(file["mask"]).astype(bool)) if "mask" in file else None
    if len(shape) not in (3, 4) or kind is None or kind.kind != "c":
        found = f"{shape} of {kind}" if whole else "a group"
        raise InputError(
            f"{path}: kspace is {found}; multi-coil k-space is complex, (slices, coils, rows, columns), and "
            "single-coil k-space has no coils"
        )
    if 0 in shape:
        raise InputError(f"{path}: kspace is empty, its shape is {shape}")
    slices, coils, rows, columns = shape if len(shape) == 4 else (shape[0], 1, *shape[1:])
    check_shape(path, (coils, rows, columns))
    notes: list[str] = []

    def load(position: int) -> NDArray[np.complex64]:
        with h5py.File(path, "r") as file:
            return np.asarray(file["kspace"][position], np.complex64).reshape(coils, rows, columns)

    encoding = _encoding(path, document)
    if encoding is None:
        notes.append(
            "its header has no encoding: columns of zeros count as padding, the readout as not oversampled, and the "
            "whole image as its region"
        )
        image_rows, crop, said = rows, (rows, columns), (0, 0)
    else:
        recon = encoding.reconSpace.matrixSize
        image_rows, crop = header.image_rows(encoding, rows), (recon.x, recon.y)
        said = (0, 0) if hints.padding else _padding(path, encoding, columns)
    if hints.oversampling is not None:
        image_rows = max(1, round(rows / hints.oversampling))
    with parsing(path, f"slice {slices // 2} cannot be read"):
        middle = load(slices // 2)
    empty_left, empty_right, seen = acquired_samples(middle)
    if mask is not None and encoding is not None:
        # The columns at the edge that the mask left out are no padding.
        empty_left, empty_right = 0, 0
    pad_left, pad_right = hints.padding or (max(said[0], empty_left), max(said[1], empty_right))
    if pad_left + pad_right >= columns:
        raise InputError(f"{path}: padding of {pad_left} and {pad_right} columns leaves nothing of {columns}")
    if encoding is not None and not hints.padding and (pad_left, pad_right) != said:
        notes.append(
            f"its first {pad_left} and last {pad_right} columns hold nothing but zeros and count as never acquired, "
            f"though its header says so of {said[0]} and {said[1]} alone"
        )
    crop = hints.crop or crop
    acquisition = _text(attributes.get("acquisition")) or "unnamed"
    return RawVolume(
        path=path,
        name=path.stem,
        format=FORMAT,
        acquisition=acquisition,
        task=hints.task or usual_task(acquisition),
        # A file without a patient is a patient of its own.
        patient=hints.patient or _patient(path, document) or _text(attributes.get("patient_id")) or path.stem,
        slices=slices,
        coils=coils,
        rows=rows,
        columns=columns,
        image_rows=image_rows,
        pad_left=pad_left,
        pad_right=pad_right,
        crop=(min(crop[0], image_rows), min(crop[1], columns)),
        mask=_mask(path, mask, seen, (rows, columns), (pad_left, pad_right)),
        load=load,
        files=(path,),
        simulated_noise=drawn.parse(path, noise),
        notes=tuple(notes),
        simulation=_text(attributes.get(SIMULATION)),
        geometry=_geometry(encoding, rows, columns),
    )


def _mask(
    path: Path,
    stored: NDArray[np.bool_] | None,
    found: NDArray[np.bool_] | None,
    size: tuple[int, int],
    padding: tuple[int, int],
) -> NDArray[np.bool_] | None:
    """The file's mask, or the one that its zeros show; None where it leaves nothing out but padding."""
    if stored is not None and stored.shape not in (size[1:], size):
        shape = " × ".join(map(str, stored.shape)) or "no"
        raise InputError(f"{path}: mask has {shape} columns, k-space has {size[1]} ({size[0]} rows)")
    mask = found if stored is None else stored
    if mask is None or mask[..., padding[0] : size[1] - padding[1]].all():
        return None
    if found is mask:
        mask[..., : padding[0]] = mask[..., size[1] - padding[1] :] = False
    return mask


def _encoding(path: Path, document: Any) -> Any:
    """The header's first encoding, or None where it has none, or one that gives no matrix.

    The rest of the document is set aside before it is held against the schema, as M4Raw's does not follow it.
    """
    with parsing(path, "its ISMRMRD header cannot be read"):
        root = ElementTree.fromstring(document)
        space, _, name = root.tag.rpartition("}")
        if name != "ismrmrdHeader":
            raise ValueError(f"its root is {root.tag}")
        prefix = f"{space}}}" if space else ""
        names = {element.tag.removeprefix(prefix) for element in root}
        alone = ElementTree.Element(root.tag)
        # The schema wants a field strength.
        conditions = ElementTree.SubElement(alone, f"{prefix}experimentalConditions")
        ElementTree.SubElement(conditions, f"{prefix}H1resonanceFrequency_Hz").text = "0"
        alone.extend(root.findall(f"{prefix}encoding"))
        matrices = alone.findall(f"{prefix}encoding/*/{prefix}matrixSize")
    # A header with elements of other names is a damaged one.
    if not matrices and names <= ELEMENTS:
        return None
    return header.parse(path, ElementTree.tostring(alone)).encoding[0]


def _geometry(encoding: Any, rows: int, columns: int) -> Geometry | None:
    """Sizes of the voxels, by the fields of view; nothing in the layout says where they lie, or the gap of slices."""
    if encoding is None:
        return None
    readout, phase, thickness = (
        header.readout_field(encoding, rows),
        header.fields(encoding, "y"),
        header.fields(encoding, "z"),
    )
    if readout is None or phase is None or thickness is None:
        return None
    return Geometry((readout / rows, phase[0] / columns, thickness[1]))


def _padding(path: Path, encoding: Any, columns: int) -> tuple[int, int]:
    limits = encoding.encodingLimits and encoding.encodingLimits.kspace_encoding_step_1
    if limits is None:
        return 0, 0
    left = header.first_column(path, encoding)
    acquired = limits.maximum + 1
    if left < 0 or left + acquired > columns:
        raise InputError(
            f"{path}: ismrmrd_header puts lines {left} to {left + acquired} into k-space of {columns} columns; "
            "kspace_encoding_step_1 and encodedSpace do not fit"
        )
    return left, columns - left - acquired


def _patient(path: Path, document: Any) -> str:
    """The subject that M4Raw's file name begins with; nothing for other files.

    M4Raw's attribute ``patient_id`` differs between the repetitions of a person, so that it cannot keep them together.
    """
    named = M4RAW_NAME.fullmatch(path.stem)
    if named is None:
        return ""
    try:
        header.parse(path, document)
    except InputError:
        # Only M4Raw's headers are both XML (``_encoding`` read this one) and against the schema.
        return named["subject"]
    return ""


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else "" if value is None else str(value)
