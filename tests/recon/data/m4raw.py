"""Makes a set of files in M4Raw's layout (Lyu et al. 2023, Sci Data 10:264): heads at 0.3 T, three contrasts a person.

    python -m tests.recon.data.m4raw OUT --persons 8 --matrix 64

writes ``2031010100_T101.h5`` and the like: person, contrast, repetition. A person's contrasts and repetitions show the
same anatomy; each repetition has noise of its own, four coils, and the lines that the collection's protocol acquires.
"""

import argparse
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from recon.physics.fourier import fft, ifft

COILS = 4
ACQUIRED = (30 / 256, 225 / 256)
"""First line that is acquired and first behind them, as parts of the matrix."""
NOISE = 0.06
"""Standard deviation of a coil image's noise, as a part of white matter's signal with full recovery and no decay."""


class Tissue(NamedTuple):
    """Proton density, and relaxation times at 0.3 T in ms."""

    density: float
    t1: float
    t2: float


TISSUES = {
    "fat": Tissue(0.9, 170, 80),
    "bone": Tissue(0.06, 250, 20),
    "fluid": Tissue(1.0, 2600, 1500),
    "grey": Tissue(0.84, 650, 105),
    "white": Tissue(0.72, 310, 82),
    "lesion": Tissue(0.85, 800, 200),
}


class Protocol(NamedTuple):
    """Times in ms; without an inversion time it is a spin echo."""

    tr: float
    te: float
    ti: float | None = None


PROTOCOLS = {"T1": Protocol(500, 18.4), "T2": Protocol(5500, 128), "FLAIR": Protocol(7500, 96, 1655)}


def signal(tissue: Tissue, protocol: Protocol) -> float:
    """Magnitude of the signal equation of a spin echo, or of one behind an inversion."""
    recovered = 1 - np.exp(-protocol.tr / tissue.t1)
    if protocol.ti is not None:
        recovered -= 2 * (np.exp(-protocol.ti / tissue.t1) - np.exp(-protocol.tr / tissue.t1))
    return float(tissue.density * abs(recovered) * np.exp(-protocol.te / tissue.t2))


def anatomy(matrix: int, slices: int, rng: np.random.Generator) -> np.ndarray:
    """One person's shares of the tissues, (tissues, slices, matrix, matrix), with edges as soft as a pixel."""
    y, x = np.mgrid[-1 : 1 : matrix * 1j, -1 : 1 : matrix * 1j]
    width, height = 0.66 + 0.08 * rng.random(), 0.82 + 0.08 * rng.random()
    folds, turn = rng.integers(9, 14, 3), rng.uniform(0, 2 * np.pi, 3)
    spot, wide = (rng.uniform(-0.25, 0.25), rng.uniform(0, 0.5)), 0.05 + 0.04 * rng.random()
    shares = np.zeros((len(TISSUES), slices, matrix, matrix))
    names = list(TISSUES)
    for number, z in enumerate(np.linspace(-0.5, 0.5, slices) if slices > 1 else [0.0]):
        size = np.sqrt(1 - z**2)
        radius = np.hypot(x / (width * size), y / (height * size))
        angle = np.arctan2(y, x)
        fold = sum(np.sin(n * angle + t + 6 * z) for n, t in zip(folds, turn, strict=True)) / 3
        ventricle = np.minimum(
            *(np.hypot((x + side * 0.12) / 0.07, (y + 0.05 * side * z) / (0.26 * size)) for side in (-1, 1))
        )
        nucleus = np.minimum(*(np.hypot((x + side * 0.27) / 0.09, (y - 0.05) / 0.15) for side in (-1, 1)))
        lesion = np.hypot(x - spot[0], y - spot[1]) / wide
        layers = [
            ("fat", radius, 1.0, width),
            ("bone", radius, 0.93, width),
            ("fluid", radius, 0.86, width),
            ("grey", radius - 0.04 * fold, 0.8, width),
            ("white", radius - 0.09 * fold, 0.66, width),
            ("grey", nucleus, 1.0, 0.1),
            ("fluid", ventricle, 1.0, 0.1),
            ("lesion", lesion, 1.0, wide),
        ]
        for name, distance, edge, scale in layers:
            # Distance in pixels, so that an edge is a pixel wide.
            inside = np.clip(0.5 + (edge - distance) * scale * matrix / 2, 0, 1)
            shares[:, number] *= 1 - inside
            shares[names.index(name), number] += inside
    return shares


