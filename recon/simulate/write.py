"""One simulated examination into files: a subject's two volumes in fastMRI's HDF5 layout.

Leaves to others: anatomy, contrast and coils; here they are only put together and written.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import ismrmrd.xsd
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from recon.simulate.anatomy import Subject
from recon.simulate.contrast import PROTOCOLS, Protocol, water_and_fat
from recon.simulate.geometry import SUPERSAMPLING, Geometry
from recon.simulate.receive import Receiver, acquire, noise

SIMULATOR_VERSION = 1
"""Raised whenever the same arguments give other bits."""
GAIN = 1e-4
"""Of the receiver; fastMRI's k-space has about this scale."""

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Examination:
    """Everything that determines a subject's two files; picklable, so that any map can carry it to a worker."""

    out: Path
    split: Split
    number: int
    seed: int
    knee: str
    geometry: Geometry
    coils: int
    snr: float

    @property
    def patient(self) -> str:
        """Name of the subject, unique in a data set."""
        return f"knee{self.number:04d}"

    def path(self, protocol: Protocol) -> Path:
        """Where a volume is written."""
        return self.out / self.split / f"{self.patient}_{protocol.acquisition}.h5"

    def sequence(self, *words: int) -> np.random.SeedSequence:
        """The subject's own stream of random numbers for one purpose."""
        return np.random.SeedSequence([self.seed, self.number, *words])


_ANATOMY, _TEXTURE, _COILS, _PHASE, _NOISE, _FIELD = range(6)


def examine(examination: Examination) -> list[Path]:
    """Simulate and write both volumes of a subject; returns their paths. The result depends on the arguments alone."""
    geometry = examination.geometry
    subject = Subject(examination.knee, examination.sequence(_ANATOMY), coarse=geometry.pixel_mm >= 0.9)
    receiver = Receiver(geometry, examination.coils, np.random.default_rng(examination.sequence(_COILS)))
    field_map = SmoothMap(geometry, np.random.default_rng(examination.sequence(_FIELD)))
    phases = [
        SmoothMap(geometry, np.random.default_rng(examination.sequence(_PHASE, number)))
        for number in range(len(PROTOCOLS))
    ]
    shape = (geometry.slices, examination.coils, geometry.rows, geometry.columns)
    volumes = [np.empty(shape, np.complex64) for _ in PROTOCOLS]
    for index in range(geometry.slices):
        fractions = subject.fractions(geometry, index, np.random.default_rng(examination.sequence(_TEXTURE, index)))
        x, y, z = geometry.axes(index)
        middle = float(x.mean())
        sensitivities = receiver.sensitivities(middle, y, z)
        heard = np.clip((geometry.field_of_view_mm * 0.62 - np.abs(y)) / (geometry.field_of_view_mm * 0.1), 0, 1)
        sensitivities *= (heard**2 * (3 - 2 * heard)).astype(np.float32)[:, None]
        off_resonance = 55 * field_map(middle, y, z)
        for number, protocol in enumerate(PROTOCOLS):
            water, fat = water_and_fat(fractions, protocol, off_resonance, subject.spread)
            image = water + np.roll(fat, SUPERSAMPLING, axis=0)
            phase = 0.7 * phases[number](middle, y, z)
            kspace = acquire(image * np.exp(1j * phase).astype(np.complex64), sensitivities, geometry)
            rng = np.random.default_rng(examination.sequence(_NOISE, number, index))
            left, right = geometry.padding
            lines = (examination.coils, geometry.rows, right - left)
            level = protocol.noise * REFERENCE / examination.snr
            kspace[..., left:right] += np.float32(level) * noise(lines, receiver.covariance, rng)
            volumes[number][index] = GAIN * kspace
    paths = []
    for protocol, kspace in zip(PROTOCOLS, volumes, strict=True):
        path = examination.path(protocol)
        covariance = receiver.covariance * (GAIN * protocol.noise * REFERENCE / examination.snr) ** 2
        write_fastmri(path, kspace, examination, subject, protocol, covariance)
        paths.append(path)
    return paths


REFERENCE = 0.27
"""Signal of muscle in the proton-density scan, which the signal-to-noise ratio refers to."""


class SmoothMap:
    """A smooth random function of position: a polynomial of third degree of unit deviation over the field of view."""

    def __init__(self, geometry: Geometry, rng: np.random.Generator) -> None:
        self._half = geometry.field_of_view_mm / 2
        self._powers = [(i, j, k) for i in range(4) for j in range(4) for k in range(4) if 0 < i + j + k <= 3]
        self._weights = rng.standard_normal(len(self._powers)) / np.sqrt([1 + 2 * sum(p) for p in self._powers])

    def __call__(self, x: float, y: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float32]:
        """Values (rows, columns) in the plane x at rows y and columns z in mm."""
        u, v, w = x / self._half, (y / self._half)[:, None], (z / self._half)[None, :]
        terms = (weight * u**i * v**j * w**k for weight, (i, j, k) in zip(self._weights, self._powers, strict=True))
        return np.asarray(sum(terms), np.float32)


