"""Names and meanings of the metrics' definitions and of the untrained methods, for tables and files.

The same pair of images has many SSIMs. So every number carries the name of its definition, and every table its
sentence. ``recon.evaluation.metrics`` computes the metrics; code that only shows numbers needs no torch.
"""

from __future__ import annotations

from enum import StrEnum


class Quantity(StrEnum):
    """A quantity of a network and of each of its tasks: the word before the slash in a column such as ``ssim/PDw``.

    Epoch reports, records and leaderboards name their columns by it. There, SSIM, pSNR and nRMSE follow the definition
    ``REPORTED``.
    """

    SSIM = "ssim"
    PSNR = "psnr"
    NRMSE = "nrmse"
    LOSS = "loss"
    WEIGHT = "weight"
    """The weight of the task's loss: the mean over an epoch's steps."""
    GAIN = "gain"
    """SSIM minus the SSIM of the matched STL network."""
    Z = "z"
    """SSIM minus the mean of the multi-task networks, in their standard deviations."""
    RANK = "rank"
    ZERO_FILLED = "zero_filled"
    """SSIM of the zero-filled images of the validation split, which no network should fall below."""

    def of(self, task: str) -> str:
        """The column of a task."""
        return f"{self}/{task}"

    @property
    def error(self) -> str:
        """The column of its standard error."""
        return f"{self}_se"

    def error_of(self, task: str) -> str:
        """The column of a task's standard error."""
        return f"{self}_se/{task}"

    @property
    def falls(self) -> bool:
        """Whether lower is better."""
        return self in (Quantity.NRMSE, Quantity.LOSS, Quantity.RANK)

    @property
    def form(self) -> str:
        """How its numbers are written (Python's format specification)."""
        return _FORMS.get(self, "")

    @classmethod
    def of_column(cls, name: str) -> Quantity | None:
        """The quantity of a column; None if the column has none."""
        first = name.split("/")[0]
        return next((one for one in cls if one == first), None)


_FORMS = {
    Quantity.SSIM: ".4f",
    Quantity.PSNR: ".2f",
    Quantity.NRMSE: ".4f",
    Quantity.GAIN: "+z.4f",
    Quantity.WEIGHT: ".3g",
    Quantity.Z: "+.2f",
    Quantity.ZERO_FILLED: ".4f",
}
METRICS = (Quantity.SSIM, Quantity.PSNR, Quantity.NRMSE)
"""The metrics of a reconstruction."""

DEFINITIONS: dict[str, str] = {
    "paper": (
        "Per slice, as the public code of Liu et al. 2021: SSIM with a uniform 7x7 window, sample covariance, range 1, "
        "after scaling prediction and reference each to [0, 1] by its own minimum and maximum; pSNR in dB, not scaled, "
        "range = maximum - minimum of the reference slice; nRMSE = |prediction - reference| / |reference|, not scaled."
    ),
    "slice": (
        "Per slice, not scaled: SSIM with a uniform 7x7 window and sample covariance, pSNR in dB, both with range = "
        "maximum of the reference slice; nRMSE = |prediction - reference| / |reference|."
    ),
    "volume": (
        "Per slice, not scaled: SSIM with a uniform 7x7 window and sample covariance, pSNR in dB, both with range = "
        "maximum of the reference volume, so that a volume's mean SSIM is that of fastMRI's evaluation (whose PSNR is "
        "of the whole volume's error); nRMSE = |prediction - reference| / |reference|."
    ),
}
"""The meaning of each name, in one sentence for tables and files."""

REPORTED = "paper"
"""The definition of the metrics that trainings report and that every table here shows."""

ZERO_FILLED, L1_WAVELET = "zero-filled", "l1-wavelet"
"""Methods without training: Aᴴ of the kept lines, and sigpy's ℓ1-wavelet SENSE with λ tuned on validation."""

TRUTH = "noise-free truth"
"""The name of ``Slice.truth`` in tables."""
TRUTH_IS = (
    "The noise-free truth is no reconstruction: it is the simulated image before noise was added, measured against the "
    "noisy reference as every method is. It marks the ceiling that the reference's own noise leaves; a network can lie "
    "a little above by keeping the noise of the lines that it is given."
)
"""The same in sentences, for legends and files."""
