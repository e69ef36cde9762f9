"""The typed configuration of one training: what a checkpoint, a bundle and a trial record carry.

Every default is the paper's (Liu et al. 2021) or, where the paper is silent, its public code's
(github.com/liuvictoria/multiTaskLearning), and says which; a default that is ours says so.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from recon.layout import Layout

WeightingKind = Literal["naive", "uncertainty", "dwa", "equal"]
Consistency = Literal["k-space", "image", "accelerated"]
Padding = Literal["fastmri", "least"]
Optimiser = Literal["adam", "adamw", "muon"]
Precision = Literal["single", "bfloat16"]
MaskKind = Literal["equispaced-fraction", "equispaced", "random", "file"]


class Config(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MaskConfig(Config):
    """How phase-encode lines are chosen; several accelerations or centre fractions mean a draw among them."""

    kind: MaskKind = "equispaced-fraction"
    accelerations: tuple[float, ...] = Field(default=(6.0,), min_length=1)
    centre_fractions: tuple[float, ...] = Field(default=(0.06,), min_length=1)
    seed: int = Field(default=0, ge=0)
    path: str | None = None

    @field_validator("accelerations")
    @classmethod
    def _at_least_one(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(a < 1 for a in value):
            raise ValueError(f"an acceleration is at least 1, found {min(value):g}")
        return value

    @field_validator("centre_fractions")
    @classmethod
    def _fractions(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= f <= 1 for f in value):
            raise ValueError(f"a centre fraction lies in [0, 1], found {value}")
        return value

    @model_validator(mode="after")
    def _file_has_a_path(self) -> "MaskConfig":
        if (self.kind == "file") != (self.path is not None):
            raise ValueError("path is given exactly when kind is 'file'")
        return self


class MasksConfig(Config):
    """Masks of the three splits. Training draws anew for every slice and epoch; validation and test are fixed.

    Defaults: the paper's public code (training R in {5, 6, 7} and centre in {.05, .06, .07}; validation 6 / .06;
    test 6 / .07 with seed 0).
    """

    train: MaskConfig = MaskConfig(accelerations=(5.0, 6.0, 7.0), centre_fractions=(0.05, 0.06, 0.07))
    val: MaskConfig = MaskConfig(accelerations=(6.0,), centre_fractions=(0.06,))
    test: MaskConfig = MaskConfig(accelerations=(6.0,), centre_fractions=(0.07,))

    @field_validator("val", "test")
    @classmethod
    def _fixed(cls, value: MaskConfig) -> MaskConfig:
        if len(value.accelerations) != 1 or len(value.centre_fractions) != 1:
            raise ValueError("validation and test masks are fixed: give one acceleration and one centre fraction")
        return value


class NetworkConfig(Config):
    """The unrolled network: its layout (I shared, Y multi-head, V split) and the U-Net of a block."""

    layout: str = "I12"
    channels: int = Field(default=18, ge=1)
    pools: int = Field(default=4, ge=1)
    consistency: Consistency = "k-space"
    """Data consistency of a block: on the coils' k-space (fastMRI's variational network, the paper's public code); a
    gradient step on the image, x - eta A^H (A x - k) - U(x) (the paper's eq. 1); or that step accelerated by a learnt
    momentum, which starts as Nesterov's."""
    sense_steps: int = Field(default=0, ge=0)
    """Accelerated data-consistency steps before the first block: no U-Net, nothing learnt, no gradient through them.
    The momenta of accelerated blocks count on from there. 0 is the paper's network."""
    padding: Padding = "fastmri"
    """What U-Nets pad images to: ``fastmri``: a multiple of 16, whatever the poolings, as fastMRI's weights expect;
    ``least``: a multiple of 2^pools, which is faster and, where sizes are no multiples of 16, another network."""
    zero_init: bool = True
    """Start the last convolution of every U-Net at zero and add no mean to its output, so that the untrained network is
    plain gradient descent. False is fastMRI's U-Net, which the paper's public code uses."""

    @field_validator("layout")
    @classmethod
    def _parses(cls, value: str) -> str:
        return str(Layout.parse(value))


class WeightingSettings(Config):
    """How a weighting weights, whichever it is.

    These defaults are ours: with them weightings weight as meant in short trainings too (docs/architecture.md). The
    paper's code is ``ratios: epochs, temperature: 2, log_variance_start: -0.5, log_variance_learning_rate: null,
    constant_sum: false``.
    """

    ratios: Literal["smoothed", "epochs"] = "smoothed"
    """Of losses, in DWA: of running means over two and four epochs, or of the last two epochs' means (Liu, Johns,
    Davison 2019)."""
    temperature: float = Field(default=0.05, gt=0)
    """Of DWA's softmax over those ratios; with those of ``epochs`` its authors take 2."""
    log_variance_start: float | Literal["loss"] = "loss"
    """Where uncertainty weighting's learnt s = log sigma^2 starts: each task's at the log of its first loss, or all at
    one value (the paper's public code: -0.5)."""
    log_variance_learning_rate: float | None = Field(default=0.03, gt=0)
    """Adam's, for s; the schedule does not touch it. None: the network's, with its schedule (the paper's public
    code)."""
    constant_sum: bool = True
    """Scale the weights of T tasks to add up to T, so that a weighting moves the tasks against each other and not the
    size of the step against ``clip_norm``. False: as each formula has it."""


class WeightingConfig(WeightingSettings):
    """How the tasks' losses are weighted (paper, section 2.2)."""

    kind: WeightingKind = "naive"


class TrainConfig(Config):
    """One training, whole: with the prepared data it determines the result."""

    tasks: tuple[str, ...] = Field(min_length=1)
    network: NetworkConfig = NetworkConfig()
    weighting: WeightingConfig = WeightingConfig()
    slices: dict[str, int] = {}
    """Training slices of a task; a task that is not named uses all it has."""
    cut: Literal["volumes", "slices"] = "volumes"
    """How a task is cut to its number of slices: whole volumes first (as the paper did), or slices at random."""
    masks: MasksConfig = MasksConfig()
    epochs: int = Field(default=120, ge=1)
    passes: int = Field(default=1, ge=1)
    """Over the training slices in an epoch. More than one trains on few slices for as many steps as on many."""
    validate_at: tuple[int, ...] | None = None
    """Epochs after which the network is validated and reported, ascending; the last always is. None: every epoch."""
    batch_size: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    """Adam's. With ``muon`` it is that of everything but the convolutions inside the U-Nets."""
    optimiser: Optimiser = "adam"
    """``muon`` steps the convolutions inside the U-Nets by Muon and the rest by Adam (``recon.optimiser``)."""
    muon_learning_rate: float = Field(default=0.01, gt=0)
    """Of the convolutions, with ``muon`` alone."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled, of ``adamw`` and ``muon``; Adam has none."""
    schedule: Literal["constant", "one-cycle", "cosine"] = "constant"
    clip_norm: float | None = Field(default=None, gt=0)
    precision: Precision = "single"
    """Of training steps. ``bfloat16``: the U-Nets run under autocast; data consistency, losses and weights stay single.
    Validation is always single."""
    compile: bool = False
    """Compile the U-Nets with ``torch.compile``; needs a C++ compiler, and pays in long trainings only."""
    memory_saver: bool = False
    """Recompute each block's activations in the backward pass: the same result for less memory and more time."""
    seed: int = Field(default=0, ge=0)

    @property
    def validated_epochs(self) -> tuple[int, ...]:
        """The epochs (from 1) after which the network is validated and reported, ascending."""
        if self.validate_at is None:
            return tuple(range(1, self.epochs + 1))
        return tuple(sorted({*self.validate_at, self.epochs}))

    @model_validator(mode="after")
    def _validated_epochs_fit(self) -> "TrainConfig":
        chosen = self.validate_at or ()
        for epoch in chosen:
            if not 1 <= epoch <= self.epochs:
                raise ValueError(f"validate_at names epoch {epoch}, where epochs go from 1 to {self.epochs}")
        if list(chosen) != sorted(set(chosen)):
            raise ValueError(f"validate_at ascends, found {list(chosen)}")
        return self

    @model_validator(mode="after")
    def _tasks_and_slices_agree(self) -> "TrainConfig":
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"each task is named once, found {', '.join(self.tasks)}")
        for task, count in self.slices.items():
            if task not in self.tasks:
                raise ValueError(f"slices names the task {task!r}, which is not among {', '.join(self.tasks)}")
            if count < 1:
                raise ValueError(f"slices of {task} must be at least 1, found {count}")
        return self
