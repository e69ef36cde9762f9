"""Calls Debian's BART as an oracle; tests that need it are skipped where it is not installed."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

needs_bart = pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")


def bart(folder: Path, command: str, array: np.ndarray, timeout: float = 60) -> np.ndarray:
    """Run ``bart COMMAND input output`` on (coils, rows, columns), which BART sees as (rows, columns, 1, coils)."""
    stored = array.transpose(1, 2, 0)[:, :, None]
    _write(folder / "input", stored)
    subprocess.run(
        ["bart", *command.split(), "input", "output"], cwd=folder, check=True, timeout=timeout, capture_output=True
    )
    return _read(folder / "output")[:, :, 0].transpose(2, 0, 1)


def _write(base: Path, array: np.ndarray) -> None:
    base.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    array.astype(np.complex64).ravel(order="F").tofile(base.with_suffix(".cfl"))


def _read(base: Path) -> np.ndarray:
    shape = [int(n) for n in base.with_suffix(".hdr").read_text().splitlines()[1].split()]
    samples = np.fromfile(base.with_suffix(".cfl"), np.complex64)
    return samples.reshape(shape, order="F").reshape(shape[:4], order="F")


def bart_on(folder: Path, command: str, *arrays: np.ndarray) -> np.ndarray:
    """Run ``bart COMMAND input0 input1 … output`` on arrays in BART's own order of axes."""
    names = [f"input{number}" for number in range(len(arrays))]
    for name, array in zip(names, arrays, strict=True):
        _write(folder / name, array)
    subprocess.run(
        ["bart", *command.split(), *names, "output"], cwd=folder, check=True, timeout=60, capture_output=True
    )
    shape = [int(n) for n in (folder / "output.hdr").read_text().splitlines()[1].split()]
    return np.fromfile(folder / "output.cfl", np.complex64).reshape(shape[:5], order="F")
