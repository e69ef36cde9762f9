"""Makes small files in fastMRI's layout: a phantom seen by sigpy's birdcage coils, with oversampling and padding."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import sigpy as sp
from ismrmrd import xsd
from sigpy import mri

ROWS, COLUMNS, COILS, PADDING = 32, 36, 4, (2, 3)


@dataclass(frozen=True)
class Made:
    """A raw file and what was put into it."""

    path: Path
    image: np.ndarray
    """(slices, 2 · ROWS, COLUMNS), the object over the oversampled field of view."""
    maps: np.ndarray
    """(coils, 2 · ROWS, COLUMNS)."""


def header(rows: int, columns: int, pad: tuple[int, int], crop: tuple[int, int]) -> bytes:
    """An ISMRMRD header as fastMRI's: readout oversampled twice, ``columns`` with ``pad`` not acquired."""
    field = xsd.fieldOfViewMm

    def limit(maximum: int, centre: int) -> xsd.limitType:
        return xsd.limitType(minimum=0, maximum=maximum, center=centre)

    encoding = xsd.encodingType(
        trajectory=xsd.trajectoryType.CARTESIAN,
        encodedSpace=xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(x=2 * rows, y=columns, z=1), fieldOfView_mm=field(x=280.0, y=160.0, z=4.0)
        ),
        reconSpace=xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(x=crop[0], y=crop[1], z=1), fieldOfView_mm=field(x=140.0, y=140.0, z=4.0)
        ),
        encodingLimits=xsd.encodingLimitsType(
            kspace_encoding_step_1=limit(columns - sum(pad) - 1, columns // 2 - pad[0])
        ),
    )
    document = xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=128_000_000), encoding=[encoding]
    )
    return document.toXML().encode()


def make(
    path: Path,
    *,
    acquisition: str = "CORPD_FBK",
    patient: str = "",
    slices: int = 3,
    seed: int = 0,
    noise: float = 1e-3,
    mask: np.ndarray | None = None,
    coils: int = COILS,
) -> Made:
    """Write one raw file: an object that differs by ``seed``, with noise outside the padding."""
    rng = np.random.default_rng(seed)
    shape = (2 * ROWS, COLUMNS)
    phantom = np.zeros(shape)
    phantom[ROWS // 2 : -ROWS // 2] = np.abs(sp.shepp_logan((ROWS, COLUMNS)))
    image = np.stack([phantom * rng.uniform(0.5, 1.5) * np.exp(1j * rng.uniform(0, 6)) for _ in range(slices)])
    maps = mri.birdcage_maps((coils, *shape))
    kspace = sp.fft(image[:, None] * maps, axes=(-2, -1))
    size = noise * np.abs(kspace).max()
    kspace = kspace + size * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    if mask is not None:
        kspace = kspace * mask
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace.astype(np.complex64)
        file["ismrmrd_header"] = header(ROWS, COLUMNS, PADDING, (28, 30))
        file.attrs["acquisition"] = acquisition
        if patient:
            file.attrs["patient_id"] = patient
        if mask is not None:
            file["mask"] = mask
    return Made(path, image, maps)
