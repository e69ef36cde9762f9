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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.errors import InputError
from recon.physics.coils import Complex, coil_covariance, compression_matrix, sense_combine
from recon.physics.fourier import ifft

KERNEL_WIDTH = 6
LEAST_KERNEL = 3
LEAST_LINES = 4
"""Fewer contiguous lines than this do not calibrate: no kernel finds neighbours in them."""
SINGULAR_THRESHOLD = 0.02
EIGENVALUE_CROP = 0.8
"""BART's default. At sigpy's .95 the maps of a real brain lose its scalp (docs/decisions.md)."""


def espirit(
    kspace: Complex,
    calibration_width: int = 24,
    mask: NDArray[np.bool_] | None = None,
    *,
    rows: int | None = None,
    crop: float = EIGENVALUE_CROP,
    sets: int = 1,
    threshold: float = SINGULAR_THRESHOLD,
    kernel_width: int | None = None,
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

    Where the object is larger than the field of view, two of its parts lie in one pixel, and one map cannot explain
    both. The second set is the next eigenvector there (soft SENSE, Uecker et al. 2014).

    Args:
        kspace: (coils, rows, columns), centred.
        calibration_width: edge of the square centre that is used, in samples; along rows with readout oversampling
            it is as many times longer, so that the centre is square in what it resolves.
        mask: (columns,) or (rows, columns) bool; calibrate only from the contiguous centre that it keeps. None: all.
        rows: rows of the image to give maps for, about its centre; None: all. Calibrating from k-space that still
            has its readout oversampling, for the rows that will remain, keeps the object whole: where it is cut off at
            the edge of the field of view, one end meets the other, and no single set of maps explains both.
        crop: maps are zero where the eigenvalue is not above this.
        sets: 1 or 2.
        threshold: of the singular values (sigpy's default).
        kernel_width: in samples; None: ``kernel_of``.
        iterations: the most power iterations (sigpy's number).
        tolerance: of the power iteration, on maps of unit norm.

    Returns:
        maps: (coils, ``rows``, columns), Σ|s|² = 1 inside the object, 0 outside; phase by ``fix_phase``. With two
        sets (2, coils, ``rows``, columns), orthogonal to each other at each pixel.

    Raises:
        InputError: where fewer contiguous lines are kept than calibrate.
    """
    coils, height, columns = kspace.shape
    rows = height if rows is None else rows
    centre = _calibration(kspace, calibration_width, mask, rows)
    width = kernel_of(centre.shape[1:]) if kernel_width is None else kernel_width
    polynomial = _covariance_polynomial(_kernels(centre, threshold, width))
    wanted = slice(height // 2 - rows // 2, height // 2 - rows // 2 + rows)
    start = _low_resolution(centre, (height, columns))[:, wanted]
    down = _evaluation(height, polynomial.shape[-2])[wanted]
    # Orders of the rows first, so that G of a row is one product of a vector with a matrix.
    partial = np.ascontiguousarray((polynomial @ _evaluation(columns, polynomial.shape[-1]).T).transpose(2, 0, 1, 3))
    partial = partial.reshape(len(partial), -1)
    maps = np.empty((sets, coils, rows, columns), np.complex64)
    # A few rows at a time, so that G of the rows at work stays in the processor's cache.
    step = max(1, 2**17 // (coils * coils * columns))
    for top in range(0, rows, step):
        some = slice(top, min(top + step, rows))
        count = some.stop - top
        by_row = (down[some] @ partial).reshape(count, coils, coils, columns)
        # With one row, this moves nothing.
        covariance = np.ascontiguousarray(by_row.transpose(1, 2, 0, 3)).reshape(coils, coils, -1)
        begin = start[:, some].reshape(coils, -1)
        vectors, values = _dominant(covariance, begin, iterations, tolerance)
        maps[0, :, some] = (vectors * (values > crop)).reshape(coils, count, columns)
        if sets == 2:
            second = _second(covariance, vectors, values, crop, iterations, tolerance)
            maps[1, :, some] = second.reshape(coils, count, columns)
    fixed = [fix_phase(one, centre) for one in maps]
    return np.stack(fixed) if sets > 1 else fixed[0]


def espirit_bart(
    kspace: Complex,
    calibration_width: int = 24,
    mask: NDArray[np.bool_] | None = None,
    *,
    rows: int | None = None,
    crop: float = EIGENVALUE_CROP,
    sets: int = 1,
) -> Complex:
    """The same maps by BART's ``ecalib`` (Uecker et al. 2014), with our phase.

    Arguments and result as for ``espirit``; BART gets the same centre of k-space and kernels of the same size.

    Raises:
        InputError: where there is no BART, or it refuses; where fewer contiguous lines are kept than calibrate.
    """
    program = bart()
    coils, height, columns = kspace.shape
    rows = height if rows is None else rows
    centre = _calibration(kspace, calibration_width, mask, rows)
    # BART divides by its first coil's phase, which one that holds nothing has not: the strongest goes first.
    order = np.argsort(-np.linalg.norm(centre.reshape(coils, -1), axis=1), kind="stable")
    kept = np.zeros(kspace.shape, np.complex64)
    box = np.s_[:, *calibration_box(kspace.shape[1:], calibration_width, mask, rows)]
    kept[box] = kspace[box]
    with tempfile.TemporaryDirectory() as folder:
        # BART's files are column-major: readout, phase encoding, (second phase encoding), coils.
        (Path(folder) / "kspace.hdr").write_text(f"# Dimensions\n{height} {columns} 1 {coils}\n")
        np.ascontiguousarray(kept[order].swapaxes(1, 2), np.complex64).tofile(Path(folder) / "kspace.cfl")
        size = f"-r{centre.shape[1]}:{centre.shape[2]}:1"
        command = [program, "ecalib", f"-m{sets}", size, f"-k{kernel_of(centre.shape[1:])}", f"-c{crop:g}"]
        done = subprocess.run([*command, "kspace", "maps"], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            said = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", done.stderr or done.stdout).split())[-200:]
            raise InputError(f"BART's ecalib refused, with {centre.shape[2]} lines about the centre: {said}")
        flat = np.fromfile(Path(folder) / "maps.cfl", np.complex64)
    maps = flat.reshape(sets, coils, columns, height).swapaxes(2, 3)[:, np.argsort(order)]
    if not np.isfinite(maps).all():
        raise InputError("BART's ecalib gave maps that are not finite")
    top = height // 2 - rows // 2
    fixed = [fix_phase(one[:, top : top + rows], centre) for one in maps]
    return np.stack(fixed) if sets > 1 else fixed[0]


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


def calibration_region(
    kspace: Complex, width: int, mask: NDArray[np.bool_] | None = None, rows: int | None = None
) -> Complex:
    """The centre of k-space that calibrates, or of it the contiguous part about the centre that ``mask`` keeps.

    Args:
        kspace: (coils, rows, columns), centred.
        width: edge of the square, in samples; clipped to the k-space there is.
        mask: (columns,) or (rows, columns) bool.
        rows: rows of the image once the readout oversampling is off; the region is longer along the rows by as much.

    Returns:
        (coils, lines along the rows, lines along the columns).
    """
    return kspace[:, *calibration_box(kspace.shape[1:], width, mask, rows)]


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


def calibration_box(
    shape: Sequence[int], width: int, mask: NDArray[np.bool_] | None = None, image_rows: int | None = None
) -> tuple[slice, slice]:
    """The rows and columns of ``calibration_region`` in k-space of ``shape`` (rows, columns)."""
    rows, columns = shape
    height = min(rows, width if image_rows is None else round(width * rows / image_rows))
    top = rows // 2 - height // 2
    if mask is None or mask.ndim == 1:
        return slice(top, top + height), slice(*calibration_columns(columns, width, mask))
    left, right = calibration_columns(columns, width)
    return _kept_box(mask, (top, top + height), (left, right))


def _kept_box(mask: NDArray[np.bool_], rows: tuple[int, int], columns: tuple[int, int]) -> tuple[slice, slice]:
    """A box about the centre of ``mask`` inside the limits, all of it kept: it grows at each side while it can."""
    top, left = mask.shape[0] // 2, mask.shape[1] // 2
    bottom, right = (top + 1, left + 1) if mask[top, left] else (top, left)
    grown = bottom > top
    while grown:
        grown = False
        if top > rows[0] and mask[top - 1, left:right].all():
            top, grown = top - 1, True
        if bottom < rows[1] and mask[bottom, left:right].all():
            bottom, grown = bottom + 1, True
        if left > columns[0] and mask[top:bottom, left - 1].all():
            left, grown = left - 1, True
        if right < columns[1] and mask[top:bottom, right].all():
            right, grown = right + 1, True
    return slice(top, bottom), slice(left, right)


def kernel_of(region: Sequence[int]) -> int:
    """The width of the kernels for a calibration region of this many lines along rows and columns.

    A kernel has to find several places in the region: of six lines about the centre of a real brain, kernels of six
    leave half of it without maps, kernels of three none (docs/decisions.md). From 15 lines on it is the usual six.
    """
    return min(KERNEL_WIDTH, max(LEAST_KERNEL, 2 * min(region) // 5))


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

    Inside the object it should show noise alone; anatomy in it means that the sets of maps are not enough there.

    Args:
        kspace: (coils, rows, columns), fully sampled.
        maps: (coils, rows, columns) or (sets, coils, rows, columns).

    Returns:
        (rows, columns).
    """
    images = ifft(kspace, (-2, -1))
    left = images - explained(images, maps)
    size = np.linalg.norm(images, axis=0)
    return np.asarray(np.linalg.norm(left, axis=0) / size.max(), np.float32)


def explained(images: Complex, maps: Complex) -> Complex:
    """What maps explain of coil images (coils, rows, columns): Σ over sets of s·Σ s̄x, of the same shape."""
    sets = maps if maps.ndim == 4 else maps[None]
    return np.asarray(sum(one * sense_combine(images, one) for one in sets), np.complex64)


def _calibration(kspace: Complex, width: int, mask: NDArray[np.bool_] | None, rows: int) -> Complex:
    """``calibration_region``, where it calibrates; else an InputError."""
    centre = calibration_region(kspace, width, mask, rows)
    if min(centre.shape[1:]) < LEAST_LINES:
        raise InputError(
            f"ESPIRiT needs {LEAST_LINES} contiguous lines about the centre of k-space, found "
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
        images = (matrices * current).sum(axis=1)
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


def _second(
    matrices: Complex, first: Complex, values: NDArray[np.float32], crop: float, iterations: int, tolerance: float
) -> Complex:
    """The next eigenvectors (coils, pixels), zero where their eigenvalue is not above ``crop``.

    Args:
        matrices: (coils, coils, pixels), as for ``_dominant``, like iterations and tolerance.
        first: the dominant eigenvectors, (coils, pixels).
        values: theirs.
    """
    # The trace is the sum of all eigenvalues, so elsewhere none of the others can be above the crop.
    several = np.flatnonzero(np.einsum("ccp->p", matrices).real - values > crop)
    vectors = np.zeros_like(first)
    if several.size:
        one = first[:, several]
        rest = matrices[..., several] - values[several] * one[:, None] * one[None].conj()
        found, sizes = _dominant(rest, _orthogonal(one), iterations, tolerance)
        vectors[:, several] = found * (sizes > crop)
    return vectors


def _orthogonal(vectors: Complex) -> Complex:
    """Unit vectors (coils, pixels) that are orthogonal to those given: where a second power iteration starts."""
    # Of the axes the one that the given vector has least of: what remains of it is never small.
    start = np.zeros_like(vectors)
    pixels = np.arange(vectors.shape[1])
    axis = np.abs(vectors).argmin(axis=0)
    start[axis, pixels] = 1
    start -= vectors * vectors[axis, pixels].conj()
    return np.asarray(start / np.maximum(np.linalg.norm(start, axis=0), 1e-12), np.complex64)
