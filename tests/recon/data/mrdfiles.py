"""ISMRMRD files, written readout by readout with the ``ismrmrd`` package as a scanner's converter would."""

import contextlib

import ismrmrd
import numpy as np
from ismrmrd import xsd

ROWS, COLUMNS, COILS = 16, 12, 3


def random_kspace(slices=1, coils=COILS, seed=0):
    """(slices, coils, ROWS, COLUMNS), no sample of it zero."""
    rng = np.random.default_rng(seed)
    shape = (slices, coils, ROWS, COLUMNS)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def encoding(
    *,
    encoded=(ROWS, COLUMNS, 1),
    image=(ROWS, COLUMNS, 1),
    fields=((200.0, 160.0, 4.0), (200.0, 160.0, 4.0)),
    centre=COLUMNS // 2,
    second=None,
    trajectory=xsd.trajectoryType.CARTESIAN,
):
    """An encoding: matrices and fields of view of readout, phase encoding and second phase encoding; centre steps."""

    def space(matrix, field):
        x, y, z = matrix
        size = xsd.matrixSizeType(x=x, y=y, z=z)
        mm = field and xsd.fieldOfViewMm(x=field[0], y=field[1], z=field[2])
        return xsd.encodingSpaceType(matrixSize=size, fieldOfView_mm=mm)

    def limit(middle, size):
        return None if middle is None else xsd.limitType(minimum=0, maximum=size - 1, center=middle)

    return xsd.encodingType(
        trajectory=trajectory,
        encodedSpace=space(encoded, fields and fields[0]),
        reconSpace=space(image, fields and fields[1]),
        encodingLimits=xsd.encodingLimitsType(
            kspace_encoding_step_1=limit(centre, encoded[1]), kspace_encoding_step_2=limit(second, encoded[2])
        ),
    )


def document(*encodings: xsd.encodingType, protocol=None, patient=None):
    """A header with these encodings."""
    return xsd.ismrmrdHeader(
        subjectInformation=patient,
        measurementInformation=protocol
        and xsd.measurementInformationType(
            protocolName=protocol, patientPosition=xsd.patientPositionType(xsd.patientPositionType.HFS)
        ),
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=128_000_000),
        encoding=list(encodings),
    )


def header(
    *,
    image=(ROWS, COLUMNS),
    fields=(200.0, 200.0),
    centre=COLUMNS // 2,
    trajectory=xsd.trajectoryType.CARTESIAN,
    protocol=None,
    patient=None,
    encodings=1,
):
    """XML of ROWS × COLUMNS encoded samples; ``fields`` are the readout's field of view, encoded and of the image."""
    one = encoding(
        image=(*image, 1),
        fields=((fields[0], 160.0, 4.0), (fields[1], 160.0, 4.0)),
        centre=centre,
        trajectory=trajectory,
    )
    return document(*[one] * encodings, protocol=protocol, patient=patient)


def readout(
    samples,
    step=0,
    *,
    flags=(),
    centre=ROWS // 2,
    position=None,
    direction=(0, 0, 1),
    axes=None,
    counters=None,
    **fields: object,
):
    """One readout, (coils, samples); ``position`` is of the slice and ``direction`` its normal; or
    ``axes``, the directions of readout, phase encoding and slice."""
    one = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples, np.complex64))
    one.center_sample = centre
    for flag in flags:
        one.setFlag(flag)
    for name, value in {"kspace_encode_step_1": step, **(counters or {})}.items():
        setattr(one.idx, name, value)
    for name, value in fields.items():
        setattr(one, name, value)
    if position is not None:
        one.position[:], one.slice_dir[:] = position, direction
    if axes is not None:
        one.read_dir[:], one.phase_dir[:], one.slice_dir[:] = axes
    return one


def readouts(kspace, *, number=0, columns=range(COLUMNS), first=0, counters=None, **how: object):
    """All readouts of a slice (coils, rows, columns) with counter ``number``; step 0 is column ``first``."""
    counters = {"slice": number, **(counters or {})}
    return [readout(kspace[:, :, column], column - first, counters=counters, **how) for column in columns]


def write(path, lines, says=None, **header_says: object):
    """Write the readouts, in their order, with a header: ``says``, or what ``header`` makes of the rest."""
    with contextlib.closing(ismrmrd.Dataset(str(path))) as dataset:
        dataset.write_xml_header((says or header(**header_says)).toXML())
        for line in lines:
            dataset.append_acquisition(line)
    return path
