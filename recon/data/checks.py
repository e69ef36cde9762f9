"""Checks that find problems in raw data before training: a table of findings by file and slice.

Errors keep a volume out of the data set; warnings are for the user to look at. Everything here comes from one pass over
a volume's samples (``Survey``), together with what the preparation needs of all slices at once: the samples' identity
and the coils' covariances.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recon.data.readers import RawVolume
from recon.data.readers.raw import SamplesHash
from recon.data.volume_file import VolumeRecord
from recon.errors import InputError
from recon.physics import coils, espirit

Severity = Literal["error", "warning"]

MOST_ERRORS = 32
"""Broken slices of one volume after which it is not read further: a damaged header may declare a million."""
EMPTY_COIL = 1e-6
"""A coil with less than this fraction of the mean coil's energy is empty."""
SATURATED_SAMPLES = 8
"""If this many samples have exactly the largest value, they were clipped."""
OFF_CENTRE = 0.25
"""The brightest line of k-space lies within this fraction of an axis's length from the centre."""
OTHER_SCALE = 1e4
"""Slices of one volume do not differ in energy by more; volumes of a task not in scale by more than a hundredth."""


class Finding(NamedTuple):
    """Something wrong with a file."""

    file: str
    slice: int | None
    """None if it concerns the whole volume."""
    severity: Severity
    what: str


