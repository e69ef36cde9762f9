"""One simulated examination, written as it is made: a subject's volumes, one per contrast, in one of several formats.

Beside the k-space stand how its noise was drawn (``recon.data.readers.drawn``), so that the noise-free image is known,
and the settings of the simulation, so that volumes of other settings are told apart.

Leaves to others: anatomy, contrast and coils; here they are only put together and written.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import ismrmrd.xsd
import numpy as np
from numpy.typing import NDArray

from recon.data.readers.drawn import NAME as DRAWN_NOISE
from recon.data.readers.drawn import DrawnNoise, draw_noise, noise_factor
from recon.data.readers.raw import SIMULATION, SamplesHash, usual_task
from recon.files import remove_parts, replace_file
from recon.physics.fourier import ifft
from recon.simulate.anatomy import Subject
from recon.simulate.contrast import PROTOCOLS, Protocol, signals, water_and_fat
from recon.simulate.formats import Format, convert
from recon.simulate.geometry import SUPERSAMPLING, Geometry
from recon.simulate.receive import Receiver, acquire
from recon.simulate.settings import Settings
from recon.simulate.texture import SmoothMap

SIMULATOR_VERSION = 2
"""Raised whenever the same arguments give other bits."""
GAIN = 1e-4
"""Of the receiver: brings k-space to about the scale of fastMRI's."""
FIELD_HZ = 55.0
PHASE_RAD = 0.7
"""Deviations of the off-resonance and of the background phase over the field of view, before they grow to its edges."""
FAT_SHIFT_PIXELS = 1
"""Chemical shift of fat along the readout."""

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Examination:
    """Everything that determines a subject's files; picklable, so that any map can carry it to a worker.

    snr: of muscle in the proton-density scan, coils combined at best; infinite means no noise, and 0 noise alone.
    contrasts: by their tasks' names, as in ``contrasts``.
    """

    out: Path
    split: Split
    number: int
    seed: int
    knee: str
    geometry: Geometry
    coils: int
    snr: float
    contrasts: tuple[str, ...]
    format: Format = "fastmri"

    @property
    def settings(self) -> Settings:
        """What it has in common with every other examination of the data set."""
        return Settings(
            simulator=SIMULATOR_VERSION,
            matrix=self.geometry.matrix,
            slices=self.geometry.slices,
            coils=self.coils,
            snr=self.snr,
            seed=self.seed,
            field_of_view_mm=self.geometry.field_of_view_mm,
            phase_lines=self.geometry.lines,
        )

    @property
    def protocols(self) -> dict[int, Protocol]:
        """Those of the contrasts, by their place among all, which seeds their random numbers."""
        return {number: one for number, one in enumerate(PROTOCOLS) if usual_task(one.acquisition) in self.contrasts}

    @property
    def patient(self) -> str:
        """Name of the subject, unique in a data set."""
        return f"knee{self.number:04d}"

    def path(self, protocol: Protocol) -> Path:
        """Where a volume is written in fastMRI's layout; in another format beside it, by the same name."""
        return self.out / self.split / f"{self.patient}_{protocol.acquisition}.h5"

    def made(self, protocol: Protocol) -> Path:
        """Where a volume is made: hidden where it is yet to be converted, so that nothing takes it for the result."""
        path = self.path(protocol)
        return path if self.format == "fastmri" else path.with_name(f".{path.name}")

    def words(self, *words: int) -> tuple[int, ...]:
        """What the subject's stream of random numbers for one purpose is seeded with."""
        return (self.seed, self.number, *words)

    def rng(self, *words: int) -> np.random.Generator:
        """The subject's own stream of random numbers for one purpose."""
        return np.random.default_rng(np.random.SeedSequence(self.words(*words)))


def contrasts() -> tuple[str, ...]:
    """Names of the tasks of all contrasts that can be simulated."""
    return tuple(usual_task(protocol.acquisition) for protocol in PROTOCOLS)


_ANATOMY, _TEXTURE, _COILS, _PHASE, _NOISE, _FIELD, _NOISE_SCAN = range(7)


