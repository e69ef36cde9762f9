"""Checks that find problems in raw data before training: a table of findings by file and slice.

An error keeps a slice or a volume out of the data set; a warning is for the user to look at. Everything here comes from
one pass over a volume's samples (``Survey``), together with what the preparation needs of all slices at once: the
samples' identity and the coils' covariances. What maps and target keep is checked later, in ``recon.data.kept``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recon.data.readers import RawVolume
from recon.data.readers.raw import SOLID, SamplesHash, is_solid, undersampling
from recon.data.volume_file import VolumeRecord
from recon.errors import InputError
from recon.physics import coils, espirit
from recon.physics.fourier import fft

Severity = Literal["error", "warning"]

MOST_ERRORS = 32
"""Broken slices of one volume after which it is not read further: a damaged header may declare a million."""
EMPTY_COIL = 1e-6
"""A coil with less than this fraction of the mean coil's energy is empty."""
SATURATED_SAMPLES = 8
"""If this many samples have exactly the largest value, they were clipped."""
OFF_CENTRE = 0.02
"""The brightest line of k-space lies within this fraction of an axis's length from the centre, or within four lines."""
OTHER_SCALE = 1e4
"""Slices of one volume do not differ in energy by more; volumes of a task not in scale by more than a hundredth."""
NOISE_ALONE = 1.5
"""A slice holds no image if no row and no column of its k-space has more than this many times the median one's energy.
The brightest of simulated slices has a hundred times as much."""


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
        broken: slices that cannot be used, each with an error among the findings.
        noise_alone: slices that hold no image.
        usable: the other slices, in order.
        kspace_sha256: of the samples, slice by slice, whatever file they lie in.
        edge: covariance of the samples at k-space's corners, per sample, (coils, coils).
        centre: covariance of the calibration regions, (coils, coils) or (rows, coils, coils).
    """

    def __init__(self, raw: RawVolume, calibration_width: int, *, along_readout: bool = False) -> None:
        self._raw = raw
        self.findings = [Finding(str(raw.path), None, "warning", what) for what in raw.notes]
        self.broken: set[int] = set()
        digest = SamplesHash((raw.slices, raw.coils, raw.rows, raw.columns))
        self.edge = np.zeros((raw.coils, raw.coils), np.complex128)
        self.centre = np.zeros((*((raw.rows,) if along_readout else ()), raw.coils, raw.coils), np.complex128)
        corners, noise_alone = 0, []
        row_energy, column_energy = np.zeros((raw.coils, raw.rows)), np.zeros((raw.coils, raw.columns))
        energies = np.zeros((raw.slices, raw.coils))
        written: dict[int, NDArray[np.bool_]] = {}
        for position in range(raw.slices):
            if len(self.broken) == MOST_ERRORS:
                self._add("error", position, f"{MOST_ERRORS} slices before are broken; the rest was not read")
                self.broken |= set(range(position, raw.slices))
                break
            kspace = raw.read_slice(position)
            digest.add(kspace)
            # Samples that are not finite, or whose squares are not, are found below.
            with np.errstate(over="ignore", invalid="ignore"):
                power = kspace.real**2 + kspace.imag**2
            if not self._is_whole(position, kspace, power):
                continue
            written[position] = np.asarray(kspace.any(axis=2))
            energies[position] = power.sum(axis=(1, 2), dtype=np.float64)
            corner = coils.edge_samples(kspace, raw.pad_left, raw.pad_right)
            if _is_noise(power):
                noise_alone.append(position)
                continue
            row_energy += power.sum(axis=2, dtype=np.float64)
            column_energy += power.sum(axis=1, dtype=np.float64)
            self._look_for_clipping(position, kspace)
            corners += corner.shape[1]
            self.edge += coils.coil_covariance(corner)
            if along_readout:
                left, right = espirit.calibration_columns(raw.columns, calibration_width, _columns(raw))
                self.centre += coils.readout_covariance(kspace[..., left:right])
            else:
                region = espirit.calibration_region(kspace, calibration_width, raw.mask, raw.image_rows)
                self.centre += coils.coil_covariance(region)
        self.edge /= max(1, corners)
        self.noise_alone = tuple(noise_alone)
        self.kspace_sha256 = digest.hexdigest()
        self._compare_what_is_written(written)
        self._name_noise()
        self.usable = tuple(one for one in range(raw.slices) if one not in self.broken and one not in noise_alone)
        self.findings.sort(key=lambda one: -1 if one.slice is None else one.slice)
        if self.usable:
            self._compare_coils_and_slices(energies)
            self._look_for_noisy_coils(row_energy, column_energy)
            self._look_for_the_centre(row_energy.sum(axis=0), column_energy.sum(axis=0))
            self._look_for_images(self.usable[len(self.usable) // 2])

    @property
    def errors(self) -> list[Finding]:
        """The findings that keep the volume or some of its slices out."""
        return [one for one in self.findings if one.severity == "error"]

    def require_whole(self) -> None:
        """Raise the first error, and say how many there are, as an InputError."""
        if self.errors:
            first, more = self.errors[0], len(self.errors) - 1
            where = f"slice {first.slice}: " if first.slice is not None else ""
            rest = f" ({more} more such slices)" if more else ""
            raise InputError(f"{first.file}: {where}{first.what}{rest}")

    def require_some(self) -> None:
        """Raise an InputError where no slice can be used."""
        if self.usable:
            return
        if self.errors:
            self.require_whole()
        raise InputError(f"{self._raw.path}: all of its slices hold noise alone")

    def _add(self, severity: Severity, position: int | None, what: str) -> None:
        self.findings.append(Finding(str(self._raw.path), position, severity, what))

    def _break(self, position: int, what: str) -> bool:
        self._add("error", position, what)
        self.broken.add(position)
        return False

    def _is_whole(self, position: int, kspace: NDArray[np.complex64], power: NDArray[np.float32]) -> bool:
        raw = self._raw
        if not np.isfinite(kspace).all():
            return self._break(position, "it holds samples that are not finite")
        if not np.isfinite(power.sum(dtype=np.float64)):
            return self._break(position, "it holds samples so large that their squares are not finite")
        there = np.asarray(power.max(axis=0) > 0)
        if not there.any():
            return self._break(position, "it holds nothing but zeros")
        due = _columns(raw)
        due[: raw.pad_left] = due[raw.columns - raw.pad_right :] = False
        missing = np.flatnonzero(due & ~there.any(axis=0))
        if missing.size:
            return self._break(
                position,
                f"{missing.size} columns ({missing[0]} to {missing[-1]}) hold nothing but zeros, though they count as "
                "acquired; is it half written?",
            )
        if raw.mask is not None and raw.mask.ndim == 2:
            share = float(there[raw.mask].mean())
            if share < SOLID:
                return self._break(position, f"it lacks {1 - share:.2f} of the samples that count as acquired")
        elif not is_solid(there[:, due]):
            return self._break(position, f"it is {undersampling(there & due)}, though no mask says so")
        return True

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
                self._break(
                    position,
                    f"{int(missing.sum())} rows of coil {names} (counted from 0) hold nothing but zeros, though other "
                    "slices have them; is it half written?",
                )

    def _name_noise(self) -> None:
        """One finding a slice; one for all of a three-dimensional scan, whose slices go beyond the object."""
        found = [one for one in self.noise_alone if one not in self.broken]
        what = "noise alone (all rows and columns of k-space have about the same energy); left out"
        if found and self._raw.phase_encodings == 2:
            self._add("warning", None, f"slices {_ranges(found)} hold {what}")
        else:
            for position in found:
                self._add("warning", position, f"it holds {what}")

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
        part = by_slice / np.median(by_slice[list(self.usable)])
        for position in self.usable:
            if not 1 / OTHER_SCALE <= part[position] <= OTHER_SCALE:
                self._add(
                    "warning",
                    position,
                    f"its energy is {part[position]:.0e} times the median slice's; is it scaled as the others?",
                )

    def _look_for_noisy_coils(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> None:
        """Coils that hold noise alone, by the energies of their rows (coils, rows) and columns (coils, columns)."""
        samples = len(self.usable) * columns.shape[1], len(self.usable) * rows.shape[1]
        noisy = [
            coil
            for coil, (by_row, by_column) in enumerate(zip(rows, columns, strict=True))
            if by_row.any() and _is_even(by_row, samples[0]) and _is_even(by_column, samples[1])
        ]
        if noisy:
            names = ", ".join(map(str, noisy))
            self._add("warning", None, f"coil {names} of {self._raw.coils} (counted from 0) holds noise alone")

    def _look_for_the_centre(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> None:
        raw = self._raw
        found = int(rows.argmax()), int(columns.argmax())
        due = raw.rows // 2, raw.columns // 2
        sizes = raw.rows, raw.columns
        if any(abs(a - b) > max(4, OFF_CENTRE * n) for a, b, n in zip(found, due, sizes, strict=True)):
            self._add(
                "warning",
                None,
                f"k-space is brightest at row {found[0]}, column {found[1]}, where its centre is {due[0]}, {due[1]}; "
                "is the centre in its header wrong, are axes swapped, or is it not centred?",
            )
        if raw.coils > min(raw.rows, raw.columns):
            self._add(
                "warning",
                None,
                f"it has more coils ({raw.coils}) than rows or columns ({raw.rows} × {raw.columns}); are axes swapped?",
            )

    def _look_for_images(self, position: int) -> None:
        """K-space has most of its energy in few lines and its image has not; with images in its place it is the
        reverse."""
        kspace = self._raw.read_slice(position)
        given, transformed = _peak(kspace), _peak(fft(kspace, (-2, -1)))
        if transformed > 2 * given:
            self._add(
                "warning",
                None,
                f"its samples look like images, not like k-space: their brightest line has {given:.1f} times the mean "
                f"energy, and that of their Fourier transform {transformed:.1f} times",
            )


def _columns(raw: RawVolume) -> NDArray[np.bool_]:
    """The columns of which something was acquired, padding aside, as far as the mask says: (columns,)."""
    if raw.mask is None:
        return np.ones(raw.columns, bool)
    return np.array(raw.mask if raw.mask.ndim == 1 else raw.mask.any(axis=0))


def _peak(samples: NDArray[np.complex64]) -> float:
    """The brightest line's energy over the mean line's, of samples (coils, rows, columns): the geometric mean of rows
    and columns."""
    power = (samples.real**2 + samples.imag**2).sum(axis=0, dtype=np.float64)
    rows, columns = power.sum(axis=1), power.sum(axis=0)
    return float(np.sqrt(rows.max() / rows.mean() * columns.max() / columns.mean()))


def _is_noise(power: NDArray[np.float32]) -> bool:
    """Whether the energy (coils, rows, columns) is that of noise: the same everywhere, but for chance."""
    coils, rows, columns = power.shape
    by_row, by_column = (power.sum(axis=(0, axis), dtype=np.float64) for axis in (2, 1))
    return _is_even(by_row, coils * columns) and _is_even(by_column, coils * rows)


def _is_even(lines: NDArray[np.float64], samples: int) -> bool:
    """Whether lines of so many samples have about the same energy (lines,), those aside that have none."""
    there = np.sort(lines[lines > 0])
    # The deviation of a line's energy by chance is one over the root of its samples.
    return bool(there[-1] <= (NOISE_ALONE + 4 / np.sqrt(samples)) * there[there.size // 2])


def _ranges(numbers: Sequence[int]) -> str:
    """``0-14, 20`` for whole numbers in ascending order."""
    runs: list[list[int]] = []
    for one in numbers:
        if runs and one == runs[-1][-1] + 1:
            runs[-1].append(one)
        else:
            runs.append([one])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


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


def compare_simulations(records: Iterable[VolumeRecord], paths: dict[str, Path]) -> list[Finding]:
    """Simulated volumes of a task that were made with other settings than most of it.

    Args:
        records: of the volumes.
        paths: volume → its raw file.
    """
    rows = [(one.task, one.volume, one.simulation) for one in records if one.simulation]
    table = pd.DataFrame(rows, columns=["task", "volume", "simulation"])
    found = []
    for task, group in table.groupby("task"):
        counts = group["simulation"].value_counts()
        if len(counts) > 1:
            others = group[group["simulation"] != counts.index[0]]["volume"].tolist()
            what = (
                f"a simulator made the volumes of {task} with {len(counts)} settings: {len(others)} of {len(group)} "
                "are unlike the others; simulate each into a folder of its own"
            )
            found.append(Finding(str(paths[others[0]]), None, "warning", what))
    return found


def table(findings: Sequence[Finding]) -> pd.DataFrame:
    """Findings as a table with the columns ``file, slice, severity, what``; errors first."""
    ordered = sorted(
        findings, key=lambda one: (one.severity != "error", one.file, -1 if one.slice is None else one.slice)
    )
    frame = pd.DataFrame(ordered, columns=list(Finding._fields))
    return frame.astype({"slice": "Int64"})
