"""Turn one raw volume into prepared slices: the steps that preparing data sets and reconstructing have in common.

The steps: zero the padding, whiten the noise, compress the coils (if asked), compute coil maps, remove the readout
oversampling, SENSE-combine the target; for a simulated volume, also the target without its noise. The maps are computed
before the oversampling is removed: otherwise an object that is cut off at the edge of the field of view wraps round,
and no single set of maps explains the outer rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recon.data.checks import Survey
from recon.data.kept import LEAST_COVERED, kept_of, noise_power
from recon.data.options import PrepareOptions
from recon.data.readers import RawVolume
from recon.data.readers.drawn import DrawnNoise
from recon.data.readers.raw import parsing
from recon.data.volume_file import Piece, centre
from recon.errors import InputError
from recon.physics import coils, espirit
from recon.physics.fourier import fft, ifft
from recon.physics.masks import fixed

Complex = NDArray[np.complex64]
Whitened = Literal["scan", "edge", "no"]


@dataclass(frozen=True)
class CoilMatrices:
    """The matrices by which a volume's coils are multiplied, the same in each slice.

    Attributes:
        whitening: (coils, coils), or None.
        whitened: the source of the noise covariance.
        compression: (virtual coils, coils), or one such matrix per raw row, or None.
    """

    whitening: Complex | None
    whitened: Whitened
    compression: Complex | None

    def apply(self, kspace: Complex) -> Complex:
        """Whiten and compress the coils of k-space (coils, rows, columns)."""
        for matrix in (self.whitening, self.compression):
            if matrix is not None:
                kspace = coils.compress(kspace, matrix)
        return kspace

    def stored(self) -> dict[str, Complex]:
        """The existing matrices, by their names in a volume file."""
        both = {"whitening": self.whitening, "compression": self.compression}
        return {name: matrix for name, matrix in both.items() if matrix is not None}


def crop_of(raw: RawVolume, options: PrepareOptions) -> tuple[int, int]:
    """The centre region (rows, columns) that counts: the header's, the whole image, or the one in the options."""
    size = (raw.image_rows, raw.columns)
    if options.crop == "header":
        size = raw.crop
    elif options.crop != "full":
        size = options.crop
    return min(size[0], raw.image_rows), min(size[1], raw.columns)


def survey(raw: RawVolume, options: PrepareOptions) -> Survey:
    """One pass over the volume's samples, to compute what the options need from all slices at once."""
    geometric = compresses(raw, options) and options.compression == "geometric"
    return Survey(raw, options.calibration_width, along_readout=geometric)


def compresses(raw: RawVolume, options: PrepareOptions) -> bool:
    """Whether the options ask for fewer coils than the volume has."""
    return options.coils is not None and options.coils < raw.coils


def coil_matrices(raw: RawVolume, options: PrepareOptions, seen: Survey) -> CoilMatrices:
    """The volume's whitening and compression.

    Raises:
        InputError: the options ask for a noise scan and there is none, or its covariance cannot be inverted.
    """
    whitening, whitened = _whitening(raw, options, seen)
    compression = None
    if compresses(raw, options):
        assert options.coils is not None
        covariance = seen.centre
        if whitening is not None:
            # The covariance of whitened samples W k is W C Wᴴ.
            covariance = whitening @ covariance @ whitening.conj().T
        make = coils.geometric_compression if options.compression == "geometric" else coils.compression_matrix
        compression = make(covariance, options.coils)
    return CoilMatrices(whitening, whitened, compression)


def _whitening(raw: RawVolume, options: PrepareOptions, seen: Survey) -> tuple[Complex | None, Whitened]:
    if options.prewhiten == "off" or (options.prewhiten == "auto" and raw.load_noise is None):
        return None, "no"
    if options.prewhiten == "edge":
        covariance = seen.edge
    elif raw.load_noise is None:
        raise InputError(f"{raw.path}: it has no noise scan to prewhiten by; --prewhiten edge takes k-space's corners")
    else:
        noise = raw.load_noise()
        covariance = coils.coil_covariance(noise) / noise.shape[1]
    try:
        return coils.whitening_matrix(covariance), "edge" if options.prewhiten == "edge" else "scan"
    except InputError as error:
        raise InputError(f"{raw.path}: {error}") from error


