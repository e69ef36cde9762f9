"""The noise that a simulator added to a volume: how it was drawn, so that it can be drawn again and taken away.

With it, the noise-free version of a simulated volume is known. Storing it as k-space would double each file.
Simulating it anew without noise would need the simulator's version and arguments, and minutes. The noise alone is drawn
from a few integers and the Cholesky factor of the coils' covariance: some kilobytes of JSON, which lie inside the file
or its hints, and so move and are renamed with it. Subtracting it is exact to the rounding of single precision.

Two things could make it silently wrong, and both are noticed: samples that were changed since (their hash is stored),
and another stream of random numbers, which NumPy does not promise to keep between versions (a sum is stored).
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from recon.config import Config
from recon.errors import InputError, complaint, place, said_of

NAME = "simulated_noise"
"""Of the HDF5 data set (a text) and of the hint that hold it."""


def noise_factor(covariance: NDArray[np.complex128]) -> NDArray[np.complex64]:
    """The lower Cholesky factor of the coils' covariance E[n nᴴ], (coils, coils)."""
    return np.linalg.cholesky(covariance).astype(np.complex64)


def draw_noise(
    shape: tuple[int, ...], factor: NDArray[np.complex64], rng: np.random.Generator
) -> NDArray[np.complex64]:
    """Complex normal noise (coils, …) of ``shape``, whose coils have the covariance of ``factor`` (coils, coils)."""
    white = rng.standard_normal((2, *shape), np.float32)
    samples = (white[0] + 1j * white[1]) * np.float32(np.sqrt(0.5))
    mixed = np.zeros(shape, np.complex64)
    for coil, row in enumerate(factor):
        for other, weight in enumerate(row[: coil + 1]):
            mixed[coil] += weight * samples[other]
    return mixed


class DrawnNoise(Config):
    """Everything that the noise of a volume was drawn from."""

    entropy: tuple[NonNegativeInt, ...] = Field(min_length=1)
    """Entropy of NumPy's seed sequence; its last word is the slice's position."""
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Coils, rows and columns of a slice's k-space."""
    acquired: tuple[NonNegativeInt, NonNegativeInt]
    """First column with noise, and the column after the last one."""
    scale: float = Field(ge=0, allow_inf_nan=False)
    """Factor of the draws; 0 where no noise was added."""
    factor: str
    """Lower Cholesky factor of the coils' covariance.

    A matrix (coils, coils) of little-endian complex64, in base64.
    """
    check: tuple[float, float]
    """Real and imaginary part of the sum of the first slice's draws, before the scale."""
    kspace_sha256: str
    """SHA-256 of the noisy samples, as ``recon.data.checks.Survey`` hashes them."""

    @model_validator(mode="after")
    def _fits_together(self) -> DrawnNoise:
        if not self.acquired[0] < self.acquired[1] <= self.shape[2]:
            raise ValueError(f"acquired is {self.acquired}, where columns of {self.shape[2]} are expected")
        try:
            found = len(base64.b64decode(self.factor, validate=True))
        except binascii.Error as error:
            raise ValueError(f"factor is not base64 ({error})") from error
        if found != 8 * self.shape[0] ** 2:
            raise ValueError(f"factor has {found} bytes, where {8 * self.shape[0] ** 2} are expected")
        return self

    @classmethod
    def remember(
        cls,
        *,
        entropy: tuple[int, ...],
        shape: tuple[int, int, int],
        acquired: tuple[int, int],
        scale: float,
        factor: NDArray[np.complex64],
        kspace_sha256: str,
    ) -> DrawnNoise:
        """What the fields say, with the ``check`` of this NumPy's draws; ``factor`` is (coils, coils)."""
        text = base64.b64encode(np.ascontiguousarray(factor, "<c8").tobytes()).decode()
        blank = cls(
            entropy=entropy,
            shape=shape,
            acquired=acquired,
            scale=scale,
            factor=text,
            check=(0, 0),
            kspace_sha256=kspace_sha256,
        )
        found = complex(blank._draw(0).sum(dtype=np.complex128))
        # Six digits: enough to tell streams apart, and the same wherever sums are rounded otherwise.
        return blank.model_copy(update={"check": (float(f"{found.real:.6g}"), float(f"{found.imag:.6g}"))})

    def is_drawn_alike(self) -> bool:
        """Whether NumPy still draws the numbers that it drew then."""
        draws = self._draw(0)
        away = abs(complex(draws.sum(dtype=np.complex128)) - complex(*self.check))
        # Two streams differ by about √2 of the norm; sums of one stream by rounding alone.
        return bool(away <= 1e-3 * np.linalg.norm(draws) + 1e-5 * abs(complex(*self.check)))

    def of_slice(self, position: int) -> NDArray[np.complex64]:
        """The noise in one slice's k-space, (coils, rows, columns), zero in the padding."""
        noise = np.zeros(self.shape, np.complex64)
        noise[..., slice(*self.acquired)] = np.float32(self.scale) * self._draw(position)
        return noise

    def _draw(self, position: int) -> NDArray[np.complex64]:
        coils, rows, _ = self.shape
        first, last = self.acquired
        factor = np.frombuffer(base64.b64decode(self.factor), "<c8").astype(np.complex64).reshape(coils, coils)
        rng = np.random.default_rng(np.random.SeedSequence([*self.entropy, position]))
        return draw_noise((coils, rows, last - first), factor, rng)


def parse(path: Path, text: Any) -> DrawnNoise | None:
    """What a file stores under ``NAME``; None where it stores nothing.

    Raises:
        InputError: where that is something else; names the file and the field.
    """
    if text is None:
        return None
    try:
        return DrawnNoise.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {said_of(place((NAME, *first['loc'])), complaint(first))}") from error
