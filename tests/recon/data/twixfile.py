"""Writes Siemens raw files from the published layout: the VD line's table, protocols as text, readouts with heads."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

MEASUREMENT = np.dtype([("id", "<u4"), ("file", "<u4"), ("at", "<u8"), ("size", "<u8"), ("names", "S64", 2)])
COUNTERS = ("Lin", "Ave", "Sli", "Par", "Eco", "Phs", "Rep", "Set", "Seg", "Ida", "Idb", "Idc", "Idd", "Ide")
BEHIND = [
    ("flags", "<u8"),
    ("samples", "<u2"),
    ("coils", "<u2"),
    ("counters", "<u2", 14),
    ("cut", "<u2", 2),
    ("centre_sample", "<u2"),
    ("coil_select", "<u2"),
    ("off_centre", "<f4"),
    ("since_rf", "<u4"),
    ("centre_line", "<u2"),
    ("centre_partition", "<u2"),
]
SCAN_HEAD = np.dtype(
    [
        ("length", "<u4"),
        ("measurement", "<i4"),
        ("number", "<u4"),
        ("times", "<u4", 2),
        ("system", "<u2", 2),
        ("table", "<i4", 4),
        *BEHIND,
        ("position", "<f4", 3),
        ("quaternion", "<f4", 4),
        ("parameters", "<u2", 24),
        ("reserved", "<u2", 4),
        ("application", "<u2", 2),
        ("crc", "<u4"),
    ]
)
OLD_HEAD = np.dtype(
    [
        ("length", "<u4"),
        ("measurement", "<i4"),
        ("number", "<u4"),
        ("times", "<u4", 2),
        *BEHIND,
        ("parameters", "<u2", 4),
        ("free", "<u2", 4),
        ("position", "<f4", 3),
        ("quaternion", "<f4", 4),
        ("channel", "<u2"),
        ("table", "<u2"),
    ]
)
COIL_HEAD = np.dtype("V32")
FLAGS = {"END": 0, "SYNC": 5, "PHASCOR": 21, "PATREF": 22, "PATREFIMA": 23, "REFLECT": 24, "NOISE": 25}
assert (SCAN_HEAD.itemsize, OLD_HEAD.itemsize) == (192, 128)


@dataclass
class Line:
    """A readout: samples (coils, samples), counters by their names in ``COUNTERS``, flags by those in ``FLAGS``."""

    samples: np.ndarray
    counters: dict[str, int] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    centre: tuple[int, int] = (0, 0)
    position: tuple[float, float, float] = (0, 0, 0)
    cut: tuple[int, int] = (0, 0)


def protocol(rows: int, lines: int, **changes: object) -> dict[str, str]:
    """The buffers of a protocol: ``rows`` of the image, twofold readout oversampling."""
    plan = {
        "sKSpace.lBaseResolution": rows,
        "sKSpace.lPhaseEncodingLines": lines,
        "sKSpace.ucTrajectory": 1,
        "sKSpace.ucDimension": 2,
        "sSliceArray.asSlice[0].dReadoutFOV": 220.0,
        "sSliceArray.asSlice[0].dPhaseFOV": 200.0,
        "sSliceArray.asSlice[0].dThickness": 4.0,
        "sRXSPEC.alDwellTime[0]": 5000,
    } | changes
    text = "".join(f"{name}\t = \t{value}\n" for name, value in plan.items())
    said = '<ParamString."tProtocolName">  { "t1_tse"  }\n<ParamString."PatientID">  { "xxxx"  }\n'
    factor = '<ParamDouble."flReadoutOSFactor">  { <Precision> 6  2.0  }\n'
    return {
        "Meas": said,
        "Dicom": factor,
        "MeasYaps": f"### ASCCONV BEGIN ###\n{text}\n### ASCCONV END ###\n",
    }


def head_of(line: Line, kind: np.dtype, number: int) -> np.ndarray:
    head = np.zeros((), kind)
    coils, count = line.samples.shape
    head["number"], head["samples"], head["coils"] = number, count, coils
    head["flags"] = sum(1 << FLAGS[flag] for flag in line.flags)
    for name, value in line.counters.items():
        head["counters"][COUNTERS.index(name)] = value
    head["centre_sample"], head["centre_line"] = line.centre
    head["position"], head["cut"] = line.position, line.cut
    return head


def measurement(buffers: dict[str, str], lines: list[Line], old: bool = False) -> bytes:
    """A protocol and its readouts, with the end that closes them."""
    parts = b"".join(
        name.encode() + b"\0" + len(text).to_bytes(4, "little") + text.encode() for name, text in buffers.items()
    )
    # The old line has no table: its first number is the protocol's size, which is never as small as a table's.
    size = max(10240 if old else 0, -(-(8 + len(parts)) // 32) * 32)
    out = [size.to_bytes(4, "little"), len(buffers).to_bytes(4, "little"), parts, bytes(size - 8 - len(parts))]
    kind, each = (OLD_HEAD, OLD_HEAD.itemsize) if old else (SCAN_HEAD, COIL_HEAD.itemsize)
    for number, line in enumerate(lines, 1):
        head = head_of(line, kind, number)
        coils, count = line.samples.shape
        head["length"] = (0 if old else kind.itemsize) + coils * (each + 8 * count)
        out.append(b"" if old else head.tobytes())
        for one in np.ascontiguousarray(line.samples, "<c8"):
            out += [head.tobytes() if old else bytes(each), one.tobytes()]
    end = np.zeros((), kind)
    end["flags"], end["length"] = 1 << FLAGS["END"], kind.itemsize + 160
    return b"".join([*out, end.tobytes(), bytes(160)])


def write(path: Path, *measurements: bytes) -> Path:
    """A file of the VD line."""
    table = np.zeros(64, MEASUREMENT)
    place, out = 10240, []
    for number, one in enumerate(measurements):
        table[number]["at"], table[number]["size"] = place, len(one)
        padded = one + bytes(-len(one) % 512)
        out.append(padded)
        place += len(padded)
    start = (0).to_bytes(4, "little") + len(measurements).to_bytes(4, "little") + table.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(start.ljust(10240, b"\0") + b"".join(out))
    return path