class Survey:
    """One pass over all slices of a raw volume.

    Args:
        raw: the volume.
        calibration_width: edge of the centre that the compression's covariance is taken from.
        along_readout: keep that covariance at each position along the readout.

    Attributes:
        findings: errors and warnings, in the order of slices.
        kspace_sha256: of the samples, slice by slice, whatever file they lie in.
        edge: covariance of the samples at k-space's corners, per sample, (coils, coils).
        centre: covariance of the calibration regions, (coils, coils) or (rows, coils, coils).
    """

    def __init__(self, raw: RawVolume, calibration_width: int, *, along_readout: bool = False) -> None:
        self._raw = raw
        self.findings: list[Finding] = []
        digest = SamplesHash((raw.slices, raw.coils, raw.rows, raw.columns))
        self.edge = np.zeros((raw.coils, raw.coils), np.complex128)
        self.centre = np.zeros((*((raw.rows,) if along_readout else ()), raw.coils, raw.coils), np.complex128)
        corners = 0
        row_energy, column_energy = np.zeros(raw.rows), np.zeros(raw.columns)
        energies = np.zeros((raw.slices, raw.coils))
        written: dict[int, NDArray[np.bool_]] = {}
        for position in range(raw.slices):
            if len(self.errors) == MOST_ERRORS:
                self._add("error", position, f"{MOST_ERRORS} slices before are broken; the rest was not read")
                break
            kspace = raw.read_slice(position)
            digest.add(kspace)
            power = kspace.real**2 + kspace.imag**2
            if not self._is_whole(position, kspace, power):
                continue
            written[position] = np.asarray(kspace.any(axis=2))
            energies[position] = power.sum(axis=(1, 2), dtype=np.float64)
            row_energy += power.sum(axis=(0, 2), dtype=np.float64)
            column_energy += power.sum(axis=(0, 1), dtype=np.float64)
            self._look_for_clipping(position, kspace)
            corner = coils.edge_samples(kspace, raw.pad_left, raw.pad_right)
            corners += corner.shape[1]
            self.edge += coils.coil_covariance(corner)
            if along_readout:
                left, right = espirit.calibration_columns(raw.columns, calibration_width, raw.mask)
                self.centre += coils.readout_covariance(kspace[..., left:right])
            else:
                self.centre += coils.coil_covariance(espirit.calibration_region(kspace, calibration_width, raw.mask))
        self.edge /= max(1, corners)
        self.kspace_sha256 = digest.hexdigest()
        self._compare_what_is_written(written)
        if not self.errors:
            self._compare_coils_and_slices(energies)
            self._look_for_the_centre(row_energy, column_energy)

    @property
    def errors(self) -> list[Finding]:
        """The findings that keep the volume out."""
        return [one for one in self.findings if one.severity == "error"]

    def require_whole(self) -> None:
        """Raise the first error, and say how many there are, as an InputError."""
        if self.errors:
            first, more = self.errors[0], len(self.errors) - 1
            where = f"slice {first.slice}: " if first.slice is not None else ""
            rest = f" ({more} more such slices)" if more else ""
            raise InputError(f"{first.file}: {where}{first.what}{rest}")

    def _add(self, severity: Severity, position: int | None, what: str) -> None:
        self.findings.append(Finding(str(self._raw.path), position, severity, what))

    def _is_whole(self, position: int, kspace: NDArray[np.complex64], power: NDArray[np.float32]) -> bool:
        raw = self._raw
        if not np.isfinite(kspace).all():
            self._add("error", position, "it holds samples that are not finite")
            return False
        by_column = power.max(axis=(0, 1))
        if not by_column.any():
            self._add("error", position, "it holds nothing but zeros")
            return False
        due = np.ones(raw.columns, bool) if raw.mask is None else raw.mask.copy()
        due[: raw.pad_left] = due[raw.columns - raw.pad_right :] = False
        missing = np.flatnonzero(due & (by_column == 0))
        if missing.size:
            self._add(
                "error",
                position,
                f"{missing.size} columns ({missing[0]} to {missing[-1]}) hold nothing but zeros, though they count as "
                "acquired; is it half written?",
            )
        return not missing.size

    def _compare_what_is_written(self, written: dict[int, NDArray[np.bool_]]) -> None:
        """Rows of a coil that one slice lacks and another has: most formats store coils and rows one after the other.

        Args:
            written: slice → (coils, rows), whether it holds anything there.
        """
        anywhere = np.logical_or.reduce(list(written.values()), axis=0) if written else np.zeros((0, 0), bool)
        for position, there in written.items():
            missing = anywhere & ~there
            if missing.any():
                names = ", ".join(map(str, np.flatnonzero(missing.any(axis=1))))
                self._add(
                    "error",
                    position,
                    f"{int(missing.sum())} rows of coil {names} (counted from 0) hold nothing but zeros, though other "
                    "slices have them; is it half written?",
                )
        self.findings.sort(key=lambda one: one.slice or 0)

    def _look_for_clipping(self, position: int, kspace: NDArray[np.complex64]) -> None:
        parts = np.abs(kspace.view(np.float32))
        clipped = int((parts == parts.max()).sum())
        if clipped >= SATURATED_SAMPLES:
            self._add("warning", position, f"{clipped} samples lie at exactly the largest value; were they clipped?")

    def _compare_coils_and_slices(self, energies: NDArray[np.float64]) -> None:
        by_coil, by_slice = energies.sum(axis=0), energies.sum(axis=1)
        # Not the median, which is nothing itself where most coils are empty.
        empty = np.flatnonzero(by_coil < EMPTY_COIL * by_coil.mean())
        if empty.size:
            names = ", ".join(map(str, empty))
            self._add("warning", None, f"coil {names} of {self._raw.coils} (counted from 0) holds next to nothing")
        part = by_slice / np.median(by_slice)
        for position in np.flatnonzero((part > OTHER_SCALE) | (part < 1 / OTHER_SCALE)):
            self._add(
                "warning",
                int(position),
                f"its energy is {part[position]:.0e} times the median slice's; is it scaled as the others?",
            )

    def _look_for_the_centre(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> None:
        raw = self._raw
        found = int(rows.argmax()), int(columns.argmax())
        due = raw.rows // 2, raw.columns // 2
        if any(abs(a - b) > OFF_CENTRE * n for a, b, n in zip(found, due, (raw.rows, raw.columns), strict=True)):
            self._add(
                "warning",
                None,
                f"k-space is brightest at row {found[0]}, column {found[1]}, where its centre is {due[0]}, {due[1]}; "
                "are axes swapped, or is it not centred?",
            )
        if raw.coils > min(raw.rows, raw.columns):
            self._add(
                "warning",
                None,
                f"it has more coils ({raw.coils}) than rows or columns ({raw.rows} × {raw.columns}); are axes swapped?",
            )


def compare_scales(records: Iterable[VolumeRecord], paths: dict[str, Path]) -> list[Finding]:
    """Volumes whose scale is far from their task's median: by a factor of a hundred.

    Args:
        records: of the volumes.
        paths: volume → its raw file.
    """
    table = pd.DataFrame([(one.task, one.volume, one.scale) for one in records], columns=["task", "volume", "scale"])
    found = []
    for task, group in table.groupby("task"):
        part = group["scale"] / group["scale"].median()
        for volume, ratio in zip(group["volume"], part, strict=True):
            if not 0.01 <= ratio <= 100:
                what = f"its scale is {ratio:.0e} times the median of {task}; is it in other units?"
                found.append(Finding(str(paths[volume]), None, "warning", what))
    return found


def table(findings: Sequence[Finding]) -> pd.DataFrame:
    """Findings as a table with the columns ``file, slice, severity, what``; errors first."""
    ordered = sorted(
        findings, key=lambda one: (one.severity != "error", one.file, -1 if one.slice is None else one.slice)
    )
    frame = pd.DataFrame(ordered, columns=list(Finding._fields))
    return frame.astype({"slice": "Int64"})
