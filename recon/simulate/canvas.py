"""Where a subject's tissues are painted: shares of tissues at many places, and what is known of those places."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from recon.simulate.atlas import Place
from recon.simulate.contrast import TISSUES

Float = NDArray[np.float32]
TISSUE_INDEX = {name: index for index, name in enumerate(TISSUES)}


class Canvas:
    """Tissue shares of n places, painted from the front to the back: later paint shows where room is left."""

    def __init__(self, places: int) -> None:
        self.shares = np.zeros((len(TISSUES), places), np.float32)
        self.left = np.ones(places, np.float32)

    def paint(self, cover: Float | float, **mixture: float | Float) -> None:
        """Cover a share of what is left with a mixture of tissues, whose parts sum to one."""
        taken = self.left * cover
        for name, part in mixture.items():
            self.shares[TISSUE_INDEX[name]] += taken * part
        self.left -= taken

    def at(self, index: NDArray[np.intp]) -> "Canvas":
        """A copy of some of the places, to be put back with `update`."""
        part = Canvas(0)
        part.shares, part.left = self.shares[:, index], self.left[index]
        return part

    def update(self, index: NDArray[np.intp], part: "Canvas") -> None:
        """Put back what `at` took."""
        self.shares[:, index] = part.shares
        self.left[index] = part.left


@dataclass
class Places:
    """Places to draw, with all that the drawing looks at; every array's last axis runs over them.

    points: (3, n), in mm; soft: the same divided by the knee's size, in which soft tissue is laid out; skin: mm below
    the surface are negative; bone: mm inside a bone, negative outside; cartilage, meniscus: occupancy; femur … capsule:
    distances in mm, negative inside; broad, middle, fine: noise of falling scale; grain: texture of single pixels;
    step: width of an edge in mm.
    """

    points: Float
    soft: Float
    skin: Float
    bone: Float
    cartilage: Float
    meniscus: Float
    femur: Float
    tibia: Float
    to_cartilage: Float
    capsule: Float
    broad: Float
    middle: Float
    fine: Float
    grain: Float
    step: float

    def at(self, index: NDArray[np.intp]) -> "Places":
        """Some of the places."""
        arrays = {field.name: getattr(self, field.name)[..., index] for field in fields(self) if field.name != "step"}
        return Places(step=self.step, **arrays)


@dataclass(frozen=True)
class Blob:
    """A lesion's place and radius in mm."""

    centre: Place
    radius: float

    def within(self, points: Float, noise: Float, soft: float) -> Float:
        """One in the middle, zero outside, with an uneven border `soft` mm wide."""
        away = np.sqrt(sum((points[axis] - np.float32(self.centre[axis])) ** 2 for axis in range(3)))
        return np.clip((np.float32(self.radius) + 0.25 * np.float32(self.radius) * noise - away) / soft, 0, 1)