def pieces(
    raw: RawVolume,
    options: PrepareOptions,
    matrices: CoilMatrices,
    positions: Sequence[int] | None = None,
    known_maps: Callable[[int], Complex | None] | None = None,
    noise: DrawnNoise | None = None,
) -> Iterator[Piece]:
    """The prepared slices of a raw volume, one at a time.

    An undersampled volume is calibrated from its acquired samples, or from the lines that were acquired for that, and
    its ``target`` is the zero-filled combination.

    Args:
        raw: the volume.
        options: how to prepare it.
        matrices: the result of ``coil_matrices``.
        positions: the slices to prepare; None: all.
        known_maps: a slice's maps from an earlier run on the same samples with the same calibration, if there are any.
        noise: the result of ``known_noise``. Every step but the calibration is linear, so the target minus the noise
            that went through the same steps, with the maps of the noisy slice, is the target without noise.

    Yields:
        k-space (coils, rows, columns) without readout oversampling and with zero padding; maps; the combined image;
        if the noise is given, the combined image without noise; and what the maps keep.
    """
    for position in range(raw.slices) if positions is None else positions:
        samples = without_padding(raw.read_slice(position), raw.pad_left, raw.pad_right)
        acquired = matrices.apply(samples)
        calibration, kept_lines = _calibration(raw, position, samples, acquired, matrices, options)
        maps = known_maps(position) if known_maps is not None else None
        if maps is None and options.maps == "own":
            maps = own_maps(raw, position, matrices)
        if maps is None:
            maps = _espirit(raw, position, calibration, kept_lines, options)
        kspace = without_oversampling(acquired, raw.image_rows)
        images = ifft(kspace, (-2, -1))
        target = coils.sense_combine(images, maps)
        truth = None
        if noise is not None:
            added = without_padding(noise.of_slice(position), raw.pad_left, raw.pad_right)
            added = without_oversampling(matrices.apply(added), raw.image_rows)
            truth = target - coils.sense_combine(ifft(added, (-2, -1)), maps)
        level = noise_power(acquired, raw.pad_left, raw.pad_right)
        if raw.mask is None:
            kept = kept_of(kspace, images, maps, level, target)
        else:
            # Lines that are missing fold the images; the calibration's own, coarse images are whole.
            coarse = np.zeros_like(calibration)
            box = espirit.calibration_box(calibration.shape[1:], options.calibration_width, kept_lines, raw.image_rows)
            coarse[:, *box] = calibration[:, *box]
            coarse = without_oversampling(coarse, raw.image_rows)
            kept = kept_of(coarse, ifft(coarse, (-2, -1)), maps, level)
        if options.target == "rss":
            target, truth = as_rss(images, target), None
        yield Piece(kspace, maps, target, truth, position, kept)


def require_maps(raw: RawVolume, piece: Piece) -> None:
    """Raise an InputError for a slice whose maps do not fit its calibration: its image would be wrong or black."""
    kept = piece.kept
    if kept is None:
        return
    wrong = kept.error("cannot be reconstructed")
    if not wrong and kept.covered < LEAST_COVERED:
        wrong = f"its coil maps cover {kept.covered:.2f} of the object, and the rest would be black"
    if wrong:
        raise InputError(f"{raw.path}: slice {piece.position}: {wrong}; has it too few lines about the centre?")


def as_rss(images: Complex, combined: Complex) -> Complex:
    """The root sum of squares of coil images (coils, rows, columns), with the phase of the combined image."""
    return np.asarray(coils.magnitude_of(images) * np.exp(1j * np.angle(combined)), np.complex64)


def _calibration(
    raw: RawVolume,
    position: int,
    samples: Complex,
    acquired: Complex,
    matrices: CoilMatrices,
    options: PrepareOptions,
) -> tuple[Complex, NDArray[np.bool_]]:
    """The k-space that a slice is calibrated from, and what of it may be used: (columns,) or (rows, columns)."""
    if raw.mask is not None and raw.load_calibration is not None:
        with parsing(raw.path, f"the calibration lines of slice {position} cannot be read"):
            lines = np.ascontiguousarray(raw.load_calibration(position), np.complex64)
        return matrices.apply(lines), np.asarray(lines.any(axis=0))
    if raw.mask is None and options.calibration == "mask":
        mask = fixed(options.calibration_mask, (raw.rows, raw.columns), (raw.pad_left, raw.pad_right)).kept
    else:
        mask = np.ones(raw.columns, bool) if raw.mask is None else raw.mask.copy()
        # Padding can reach into the centre (partial Fourier); those columns are no calibration lines.
        mask[..., : raw.pad_left] = mask[..., raw.columns - raw.pad_right :] = False
    there = np.asarray(samples.any(axis=0))
    if mask.ndim == 2 or raw.phase_encodings == 2:
        return acquired, mask & there
    rows = there.any(axis=1)
    # Nor are the rows that a partial echo lacks.
    return acquired, mask if rows.all() else np.outer(rows, mask)


