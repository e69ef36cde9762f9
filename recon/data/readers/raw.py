"""What every reader gives: one raw volume, its header facts at once and its samples slice by slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.errors import InputError


@dataclass(frozen=True)
class RawVolume:
    """A raw Cartesian multi-coil volume. Rows are the readout, columns the phase-encode direction.

    Attributes:
        path: the file it comes from.
        format: the reader's name for the format.
        acquisition: the protocol's name as the file gives it.
        task: the task that the acquisition stands for.
        patient: whose volume it is; volumes of one patient stay on one side of a split.
        slices, coils, rows, columns: shape of the k-space as acquired, readout oversampling and padding included.
        image_rows: rows that remain once the readout oversampling is removed.
        pad_left, pad_right: columns at either edge of k-space that were never acquired, as counts.
        crop: (rows, columns) of the scanner's reconstruction, the region that matters.
        mask: columns that were acquired, where the volume is undersampled; None where it is fully sampled.
        load: reads one slice; use ``read_slice``, which checks what it reads.
    """

    path: Path
    format: str
    acquisition: str
    task: str
    patient: str
    slices: int
    coils: int
    rows: int
    columns: int
    image_rows: int
    pad_left: int
    pad_right: int
    crop: tuple[int, int]
    mask: NDArray[np.bool_] | None
    load: Callable[[int], NDArray[np.complex64]]

    @property
    def name(self) -> str:
        """The volume's name: the file's, without its ending."""
        return self.path.stem

    def read_slice(self, position: int) -> NDArray[np.complex64]:
        """k-space of one slice, (coils, rows, columns), centred.

        Raises:
            InputError: where the samples cannot be read, are not finite, or are all zero.
        """
        try:
            kspace = np.ascontiguousarray(self.load(position), dtype=np.complex64)
        except OSError as error:
            raise InputError(f"{self.path}: slice {position} cannot be read ({error}); is the file whole?") from error
        if not np.isfinite(kspace).all():
            raise InputError(f"{self.path}: slice {position} holds samples that are not finite")
        if not kspace.any():
            raise InputError(f"{self.path}: slice {position} holds nothing but zeros")
        return kspace