def smooth_field(matrix: int, rng: np.random.Generator) -> np.ndarray:
    """A random field of unit variance whose waves are a tenth of the image and longer."""
    y, x = np.mgrid[-1 : 1 : matrix * 1j, -1 : 1 : matrix * 1j]
    field = sum(
        np.cos(np.pi * (a * x + b * y) + c)
        for a, b, c in zip(*rng.uniform(-10, 10, (2, 12)), rng.uniform(0, 2 * np.pi, 12), strict=True)
    )
    return np.asarray(field / np.sqrt(6))


def sensitivities(matrix: int) -> np.ndarray:
    """Four coils around the head, (COILS, matrix, matrix)."""
    y, x = np.mgrid[-1 : 1 : matrix * 1j, -1 : 1 : matrix * 1j]
    turns = 2 * np.pi * np.arange(COILS) / COILS + 0.4
    places = 1.3 * np.stack([np.cos(turns), np.sin(turns)], 1)
    return np.stack([np.exp(-((x - a) ** 2 + (y - b) ** 2) / 1.6 + 0.7j * (a * y + b)) for a, b in places])


def make(
    out: Path, *, persons: int = 8, matrix: int = 64, slices: int = 3, repetitions: int = 2, seed: int = 0
) -> list[Path]:
    """Write the set into a folder; the same seed gives the same files."""
    out.mkdir(parents=True, exist_ok=True)
    maps, written = sensitivities(matrix), []
    for person in range(persons):
        rng = np.random.default_rng([seed, person])
        shares = anatomy(matrix, slices, rng)
        grain = 1 + 0.06 * np.stack([smooth_field(matrix, rng) for _ in range(slices)])
        for contrast, protocol in PROTOCOLS.items():
            of_tissue = np.array([signal(tissue, protocol) for tissue in TISSUES.values()])
            image = np.tensordot(of_tissue, shares, 1) * grain * np.exp(0.5j * smooth_field(matrix, rng))
            still = fft(image[:, None] * maps)
            for repetition in range(1, repetitions + 1):
                noise = rng.standard_normal((*still.shape, 2)).view(complex)[..., 0]
                kspace = still + NOISE * TISSUES["white"].density / np.sqrt(2) * noise
                path = out / f"20310101{person:02d}_{contrast}{repetition:02d}.h5"
                write(path, f"AX{contrast}", protocol, kspace)
                written.append(path)
    return written


def write(path: Path, acquisition: str, protocol: Protocol, kspace: np.ndarray) -> None:
    """A file as the collection has it: lines that were not acquired are zero, and the header is against the schema."""
    columns = kspace.shape[-1]
    first, last = (round(part * columns) for part in ACQUIRED)
    kspace[..., :first] = kspace[..., last:] = 0
    rss = np.sqrt((np.abs(ifft(kspace)) ** 2).sum(1)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace.astype(np.complex64)
        file["reconstruction_rss"] = rss
        file["ismrmrd_header"] = (
            '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><measurementInformation>'
            f"<measurementID>{path.stem}</measurementID><protocolName>{acquisition}</protocolName>"
            f"</measurementInformation><sequenceParameters><TR>{protocol.tr}</TR><TE>{protocol.te}</TE>"
            "<echo_spacing>N/A</echo_spacing></sequenceParameters></ismrmrdHeader>"
        )
        file.attrs["acquisition"] = acquisition
        file.attrs["max"] = float(rss.max())
        file.attrs["norm"] = float(np.linalg.norm(rss))
        # Of the name, so that repetitions of a person have one each.
        file.attrs["patient_id"] = f"{zlib.crc32(path.stem.encode()):08x}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make a set of files in M4Raw's layout.")
    parser.add_argument("out", type=Path)
    for name, default in (("persons", 8), ("matrix", 64), ("slices", 3), ("repetitions", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = vars(parser.parse_args(arguments))
    print(f"{len(make(given.pop('out'), **given))} files")


if __name__ == "__main__":
    main()