def root_sum_of_squares(kspace: NDArray[np.complex64], matrix: int) -> NDArray[np.float32]:
    """Images (slices, matrix, matrix) of k-space (slices, coils, rows, columns): the middle of each, over all coils."""
    axes = (-2, -1)
    top, left = (kspace.shape[-2] - matrix) // 2, (kspace.shape[-1] - matrix) // 2
    images = np.empty((len(kspace), matrix, matrix), np.float32)
    for index, coils in enumerate(kspace):
        image = scipy.fft.fftshift(scipy.fft.ifft2(scipy.fft.ifftshift(coils, axes=axes), norm="ortho"), axes=axes)
        middle = image[:, top : top + matrix, left : left + matrix]
        images[index] = np.sqrt(np.sum(middle.real**2 + middle.imag**2, axis=0))
    return images


def header(geometry: Geometry, coils: int, protocol: Protocol, patient: str) -> str:
    """The ISMRMRD header (XML) of a volume, with the limits that fastMRI's loader reads the padding from."""
    xsd = ismrmrd.xsd
    left, right = geometry.padding
    lines = right - left
    fov = geometry.field_of_view_mm
    encoded = xsd.encodingSpaceType(
        matrixSize=xsd.matrixSizeType(x=geometry.rows, y=geometry.columns, z=1),
        fieldOfView_mm=xsd.fieldOfViewMm(
            x=fov * geometry.rows / geometry.matrix, y=geometry.columns * geometry.pixel_mm, z=geometry.thickness_mm
        ),
    )
    recon = xsd.encodingSpaceType(
        matrixSize=xsd.matrixSizeType(x=geometry.matrix, y=geometry.matrix, z=1),
        fieldOfView_mm=xsd.fieldOfViewMm(x=fov, y=fov, z=geometry.thickness_mm),
    )
    limits = xsd.encodingLimitsType(
        kspace_encoding_step_1=xsd.limitType(minimum=0, maximum=lines - 1, center=geometry.columns // 2 - left),
        slice=xsd.limitType(minimum=0, maximum=geometry.slices - 1, center=geometry.slices // 2),
    )
    document = xsd.ismrmrdHeader(
        subjectInformation=xsd.subjectInformationType(patientID=patient),
        measurementInformation=xsd.measurementInformationType(
            protocolName=protocol.acquisition, patientPosition=xsd.patientPositionType.FFS
        ),
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(
            systemVendor="simulated", systemFieldStrength_T=2.89, receiverChannels=coils
        ),
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=123_000_000),
        encoding=[
            xsd.encodingType(
                encodedSpace=encoded,
                reconSpace=recon,
                encodingLimits=limits,
                trajectory=xsd.trajectoryType.CARTESIAN,
                echoTrainLength=4,
            )
        ],
        sequenceParameters=xsd.sequenceParametersType(
            TR=[protocol.tr_ms], TE=[protocol.te_ms], sequence_type="TurboSpinEcho"
        ),
    )
    return str(xsd.ToXML(document))


def write_fastmri(
    path: Path,
    kspace: NDArray[np.complex64],
    examination: Examination,
    subject: Subject,
    protocol: Protocol,
    covariance: NDArray[np.complex128],
) -> None:
    """Write a volume (slices, coils, rows, columns) as fastMRI lays it out, under a temporary name, then rename it."""
    images = root_sum_of_squares(kspace, examination.geometry.matrix)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with h5py.File(temporary, "w") as file:
        file["kspace"] = kspace
        file["reconstruction_rss"] = images
        file["ismrmrd_header"] = header(examination.geometry, examination.coils, protocol, examination.patient)
        file.attrs["acquisition"] = protocol.acquisition
        file.attrs["max"] = float(images.max())
        file.attrs["norm"] = float(np.linalg.norm(images))
        file.attrs["patient_id"] = examination.patient
        file.attrs["simulator_version"] = SIMULATOR_VERSION
        file.attrs["seed"] = examination.seed
        file.attrs["subject"] = examination.number
        file.attrs["knee"] = examination.knee
        file.attrs["side"] = subject.side
        file.attrs["noise_covariance"] = covariance.astype(np.complex64)
    temporary.replace(path)
