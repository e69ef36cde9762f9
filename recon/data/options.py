"""How raw k-space is prepared: the options of ``prepare``, which the data set remembers."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from recon.config import Config, MaskConfig
from recon.data.readers import Hints
from recon.physics.espirit import EIGENVALUE_CROP


class PrepareOptions(Config):
    """How raw k-space is prepared. Stored with the data; the first group decides what the volume files hold."""

    calibration: Literal["full", "mask"] = "full"
    """Lines that ESPIRiT calibrates from: full or mask.

    ``full``: the fully sampled centre, as in the paper. This is a mild leak, for it uses lines that a mask leaves out.
    ``mask``: only lines that ``calibration_mask`` keeps.
    """
    calibration_mask: MaskConfig = MaskConfig()
    """Mask of ``calibration: mask``, with one acceleration and one centre fraction."""
    calibration_width: int = Field(default=24, ge=8)
    """Edge of the square centre of k-space that ESPIRiT calibrates from, in samples.

    Along a readout with oversampling the centre is longer by as much.
    """
    eigenvalue_crop: float = Field(default=EIGENVALUE_CROP, ge=0, lt=1)
    """Eigenvalue below which the coil maps are zero.

    The maps are kept where ESPIRiT's eigenvalue is above this number. .8 is BART's default; sigpy's .95 cuts a real
    head's scalp away.
    """
    maps_sets: Literal[1, 2] = 1
    """Number of sets of ESPIRiT maps: 1 or 2.

    ``2``: for an object that is larger than the field of view, so that two of its parts lie in one pixel (soft SENSE).
    The images are then one per set, and their magnitude is the root of the sum of their squares.
    """
    maps: Literal["espirit", "own"] = "espirit"
    """Source of the coil maps: espirit, or own for those that come with the raw data."""
    espirit: Literal["splitpoint", "bart"] = "splitpoint"
    """Implementation of ESPIRiT: splitpoint or bart.

    ``splitpoint`` is ours, of sigpy's equations. ``bart`` runs BART's ``ecalib``, which has to be installed.
    """
    target: Literal["sense", "rss"] = "sense"
    """Reference image: sense or rss.

    ``sense``: the coil images combined by the maps, as in the paper. ``rss``: the magnitude is the root sum of squares
    of the coil images, as in fastMRI's tables; the phase is that of ``sense``.
    """
    prewhiten: Literal["auto", "scan", "edge", "off"] = "auto"
    """Source of the noise covariance that the coils are prewhitened by.

    Prewhitened coils have uncorrelated noise of variance one. ``auto``: the noise scan where the file has one.
    ``scan``: the noise scan; a volume without one is refused. ``edge``: the corners of k-space. ``off``: no
    prewhitening.
    """
    coils: int | None = Field(default=None, ge=1)
    """Number of virtual coils to compress to.

    A volume with fewer coils keeps its own. None: no compression.
    """
    compression: Literal["svd", "geometric"] = "svd"
    """Method of coil compression: svd or geometric.

    ``svd``: one matrix for the volume. ``geometric``: one matrix for each position along the readout.
    """
    crop: Literal["header", "full"] | tuple[int, int] = "header"
    """Centre region for losses and metrics: header, full, or a size in rows and columns.

    ``header``: the size of the header's reconstruction matrix. ``full``: the whole image.
    """

    hints: Hints = Hints()
    """Facts that raw files without a header cannot state.

    A JSON file beside a raw file overrides them.
    """
    patients: Literal["header", "files"] = "header"
    """Source of a volume's patient: header or files.

    ``header``: the name in the file's header. ``files``: every volume counts as a patient of its own.
    """
    tasks: dict[str, str] = Field(default={})
    """Task names by a glob on the raw file's path.

    A file that no glob matches is named by its acquisition.
    """
    split: Literal["auto", "folders", "random"] = "auto"
    """Way to split the patients: auto, folders or random.

    ``folders``: by folders named train, val and test (or multicoil_train, …). ``random``: by a seeded draw. ``auto``:
    by folders where there are such folders, else by a draw.
    """
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Fractions of the patients for training, validation and test in a drawn split."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of a drawn split."""
    subset_seed: int = Field(default=0, ge=0)
    """Seed of the nested subsets that a scarce task is cut to.

    The same seed gives the same order of training volumes and slices.
    """

    @field_validator("crop")
    @classmethod
    def _crop_has_pixels(cls, value: str | tuple[int, int]) -> str | tuple[int, int]:
        if not isinstance(value, str) and min(value) < 1:
            raise ValueError(f"a crop has at least one row and one column, found {value[0]} × {value[1]}")
        return value

    @field_validator("fractions")
    @classmethod
    def _fractions_add_up(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or value[0] == 0 or abs(sum(value) - 1) > 1e-6:
            raise ValueError(f"the fractions of train, val and test add up to 1, and train is not 0, found {value}")
        return value

    @model_validator(mode="after")
    def _sets_fit_together(self) -> PrepareOptions:
        if self.maps_sets == 2 and (self.maps == "own" or self.target == "rss"):
            other = "maps own" if self.maps == "own" else "target rss"
            raise ValueError(f"maps_sets 2 and {other} exclude each other; give one of them")
        return self

    @model_validator(mode="after")
    def _calibration_mask_is_one(self) -> PrepareOptions:
        mask = self.calibration_mask
        if len(mask.accelerations) != 1 or len(mask.centre_fractions) != 1:
            raise ValueError("calibration_mask is one mask: give one acceleration and one centre fraction")
        return self

    def recipe(self) -> dict[str, JsonValue]:
        """The options that decide what a volume file holds, as JSON values."""
        fields = {"maps", "target", "prewhiten", "coils", "crop"}
        if self.coils is not None:
            fields |= {"compression", "calibration_width"}
        if self.maps == "espirit":
            fields |= {"espirit", "calibration", "calibration_width", "eigenvalue_crop", "maps_sets"}
            if self.calibration == "mask":
                fields.add("calibration_mask")
        recipe: dict[str, JsonValue] = json.loads(self.model_dump_json(include=fields))
        return recipe