def examine(examination: Examination) -> list[Path]:
    """Simulate and write the volumes of a subject; returns their paths. Each depends on the arguments and its contrast
    alone."""
    geometry, protocols = examination.geometry, examination.protocols
    shape = (geometry.slices, examination.coils, geometry.rows, geometry.columns)
    subject = Subject(examination.knee, examination.rng(_ANATOMY), coarse=geometry.coarse)
    receiver = Receiver(geometry, examination.coils, examination.rng(_COILS))
    field = SmoothMap(geometry.field_of_view_mm, examination.rng(_FIELD))
    factor = noise_factor(receiver.covariance)
    hashes = {number: SamplesHash(shape) for number in protocols}
    phases = {number: SmoothMap(geometry.field_of_view_mm, examination.rng(_PHASE, number)) for number in protocols}
    with contextlib.ExitStack() as stack:
        volumes = {
            number: stack.enter_context(_volume(examination, subject.side, receiver, protocol))
            for number, protocol in protocols.items()
        }
        for index in range(geometry.slices):
            fractions = subject.fractions(geometry, index, examination.rng(_TEXTURE, index))
            x, y, z = geometry.axes(index)
            middle = float(x.mean())
            sensitivities = receiver.sensitivities(middle, y, z)
            off_resonance = FIELD_HZ * field(middle, y, z)
            for number, protocol in protocols.items():
                water, fat = water_and_fat(fractions, protocol, off_resonance, subject.spread)
                magnitude = water + np.roll(fat, FAT_SHIFT_PIXELS * SUPERSAMPLING, axis=0)
                image = magnitude * np.exp(1j * PHASE_RAD * phases[number](middle, y, z)).astype(np.complex64)
                kspace = GAIN * _scan(examination, protocol, factor, sensitivities, image, (number, index))
                hashes[number].add(kspace)
                volumes[number]["kspace"][index] = kspace
                volumes[number]["reconstruction_rss"][index] = root_sum_of_squares(kspace, geometry.matrix)
        # A scan of nothing has no image without its noise.
        for number, protocol in protocols.items() if examination.snr > 0 else ():
            drawn = DrawnNoise.remember(
                entropy=examination.words(_NOISE, number),
                shape=shape[1:],
                acquired=geometry.padding,
                scale=GAIN * noise_level(examination.snr, protocol),
                factor=factor,
                kspace_sha256=hashes[number].hexdigest(),
            )
            volumes[number][DRAWN_NOISE] = drawn.model_dump_json()
    return [
        convert(
            examination.made(protocol),
            examination.path(protocol),
            examination.format,
            examination.rng(_NOISE_SCAN, number),
        )
        for number, protocol in protocols.items()
    ]


def _scan(
    examination: Examination,
    protocol: Protocol,
    factor: NDArray[np.complex64],
    sensitivities: NDArray[np.complex64],
    image: NDArray[np.complex64],
    words: tuple[int, int],
) -> NDArray[np.complex64]:
    """One slice's k-space (coils, rows, columns) with its noise in the acquired columns."""
    geometry = examination.geometry
    if examination.snr == 0:
        kspace = np.zeros((examination.coils, geometry.rows, geometry.columns), np.complex64)
    else:
        kspace = acquire(image, sensitivities, geometry)
    level = noise_level(examination.snr, protocol)
    if level > 0:
        left, right = geometry.padding
        shape = (examination.coils, geometry.rows, right - left)
        added = draw_noise(shape, factor, examination.rng(_NOISE, *words))
        kspace[..., left:right] += np.float32(level) * added
    return kspace


def noise_level(snr: float, protocol: Protocol) -> float:
    """Deviation of the coils' noise before the receiver's gain: muscle's signal over `snr` (itself where that is 0)."""
    water, fat = signals(PROTOCOLS[0])
    return protocol.noise * float(water[1] + fat[1]) / (snr or 1.0)


def root_sum_of_squares(kspace: NDArray[np.complex64], matrix: int) -> NDArray[np.float32]:
    """Image (matrix, matrix) of k-space (coils, rows, columns): its middle, the root sum of squares over the coils."""
    top, left = (kspace.shape[-2] - matrix) // 2, (kspace.shape[-1] - matrix) // 2
    middle = ifft(kspace, (-2, -1))[:, top : top + matrix, left : left + matrix]
    return np.sqrt(np.sum(middle.real**2 + middle.imag**2, axis=0)).astype(np.float32)


@contextlib.contextmanager
def _volume(examination: Examination, side: str, receiver: Receiver, protocol: Protocol) -> Iterator[h5py.File]:
    """An HDF5 file to fill slice by slice; when it is full its attributes follow, and it takes its name."""
    geometry, coils = examination.geometry, examination.coils
    remove_parts(examination.made(protocol))
    with replace_file(examination.made(protocol)) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("kspace", (geometry.slices, coils, geometry.rows, geometry.columns), np.complex64)
        images = file.create_dataset("reconstruction_rss", (geometry.slices, geometry.matrix, geometry.matrix), "f4")
        file["ismrmrd_header"] = header(geometry, coils, protocol, examination.patient)
        yield file
        file.attrs["acquisition"] = protocol.acquisition
        file.attrs["max"] = float(images[()].max())
        file.attrs["norm"] = float(np.sqrt(np.sum(np.square(images[()], dtype=np.float64))))
        file.attrs["patient_id"] = examination.patient
        # Beyond fastMRI's: where the volume comes from.
        file.attrs["simulator_version"] = SIMULATOR_VERSION
        file.attrs["seed"] = examination.seed
        file.attrs["subject"] = examination.number
        file.attrs["knee"] = examination.knee
        file.attrs["side"] = side
        file.attrs[SIMULATION] = str(examination.settings)
        covariance = receiver.covariance * (GAIN * noise_level(examination.snr, protocol)) ** 2
        # No attribute, which holds at most 64 KiB: that of 91 coils is larger.
        file["noise_covariance"] = covariance.astype(np.complex64)


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
