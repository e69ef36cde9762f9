"""What an ISMRMRD header (XML) says of a Cartesian acquisition; fastMRI's files carry one too."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from ismrmrd import xsd

from recon.data.readers.raw import parsing
from recon.errors import InputError

AGREES = 0.02
"""A reconstruction matrix that differs by no more from what the fields of view say is taken as it stands."""
Axis = Literal["x", "y", "z"]
"""The header's names: readout, phase encoding, second phase encoding."""


def parse(path: Path, document: Any) -> xsd.ismrmrdHeader:
    """The header of a file.

    Raises InputError where it is none, or has no encoding.
    """
    with parsing(path, "its ISMRMRD header cannot be read"), warnings.catch_warnings():
        # Of fields that do not convert; those that are used are looked at below.
        warnings.simplefilter("ignore")
        header = xsd.CreateFromDocument(document)
    if not header.encoding:
        raise InputError(f"{path}: its ISMRMRD header has no encoding; one is needed for matrix size and padding")
    for encoding in header.encoding:
        for name in ("encodedSpace", "reconSpace"):
            space = getattr(encoding, name)
            size = space and space.matrixSize
            if size is None or not all(isinstance(one, int) and one > 0 for one in (size.x, size.y)):
                raise InputError(f"{path}: {name} of its ISMRMRD header has no matrixSize of at least one by one")
        limits = encoding.encodingLimits and encoding.encodingLimits.kspace_encoding_step_1
        if limits is not None and not all(isinstance(one, int) for one in (limits.maximum, limits.center)):
            raise InputError(f"{path}: kspace_encoding_step_1 of its ISMRMRD header has no maximum and center")
    return header


def fields(encoding: xsd.encodingType, axis: Axis) -> tuple[float, float] | None:
    """Fields of view in mm, encoded and reconstructed; None where either is missing."""
    both = []
    for space in (encoding.encodedSpace, encoding.reconSpace):
        field = space.fieldOfView_mm and getattr(space.fieldOfView_mm, axis)
        if not isinstance(field, int | float) or not field > 0:
            return None
        both.append(float(field))
    return both[0], both[1]


def readout_field(encoding: xsd.encodingType, rows: int) -> float | None:
    """Field of view in mm that ``rows`` samples of a readout cover; None where the header has no fields of view.

    It is the encoded one, with two exceptions. Some headers give the base resolution as the encoded matrix while the
    readouts are oversampled, and some keep the encoded matrix though a converter has removed the oversampling.
    """
    both = fields(encoding, "x")
    if both is None:
        return None
    encoded, recon = both
    matrix, image = encoding.encodedSpace.matrixSize.x, encoding.reconSpace.matrixSize.x
    if oversampling_is_off(encoding, rows):
        return recon
    times = base_resolution(encoding, rows)
    # A field of view that holds the oversampling although the matrix does not: the image's own matrix tells.
    held = encoded > 0.95 * times * recon and abs(rows * recon / encoded - image) < abs(
        matrix * recon / encoded - image
    )
    return encoded if held else times * encoded


def base_resolution(encoding: xsd.encodingType, rows: int) -> int:
    """How many times the encoded matrix fits into ``rows`` samples of a readout; 1 if it is no whole number."""
    times, rest = divmod(rows, encoding.encodedSpace.matrixSize.x)
    return int(times) if times > 1 and not rest else 1


def oversampling_is_off(encoding: xsd.encodingType, rows: int) -> bool:
    """Whether readouts have just the samples that are left of the encoded matrix without its oversampling."""
    both = fields(encoding, "x")
    if both is None or not both[1] < 0.95 * both[0]:
        return False
    return rows == round(encoding.encodedSpace.matrixSize.x * both[1] / both[0])


