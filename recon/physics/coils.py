"""Coil processing before maps (noise covariance, prewhitening, compression), and the combination of coils by maps.

The noise covariance comes from a noise scan, or from the corners of k-space. ``recon.physics.espirit`` computes maps;
``recon.data.volume`` decides how each volume is processed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recon.errors import InputError
from recon.physics.fourier import fft, ifft

Complex = NDArray[np.complex64]


def sense_combine(images: Complex, maps: Complex) -> Complex:
    """Combine coil images to one image: Σ s̄·x / Σ|s|², zero where no coil is sensitive.

    The least-squares image for fully sampled data with white noise (Pruessmann et al. 1999, Magn Reson Med 42:952-962).
    With several sets of maps, which are orthonormal at each pixel, that is one such image per set (Uecker et al. 2014,
    Magn Reson Med 71:990-1001).

    Args:
        images: (coils, rows, columns).
        maps: (coils, rows, columns) or (sets, coils, rows, columns).

    Returns:
        (rows, columns) or (sets, rows, columns).
    """
    power = np.sum(maps.real**2 + maps.imag**2, axis=-3)
    combined = np.sum(maps.conj() * images, axis=-3)
    return np.divide(combined, power, out=np.zeros_like(combined), where=power > 0).astype(np.complex64)


def coil_covariance(samples: Complex) -> NDArray[np.complex128]:
    """Σ k kᴴ over the samples of k-space (coils, …): (coils, coils). Those of several slices add up."""
    flat = samples.reshape(len(samples), -1).astype(np.complex128)
    return np.asarray(flat @ flat.conj().T)


def magnitude_of(image: Complex) -> NDArray[np.float32]:
    """Magnitude (rows, columns) of an image, or of images (sets, rows, columns), one for each set of maps or coil."""
    if image.ndim == 2:
        return np.abs(image)
    return np.sqrt((image.real**2 + image.imag**2).sum(axis=0))


def edge_samples(kspace: Complex, pad_left: int = 0, pad_right: int = 0, *, shift: tuple[int, int] = (0, 0)) -> Complex:
    """The samples at the corners of k-space, where noise is nearly all there is: (coils, samples).

    The outer quarter of the rows and, of the acquired columns, those in the outer quarter of their largest distance
    from the centre; without samples that are zero in all coils, as lines that a mask dropped and what a partial echo
    left out are.

    Args:
        kspace: (coils, rows, columns), centred.
        pad_left: columns at the left edge that were never acquired.
        pad_right: columns at the right edge that were never acquired.
        shift: rows and columns by which the centre lies before the middle, round the edge.
    """
    coils, rows, columns = kspace.shape
    row = np.roll(np.abs(np.arange(rows) - rows // 2), -shift[0])
    column = np.roll(np.abs(np.arange(columns) - columns // 2), -shift[1])
    acquired = slice(pad_left, columns - pad_right)
    corner = np.ix_(row > 0.75 * row.max(), column[acquired] > 0.75 * column[acquired].max())
    samples = kspace[:, :, acquired][(slice(None), *corner)].reshape(coils, -1)
    return samples[:, samples.any(axis=0)]


def whitening_matrix(covariance: NDArray[np.complex128]) -> Complex:
    """The matrix after which the coils' noise is uncorrelated and of variance one: L⁻¹ of the covariance L Lᴴ.

    Pruessmann et al. 2001 (Magn Reson Med 46:638-651), section "noise decorrelation".

    Args:
        covariance: of a complex noise sample, (coils, coils), as E[n nᴴ].

    Returns:
        (coils, coils), lower triangular.

    Raises:
        InputError: where the covariance is not positive definite, as with a coil that is never heard or a noise scan of
            fewer samples than coils.
    """
    size = np.real(np.trace(covariance)) / len(covariance)
    weakest = np.linalg.eigvalsh(covariance)[0] if np.isfinite(covariance).all() else -1
    if not weakest > 1e-9 * size:
        raise InputError(
            "the coils' noise cannot be whitened: its covariance is not positive definite (a coil without noise, or "
            "fewer samples than coils)"
        )
    return np.linalg.inv(np.linalg.cholesky(covariance)).astype(np.complex64)


def compression_matrix(covariance: NDArray[np.complex128], coils: int) -> Complex:
    """The matrix to the ``coils`` virtual coils that hold most of the samples' energy, by SVD.

    Huang et al. 2008 (Magn Reson Imaging 26:133-141). The left singular vectors of the samples are the eigenvectors of
    their covariance.

    Args:
        covariance: (…, coils, coils), of ``coil_covariance``.
        coils: how many virtual coils, at most as many as there are.

    Returns:
        (…, virtual coils, coils) with orthonormal rows; each row's largest entry is real and positive.
    """
    _, vectors = np.linalg.eigh(covariance)
    matrix = vectors[..., ::-1][..., :coils].conj().swapaxes(-2, -1)
    largest = np.take_along_axis(matrix, np.abs(matrix).argmax(axis=-1, keepdims=True), axis=-1)
    return np.asarray(matrix * (largest.conj() / np.abs(largest)), np.complex64)


def readout_covariance(samples: Complex) -> NDArray[np.complex128]:
    """Σ k kᴴ at each position along the readout, of k-space (coils, rows, lines): (rows, coils, coils)."""
    hybrid = ifft(samples, (-2,)).transpose(1, 0, 2).astype(np.complex128)
    return np.asarray(hybrid @ hybrid.conj().swapaxes(1, 2))


def geometric_compression(covariances: NDArray[np.complex128], coils: int) -> Complex:
    """A compression matrix for each position along the readout, each turned to follow its neighbour.

    Geometric-decomposition coil compression, Zhang et al. 2013 (Magn Reson Med 69:571-582): the coils that matter
    change along the readout, so that fewer virtual ones are enough than with one matrix for all; the alignment, by the
    rotation P = V Uᴴ of A_n A_{n−1}ᴴ = U S Vᴴ, keeps their sensitivities smooth. It runs outwards from the position
    with the most energy.

    Args:
        covariances: (rows, coils, coils), of ``readout_covariance``.
        coils: how many virtual coils.

    Returns:
        (rows, virtual coils, coils), orthonormal rows at each position.
    """
    matrices = compression_matrix(covariances, coils).astype(np.complex128)
    begin = int(np.einsum("rcc->r", covariances).real.argmax())
    for places in (range(begin + 1, len(matrices)), range(begin - 1, -1, -1)):
        before = matrices[begin]
        for place in places:
            left, _, right = np.linalg.svd(matrices[place] @ before.conj().T)
            before = matrices[place] = (left @ right).conj().T @ matrices[place]
    return matrices.astype(np.complex64)


def compress(kspace: Complex, matrix: Complex) -> Complex:
    """Multiply the coils of k-space by a matrix, or by one for each position along the readout.

    Args:
        kspace: (coils, rows, columns), centred.
        matrix: (virtual coils, coils) or (rows, virtual coils, coils).

    Returns:
        (virtual coils, rows, columns).
    """
    if matrix.ndim == 2:
        return np.tensordot(matrix, kspace, 1).astype(np.complex64)
    hybrid = np.einsum("rvc,crk->vrk", matrix, ifft(kspace, (-2,)), optimize=True)
    return np.asarray(fft(hybrid, (-2,)), np.complex64)
