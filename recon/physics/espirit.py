"""Coil sensitivity maps by ESPIRiT, from the fully sampled centre of k-space.

ESPIRiT is Uecker et al. 2014 (Magn Reson Med 71:990-1001), the same equations as ``sigpy.mri.app.EspiritCalib``,
arranged so that a slice takes a fraction of its time (see ``espirit``). sigpy and BART are the oracles of its tests.
``recon.physics.coils`` holds the steps before and after.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.errors import InputError
from recon.physics.coils import Complex, coil_covariance, compression_matrix, sense_combine
from recon.physics.fourier import ifft

KERNEL_WIDTH = 6
SINGULAR_THRESHOLD = 0.02
EIGENVALUE_CROP = 0.95


def espirit(
    kspace: Complex,
    calibration_width: int = 24,
    mask: NDArray[np.bool_] | None = None,
    *,
    rows: int | None = None,
    crop: float = EIGENVALUE_CROP,
    threshold: float = SINGULAR_THRESHOLD,
    kernel_width: int = KERNEL_WIDTH,
    iterations: int = 100,
    tolerance: float = 1e-4,
) -> Complex:
    """Sensitivity maps of one slice from the centre of its k-space.

    The row space of the calibration matrix (singular values above ``threshold`` times the largest) gives, for each
    pixel x, a Hermitian coils × coils matrix G(x); the map is its dominant eigenvector. G is a trigonometric polynomial
    of degree ``kernel_width - 1`` along each axis, so it is summed over kernels once on a grid of 2·kernel_width − 1
    points and evaluated for each pixel from there. (sigpy transforms every kernel at full size and sums those.) The
    power iteration starts at the calibration data's own low-resolution coil images, which inside the object are nearly
    the eigenvectors, and ends at each pixel whose map moves by no more than ``tolerance`` in a step.

    Args:
        kspace: (coils, rows, columns), centred.
        calibration_width: edge of the square centre that is used, in samples.
        mask: (columns,) bool; calibrate only from the contiguous centre lines that it keeps. None: all lines.
        rows: rows of the image to give maps for, about its centre; None: all. Calibrating from k-space that still
            has its readout oversampling, for the rows that will remain, keeps the object whole: where it is cut off at
            the edge of the field of view, one end meets the other, and no single set of maps explains both.
        crop: maps are zero where the eigenvalue is not above this (sigpy's default).
        threshold: of the singular values (sigpy's default).
        kernel_width: in samples (sigpy's default).
        iterations: the most power iterations (sigpy's number).
        tolerance: of the power iteration, on maps of unit norm.

    Returns:
        maps: (coils, ``rows``, columns), Σ|s|² = 1 inside the object, 0 outside; phase by ``fix_phase``.

    Raises:
        InputError: where fewer calibration lines are kept than the kernel is wide.
    """
    centre = _calibration(kspace, calibration_width, mask, kernel_width)
    polynomial = _covariance_polynomial(_kernels(centre, threshold, kernel_width))
    coils, height, columns = kspace.shape
    rows = height if rows is None else rows
    wanted = slice(height // 2 - rows // 2, height // 2 - rows // 2 + rows)
    start = _low_resolution(centre, (height, columns))[:, wanted]
    down = _evaluation(height, polynomial.shape[-2])[wanted]
    partial = polynomial @ _evaluation(columns, polynomial.shape[-1]).T
    maps = np.empty((coils, rows, columns), np.complex64)
    # A few rows at a time, so that G of the rows at work stays in the processor's cache.
    step = max(1, 2**17 // (coils * coils * columns))
    for top in range(0, rows, step):
        some = slice(top, min(top + step, rows))
        covariance = np.einsum("rp,cdpx->cdrx", down[some], partial, optimize=True).reshape(coils, coils, -1)
        vectors, values = _dominant(covariance, start[:, some].reshape(coils, -1), iterations, tolerance)
        maps[:, some] = (vectors * (values > crop)).reshape(coils, -1, columns)
    return fix_phase(maps, centre)


def espirit_bart(
    kspace: Complex,
    calibration_width: int = 24,
    mask: NDArray[np.bool_] | None = None,
    *,
    rows: int | None = None,
    crop: float = EIGENVALUE_CROP,
) -> Complex:
    """The same maps by BART's ``ecalib`` (Uecker et al. 2014), with our phase.

    Arguments and result as for ``espirit``; BART takes the fully sampled centre, as far as the mask keeps it.

    Raises:
        InputError: where there is no BART, or it refuses; where fewer calibration lines are kept than the kernel is
            wide.
    """
    program = bart()
    centre = _calibration(kspace, calibration_width, mask, KERNEL_WIDTH)
    coils, height, columns = kspace.shape
    rows = height if rows is None else rows
    kept = kspace if mask is None else kspace * np.asarray(mask, bool)
    # BART divides by its first coil's phase, which one that holds nothing has not: the strongest goes first.
    order = np.argsort(-np.linalg.norm(centre.reshape(coils, -1), axis=1), kind="stable")
    with tempfile.TemporaryDirectory() as folder:
        # BART's files are column-major: readout, phase encoding, (second phase encoding), coils.
        (Path(folder) / "kspace.hdr").write_text(f"# Dimensions\n{height} {columns} 1 {coils}\n")
        np.ascontiguousarray(kept[order].swapaxes(1, 2), np.complex64).tofile(Path(folder) / "kspace.cfl")
        command = [program, "ecalib", "-m1", f"-r{calibration_width}", f"-c{crop:g}", "kspace", "maps"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            said = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", done.stderr or done.stdout).split())[-200:]
            raise InputError(f"BART's ecalib refused, with {centre.shape[2]} lines about the centre: {said}")
        flat = np.fromfile(Path(folder) / "maps.cfl", np.complex64)
    maps = flat.reshape(coils, columns, height).swapaxes(1, 2)[np.argsort(order)]
    if not np.isfinite(maps).all():
        raise InputError("BART's ecalib gave maps that are not finite")
    top = height // 2 - rows // 2
    return fix_phase(maps[:, top : top + rows], centre)


def bart() -> str:
    """The path of BART: on ``PATH``, or in BART's own ``TOOLBOX_PATH``.

    Raises:
        InputError: BART is not found.
    """
    home = os.environ.get("BART_TOOLBOX_PATH") or os.environ.get("TOOLBOX_PATH")
    found = shutil.which("bart") or (home and shutil.which("bart", path=home))
    if not found:
        raise InputError("BART is not here: neither is bart on the PATH, nor does TOOLBOX_PATH name its folder")
    return found


def calibration_region(kspace: Complex, width: int, mask: NDArray[np.bool_] | None = None) -> Complex:
    """The square centre of k-space, or of it the contiguous lines about the centre that ``mask`` keeps.

    Args:
        kspace: (coils, rows, columns), centred.
        width: edge of the square, in samples; clipped to the k-space there is.
        mask: (columns,) bool.

    Returns:
        (coils, min(width, rows), lines).
    """
    _, rows, columns = kspace.shape
    left, right = calibration_columns(columns, width, mask)
    height = min(width, rows)
    top = rows // 2 - height // 2
    return kspace[:, top : top + height, left:right]


def calibration_columns(columns: int, width: int, mask: NDArray[np.bool_] | None = None) -> tuple[int, int]:
    """The first of up to ``width`` contiguous columns about the centre that ``mask`` keeps, and the one behind them."""
    kept = np.ones(columns, bool) if mask is None else np.asarray(mask, bool)
    centre = columns // 2
    left, right = centre, centre
    while left > max(0, centre - width // 2) and kept[left - 1]:
        left -= 1
    while right < min(columns, centre - width // 2 + width) and kept[right]:
        right += 1
    return left, right


def fix_phase(maps: Complex, centre: Complex) -> Complex:
    """Maps with their free phase fixed: the one place where that is done.

    ESPIRiT leaves each pixel's phase open. Here the calibration data's first principal coil combination is real and
    not negative everywhere, as in BART. It sees the whole object, so the phase stays smooth; a physical coil, which
    sigpy takes, has none to speak of far from where it lies.

    Args:
        maps: (coils, rows, columns).
        centre: (coils, …) calibration data.
    """
    principal = compression_matrix(coil_covariance(centre), 1)[0]
    combination = np.tensordot(principal, maps, 1)
    size = np.abs(combination)
    phase = np.where(size > 0, combination / np.where(size > 0, size, 1), 1)
    return (maps * phase.conj()).astype(np.complex64)


def espirit_residual(kspace: Complex, maps: Complex) -> NDArray[np.float32]:
    """How much of the coil images the maps cannot explain: ‖x − s·Σ s̄x‖ at each pixel, over the largest ‖x‖.

    Inside the object it should show noise alone; anatomy in it means that one set of maps is not enough there.

    Args:
        kspace: (coils, rows, columns), fully sampled.
        maps: (coils, rows, columns).

    Returns:
        (rows, columns).
    """
    images = ifft(kspace, (-2, -1))
    left = images - maps * sense_combine(images, maps)
    size = np.linalg.norm(images, axis=0)
    return np.asarray(np.linalg.norm(left, axis=0) / size.max(), np.float32)


def _calibration(kspace: Complex, width: int, mask: NDArray[np.bool_] | None, kernel_width: int) -> Complex:
    """``calibration_region``, where it holds a kernel; else an InputError."""
    centre = calibration_region(kspace, width, mask)
    if min(centre.shape[1:]) < kernel_width:
        raise InputError(
            f"ESPIRiT needs {kernel_width} contiguous lines about the centre of k-space, found "
            f"{min(centre.shape[1:])}; keep more centre lines, or calibrate from the full data"
        )
    return centre


def _kernels(centre: Complex, threshold: float, width: int) -> Complex:
    """Orthonormal kernels that span the calibration data's row space, (kernels, coils, width, width)."""
    coils = len(centre)
    blocks = np.lib.stride_tricks.sliding_window_view(centre, (width, width), (1, 2))
    matrix = blocks.transpose(1, 2, 0, 3, 4).reshape(-1, coils * width * width)
    # The singular vectors by way of the smaller Gram matrix; in double precision, as its condition is squared.
    matrix = matrix.astype(np.complex128)
    if matrix.shape[0] <= matrix.shape[1]:
        energies, left = np.linalg.eigh(matrix @ matrix.conj().T)
        singular = np.sqrt(np.maximum(energies, 0))
        keep = singular > threshold * singular[-1]
        right = (left[:, keep].conj().T @ matrix) / singular[keep, None]
    else:
        energies, vectors = np.linalg.eigh(matrix.conj().T @ matrix)
        singular = np.sqrt(np.maximum(energies, 0))
        right = vectors[:, singular > threshold * singular[-1]].conj().T
    return right.reshape(-1, coils, width, width).astype(np.complex64)


def _covariance_polynomial(kernels: Complex) -> Complex:
    """Fourier coefficients of G: the kernels' summed correlations, (coils, coils, 2·width − 1, 2·width − 1)."""
    width = kernels.shape[-1]
    grid = 2 * width - 1
    spectra = np.fft.ifft2(kernels, (grid, grid), norm="forward").astype(np.complex64)
    points = spectra.reshape(*spectra.shape[:2], -1).transpose(2, 1, 0)
    samples = points @ points.conj().swapaxes(1, 2) / width**2
    coefficients = np.fft.fft2(samples.reshape(grid, grid, *samples.shape[1:]), axes=(0, 1), norm="forward")
    return np.ascontiguousarray(np.fft.fftshift(coefficients, (0, 1)).transpose(2, 3, 0, 1), np.complex64)


def _evaluation(points: int, coefficients: int) -> Complex:
    """Matrix that evaluates a trigonometric polynomial at the pixels of a centred image, (points, coefficients)."""
    pixels = np.arange(points) - points // 2
    orders = np.arange(coefficients) - coefficients // 2
    return np.exp(2j * np.pi * np.outer(pixels, orders) / points).astype(np.complex64)


def _low_resolution(centre: Complex, shape: tuple[int, int]) -> Complex:
    """Coil images of the calibration data alone, with unit norm at each pixel."""
    # Zeros are added at one side only: the linear phase that this gives is common to the coils, and fixed in the end.
    images = np.fft.fftshift(np.fft.ifft2(centre, shape), (1, 2))
    # A constant keeps the start off zero where the object is not.
    images = images + 1e-3 * np.abs(images).max()
    return (images / np.linalg.norm(images, axis=0)).astype(np.complex64)


def _dominant(
    matrices: Complex, start: Complex, iterations: int, tolerance: float
) -> tuple[Complex, NDArray[np.float32]]:
    """Dominant eigenvectors (coils, pixels) and eigenvalues (pixels,) of positive semi-definite matrices.

    Args:
        matrices: (coils, coils, pixels); pixels last, so that each product runs along them.
        start: (coils, pixels) with unit norm.
        iterations: the most power iterations.
        tolerance: a pixel whose vector moves by no more than this is done, and is left out of further iterations.
    """
    vectors = start.copy()
    values = np.zeros(start.shape[1], np.float32)
    open_pixels = np.arange(start.shape[1])
    current = start
    for iteration in range(1, iterations + 1):
        images = np.einsum("cdp,dp->cp", matrices, current)
        sizes = np.sqrt(np.sum(images.real**2 + images.imag**2, axis=0))
        fresh = images / sizes
        # Picking out the pixels that still move is itself work: not at every step.
        if iteration % 10 == 0 or iteration == iterations:
            vectors[:, open_pixels], values[open_pixels] = fresh, sizes
            moving = np.abs(fresh - current).max(axis=0) > tolerance
            if not moving.any():
                break
            open_pixels, matrices, fresh = open_pixels[moving], matrices[..., moving], fresh[:, moving]
        current = fresh
    return vectors, values
