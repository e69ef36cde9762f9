"""What an ISMRMRD header (XML) says of a Cartesian acquisition; fastMRI's files carry one too."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ismrmrd import xsd

from recon.data.readers.raw import parsing
from recon.errors import InputError


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


def image_rows(encoding: xsd.encodingType, rows: int) -> int:
    """Rows of the image, once the readout oversampling is off: by the fields of view, else by the matrices."""
    encoded, recon = encoding.encodedSpace, encoding.reconSpace
    fields = encoded.fieldOfView_mm, recon.fieldOfView_mm
    if all(field is not None and isinstance(field.x, int | float) and field.x > 0 for field in fields):
        part = fields[1].x / fields[0].x
    else:
        part = recon.matrixSize.x / encoded.matrixSize.x
    return max(1, min(rows, round(rows * part)))


def first_column(path: Path, encoding: xsd.encodingType) -> int:
    """The column of k-space that phase-encoding step 0 is: the centre step lies at encoded columns // 2."""
    limits = encoding.encodingLimits and encoding.encodingLimits.kspace_encoding_step_1
    return 0 if limits is None else int(encoding.encodedSpace.matrixSize.y // 2 - limits.center)


def patient(header: xsd.ismrmrdHeader) -> str:
    """The patient's name in the header, or nothing where it is missing or says that it was taken out."""
    subject = header.subjectInformation
    given = ((one or "").strip() for one in (subject.patientID, subject.patientName)) if subject else ()
    return next((one for one in given if one.lower() not in NOBODY and one.strip("xX*-_ 0")), "")


NOBODY = {"", "anon", "anonymous", "anonymized", "anonymised", "unknown", "none", "n/a", "na"}


def protocol(header: xsd.ismrmrdHeader) -> str:
    """The protocol's name, or nothing."""
    measurement, sequence = header.measurementInformation, header.sequenceParameters
    name = (measurement and measurement.protocolName) or (sequence and sequence.sequence_type) or ""
    return str(name).strip()