def known_noise(raw: RawVolume, kspace_sha256: str) -> tuple[DrawnNoise | None, str]:
    """The noise in a volume, if a simulator recorded how it was drawn and the draw can be repeated.

    Args:
        raw: the volume.
        kspace_sha256: hash of its samples, from ``Survey``.

    Returns:
        The noise or None; and, if the volume's record does not hold, a sentence that says why.
    """
    noise = raw.simulated_noise
    if noise is None:
        return None, ""
    shape = (raw.coils, raw.rows, raw.columns)
    if noise.shape != shape or noise.kspace_sha256 != kspace_sha256:
        return None, "it says how its noise was drawn, but its samples were changed since; its truth is not known"
    if not noise.is_drawn_alike():
        return None, "NumPy draws other numbers than when it was simulated; its truth is not known"
    return noise, ""


def _espirit(
    raw: RawVolume, position: int, calibration: Complex, mask: NDArray[np.bool_], options: PrepareOptions
) -> Complex:
    program = espirit.espirit_bart if options.espirit == "bart" else espirit.espirit
    width, crop, sets = options.calibration_width, options.eigenvalue_crop, options.maps_sets
    try:
        return program(calibration, width, mask, rows=raw.image_rows, crop=crop, sets=sets)
    except InputError as error:
        raise InputError(f"{raw.path}: slice {position}: {error}") from error


def own_maps(raw: RawVolume, position: int, matrices: CoilMatrices) -> Complex:
    """The maps that come with a slice, transformed by the coil matrices, cut to the image's rows, with Σ|s|² = 1.

    Raises:
        InputError: the slice has no maps, or they do not fit or are not finite.
    """
    if raw.load_maps is None:
        raise InputError(f"{raw.path}: no maps come with it; --maps espirit makes them")
    if matrices.compression is not None and matrices.compression.ndim == 3:
        raise InputError(f"{raw.path}: maps of its own cannot follow geometric compression; use --compression svd")
    maps = np.ascontiguousarray(raw.load_maps(position), np.complex64)
    expected = (raw.coils, raw.rows, raw.columns)
    if maps.shape != expected or not np.isfinite(maps).all():
        raise InputError(
            f"{raw.path}: slice {position}: its own maps are {maps.shape} or not finite; {expected} is due"
        )
    maps = matrices.apply(maps)[:, centre((raw.rows, raw.columns), (raw.image_rows, raw.columns))[0]]
    size = np.sqrt(np.sum(maps.real**2 + maps.imag**2, axis=0))
    inside = size > 1e-3 * size.max()
    return np.divide(maps, size, out=np.zeros_like(maps), where=inside)


def without_oversampling(kspace: Complex, image_rows: int) -> Complex:
    """Remove readout oversampling: transform the rows to image space, keep the central ``image_rows``, transform back.

    Args:
        kspace: (coils, rows, columns), centred.
        image_rows: number of rows that remain, at most the number of rows.

    Returns:
        (coils, image_rows, columns). The transforms are orthonormal, so the image inside keeps its values.
    """
    rows, columns = kspace.shape[-2:]
    if image_rows == rows:
        return kspace
    region = centre((rows, columns), (image_rows, columns))[0]
    return np.ascontiguousarray(fft(ifft(kspace, (-2,))[..., region, :], (-2,)), np.complex64)


def without_padding(kspace: Complex, pad_left: int, pad_right: int) -> Complex:
    """k-space with exact zeros in the columns that were never acquired."""
    kspace = kspace.copy()
    kspace[..., :pad_left] = 0
    kspace[..., kspace.shape[-1] - pad_right :] = 0
    return kspace
