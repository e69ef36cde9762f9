"""A simulated volume in other formats than fastMRI's: what the readers of ``recon.data.readers`` take.

Every format holds the same samples. ISMRMRD is written by the ``ismrmrd`` package, as a scanner's converter would: a
noise scan, slices interleaved, padded lines left out. Formats without a header get their hints in a JSON file beside.
How the noise was drawn and the settings of the simulation go into every one: in HDF5 as texts of their own, else among
the hints.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import h5py
import ismrmrd
import numpy as np
import scipy.io
from numpy.typing import NDArray

from recon.data.readers.drawn import NAME as NOISE
from recon.data.readers.raw import SIMULATION, usual_task
from recon.files import replace_directory, replace_file

Format = Literal["fastmri", "ismrmrd", "hammernik", "cfl", "numpy"]

NOISE_READOUTS = 64
"""Number of readouts of the noise scan."""
MATLAB_HEAD = b"MATLAB 5.0 MAT-file, simulated".ljust(116)
"""The text that MATLAB's format 5 begins with, free but for its first word."""


def convert(made: Path, path: Path, format: Format, rng: np.random.Generator) -> Path:
    """Write a volume of fastMRI's layout in another format, and remove the original.

    Args:
        made: the file of fastMRI's layout.
        path: ``FOLDER/PATIENT_ACQUISITION.h5``, as ``recon.simulate.write`` names it; the ending changes.
        format: the other format.
        rng: what the noise scan is drawn from.

    Returns:
        The file that stands for the volume: itself, or the first slice of Hammernik's folder.
    """
    if format == "fastmri":
        return path
    with h5py.File(made, "r") as file:
        written = _WRITERS[format](path, file, rng)
    made.unlink()
    return written


def _ismrmrd(path: Path, volume: h5py.File, rng: np.random.Generator) -> Path:
    header = ismrmrd.xsd.CreateFromDocument(volume["ismrmrd_header"][()])
    encoding = header.encoding[0]
    limits = encoding.encodingLimits.kspace_encoding_step_1
    left = encoding.encodedSpace.matrixSize.y // 2 - limits.center
    slices, coils, rows, _ = volume["kspace"].shape
    thickness = encoding.encodedSpace.fieldOfView_mm.z
    target = path.with_suffix(".ismrmrd")
    with replace_file(target) as fresh:
        with closing(ismrmrd.Dataset(str(fresh), mode="w")) as dataset:
            dataset.write_xml_header(header.toXML())
            counter = 0

            def append(samples: NDArray[np.complex64], flags: tuple[int, ...], **counters: int) -> None:
                nonlocal counter
                readout = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples, np.complex64))
                readout.center_sample = rows // 2
                readout.scan_counter = counter = counter + 1
                readout.read_dir[:], readout.phase_dir[:], readout.slice_dir[:] = (0, 0, 1), (1, 0, 0), (0, 1, 0)
                for flag in flags:
                    readout.setFlag(flag)
                for name, value in counters.items():
                    setattr(readout.idx, name, value)
                readout.position[1] = thickness * readout.idx.slice
                dataset.append_acquisition(readout)

            factor = np.linalg.cholesky(volume["noise_covariance"][()] + 1e-30 * np.eye(coils))
            for _ in range(NOISE_READOUTS):
                white = rng.standard_normal((2, coils, rows)) * np.sqrt(0.5)
                append(factor @ (white[0] + 1j * white[1]), (ismrmrd.ACQ_IS_NOISE_MEASUREMENT,))
            for position in [*range(0, slices, 2), *range(1, slices, 2)]:
                kspace = volume["kspace"][position]
                for step in range(limits.minimum, limits.maximum + 1):
                    append(kspace[:, :, left + step], (), kspace_encode_step_1=step, slice=position)
        with h5py.File(fresh, "r+") as file:
            file.attrs[SIMULATION] = volume.attrs[SIMULATION]
            if NOISE in volume:
                file[NOISE] = volume[NOISE][()]
    return target


def _hammernik(path: Path, volume: h5py.File, rng: np.random.Generator) -> Path:
    folder = path.parent / volume.attrs["acquisition"] / volume.attrs["patient_id"]
    with replace_directory(folder) as fresh:
        for position, kspace in enumerate(volume["kspace"], start=1):
            file = fresh / f"rawdata{position}.mat"
            scipy.io.savemat(file, {"rawdata": kspace.transpose(1, 2, 0)})
            with file.open("r+b") as opened:
                # The text at its head has the date in it, and the same arguments give the same bytes.
                opened.write(MATLAB_HEAD)
        _write_hints(fresh / "rawdata1.mat", volume)
    return folder / "rawdata1.mat"


def _cfl(path: Path, volume: h5py.File, rng: np.random.Generator) -> Path:
    slices, coils, rows, columns = volume["kspace"].shape
    sizes = [rows, columns, 1, coils, *[1] * 9, slices, 1, 1]
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, sizes)) + "\n")
    target = path.with_suffix(".cfl")
    _write_hints(target, volume)
    with replace_file(target) as fresh, fresh.open("wb") as file:
        for kspace in volume["kspace"]:
            file.write(np.ascontiguousarray(kspace.swapaxes(1, 2), "<c8").tobytes())
    return target


def _numpy(path: Path, volume: h5py.File, rng: np.random.Generator) -> Path:
    target = path.with_suffix(".npy")
    _write_hints(target, volume, axes=["slices", "coils", "rows", "columns"])
    with replace_file(target) as fresh:
        array = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.complex64, shape=volume["kspace"].shape)
        for position, kspace in enumerate(volume["kspace"]):
            array[position] = kspace
        array.flush()
    return target


def _write_hints(path: Path, volume: h5py.File, **more: Any) -> None:
    """What the header would have said, beside the file and before it: no file is ever there without its hints."""
    encoding = ismrmrd.xsd.CreateFromDocument(volume["ismrmrd_header"][()]).encoding[0]
    size = encoding.reconSpace.matrixSize
    hints = {
        "oversampling": volume["kspace"].shape[2] / size.x,
        "crop": [size.x, size.y],
        "task": usual_task(volume.attrs["acquisition"]),
        "patient": volume.attrs["patient_id"],
        SIMULATION: volume.attrs[SIMULATION],
        **({NOISE: json.loads(volume[NOISE][()])} if NOISE in volume else {}),
        **more,
    }
    with replace_file(path.with_name(path.name + ".json")) as fresh:
        fresh.write_text(json.dumps(hints, indent=2) + "\n", encoding="utf-8")


_WRITERS: dict[str, Callable[[Path, h5py.File, np.random.Generator], Path]] = {
    "ismrmrd": _ismrmrd,
    "hammernik": _hammernik,
    "cfl": _cfl,
    "numpy": _numpy,
}
