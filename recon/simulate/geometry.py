"""Where a simulated scan samples space: slices, rows (readout) and columns (phase encode) in millimetres.

Leaves to others: what lies at those places (`anatomy`), and what a coil receives from there (`receive`).

The scanner's axes, in this order everywhere: x anterior→posterior (across coronal slices), y superior→inferior
(rows, the readout, and the direction of B0), z left–right (columns, the phase-encode direction).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SUPERSAMPLING = 2
"""The object is drawn this much finer than it is acquired, so that truncation and partial volume are natural."""
READOUT_OVERSAMPLING = 2
REACH = 0.62
"""Half the drawn extent along the readout, in fields of view; beyond it the coils hear nothing."""

STACK_CENTRE_MM = -9.0
"""Along x, of the stack of slices, so that it holds the joint from the patella to the back of the condyles."""

Positions = NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """One scan's sampling.

    matrix: rows and columns of the reconstructed image. columns: encoded k-space columns, `lines` of which are
    acquired and the rest zero padding. Lengths are in mm.
    """

    matrix: int
    columns: int
    lines: int
    slices: int
    field_of_view_mm: float
    spacing_mm: float
    thickness_mm: float

    @property
    def pixel_mm(self) -> float:
        """Side of a reconstructed pixel."""
        return self.field_of_view_mm / self.matrix

    @property
    def coarse(self) -> bool:
        """Whether pixels are so large that finer detail of the anatomy would be wasted."""
        return self.pixel_mm >= 0.9

    @property
    def rows(self) -> int:
        """Rows of the oversampled k-space."""
        return READOUT_OVERSAMPLING * self.matrix

    @property
    def padding(self) -> tuple[int, int]:
        """First acquired column and the one after the last, as fastMRI counts them."""
        left = self.columns // 2 - self.lines // 2
        return left, left + self.lines

    @property
    def fine_shape(self) -> tuple[int, int]:
        """Rows and columns of the fine grid over the whole encoded field of view."""
        return self.rows * SUPERSAMPLING, self.columns * SUPERSAMPLING

    @property
    def drawn_rows(self) -> slice:
        """Rows of the fine grid that are drawn; the others stay empty."""
        half = round(REACH * self.matrix * SUPERSAMPLING)
        centre = self.fine_shape[0] // 2
        return slice(centre - half, centre + half)

    def axes(self, index: int) -> tuple[Positions, Positions, Positions]:
        """Positions in mm: sub-slices of slice `index` (x), drawn rows (y), columns (z)."""
        step = self.pixel_mm / SUPERSAMPLING
        rows, columns = self.fine_shape
        y = (np.arange(rows)[self.drawn_rows] - rows // 2) * step
        z = (np.arange(columns) - columns // 2) * step
        parts = 1 if self.coarse else 3
        centre = STACK_CENTRE_MM + (index - (self.slices - 1) / 2) * self.spacing_mm
        x = centre + ((np.arange(parts) + 0.5) / parts - 0.5) * self.thickness_mm
        return np.asarray(x), np.asarray(y), np.asarray(z)