def image_rows(encoding: xsd.encodingType, rows: int) -> int:
    """Rows of the image, once the readout oversampling is off: by the fields of view, else by the matrices."""
    field = readout_field(encoding, rows)
    if field is None:
        base = rows // base_resolution(encoding, rows)
        part = encoding.reconSpace.matrixSize.x / encoding.encodedSpace.matrixSize.x
        return max(1, min(base, round(base * part)))
    both = fields(encoding, "x")
    assert both is not None  # ``readout_field`` had them
    return max(1, min(rows, round(rows * both[1] / field)))


def crop(encoding: xsd.encodingType, image_rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of the region that the scanner reconstructs, in pixels of k-space as acquired.

    Along each axis it is the reconstruction matrix. Where the fields of view differ and say otherwise, the matrix is of
    another resolution (usually interpolated), and the fields of view decide.

    Args:
        encoding: of the image.
        image_rows: rows of the image, from ``image_rows``: they cover the reconstruction's field of view.
        columns: of k-space, padding included.
    """
    both = fields(encoding, "x")
    by_field = image_rows if both and _differ(both) else None
    return _crop(encoding.reconSpace.matrixSize.x, image_rows, by_field), crop_along(encoding, "y", columns)


def crop_along(encoding: xsd.encodingType, axis: Axis, samples: int) -> int:
    """Pixels that the scanner reconstructs along an axis of phase encoding with so many samples; as in ``crop``."""
    both = fields(encoding, axis)
    encoded, matrix = (
        getattr(space.matrixSize, axis) or samples for space in (encoding.encodedSpace, encoding.reconSpace)
    )
    if both and _differ(both):
        return _crop(matrix, samples, samples * both[1] / both[0])
    # K-space that is wider than the header says has smaller pixels.
    return _crop(round(matrix * max(1, samples / encoded)), samples, None)


def _differ(both: tuple[float, float]) -> bool:
    return abs(both[0] - both[1]) > AGREES * both[0]


def _crop(matrix: int, samples: int, by_field: float | None) -> int:
    if by_field is not None and abs(matrix - by_field) > AGREES * by_field:
        matrix = round(by_field)
    return max(1, min(matrix, samples))


def first_column(path: Path, encoding: xsd.encodingType) -> int:
    """The column of k-space that phase-encoding step 0 is: the centre step lies at encoded columns // 2."""
    limits = encoding.encodingLimits and encoding.encodingLimits.kspace_encoding_step_1
    return 0 if limits is None else int(encoding.encodedSpace.matrixSize.y // 2 - limits.center)


def centre_step(path: Path, encoding: xsd.encodingType, which: Literal[1, 2]) -> int | None:
    """The step of the first or second phase encoding at which the header says that k-space has its centre.

    Raises:
        InputError: there are limits of the second phase encoding, but without a centre.
    """
    name = f"kspace_encoding_step_{which}"
    limits = encoding.encodingLimits and getattr(encoding.encodingLimits, name)
    if limits is None:
        return None
    if not isinstance(limits.center, int):
        raise InputError(f"{path}: {name} of its ISMRMRD header has no center")
    return limits.center


def patient(header: xsd.ismrmrdHeader) -> str:
    """The patient's name in the header, or nothing where it is missing or says that it was taken out."""
    subject = header.subjectInformation
    return somebody((subject.patientID, subject.patientName)) if subject else ""


def somebody(given: Iterable[str | None]) -> str:
    """The first of some names that is one, or nothing where all are missing or say that they were taken out."""
    names = ((one or "").strip() for one in given)
    return next((one for one in names if one.lower() not in NOBODY and one.strip("xX*-_ 0")), "")


NOBODY = {"", "anon", "anonymous", "anonymized", "anonymised", "unknown", "none", "n/a", "na"}


def protocol(header: xsd.ismrmrdHeader) -> str:
    """The protocol's name, or nothing."""
    measurement, sequence = header.measurementInformation, header.sequenceParameters
    name = (measurement and measurement.protocolName) or (sequence and sequence.sequence_type) or ""
    return str(name).strip()
