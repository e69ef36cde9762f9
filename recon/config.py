"""The typed configuration of one training: what a checkpoint, a bundle and a trial record carry.

Every default is the paper's (Liu et al. 2021) or, where the paper is silent, its public code's
(github.com/liuvictoria/multiTaskLearning), and says which; a default that is ours says so.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from recon.network.layout import Layout

WeightingKind = Literal["naive", "uncertainty", "dwa", "equal"]
Consistency = Literal["k-space", "image", "accelerated"]
Padding = Literal["fastmri", "least"]
Optimiser = Literal["adam", "adamw", "muon"]
Precision = Literal["single", "bfloat16"]
MaskKind = Literal["equispaced-fraction", "equispaced", "random", "poisson-disc", "random-points", "file"]


class Config(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def field_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The fields of a model by dotted name, those of models inside it in their place."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += field_names(inner, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


class MaskConfig(Config):
    """What undersampled k-space keeps; several accelerations or centre fractions mean a draw among them."""

    kind: MaskKind = "equispaced-fraction"
    """Pattern of the sampled phase-encode lines, or of the samples where both axes are phase-encode directions.

    ``equispaced-fraction``: a fully sampled centre and equally spaced lines beside it, so that all lines together reach
    the acceleration (fastMRI's ``EquispacedMaskFractionFunc``). ``equispaced``: every R-th line, and the centre in
    addition. ``random``: the centre and random lines. ``poisson-disc``, for three-dimensional scans: the centre and a
    variable-density Poisson disc of single samples, denser towards the centre. ``random-points``, likewise: the centre
    and random samples. ``file``: the mask that ``path`` holds.
    """
    accelerations: tuple[float, ...] = Field(default=(6.0,), min_length=1)
    """Accelerations R to draw from: all phase-encode lines (or samples) over sampled ones."""
    centre_fractions: tuple[float, ...] = Field(default=(0.06,), min_length=1)
    """Centre fractions to draw from: the fully sampled share of the lines.

    Of masks of single samples: the share f of the rows and of the columns, so that the centre is f² of the plane.
    """
    seed: int = Field(default=0, ge=0)
    """Seed of a fixed mask, as validation and test use it.

    Training masks are drawn from the seed of the training instead.
    """
    path: str | None = None
    """Path of a mask file, for kind ``file`` only.

    The file is a NumPy array (``.npy``) of zeros and ones: one number per column of k-space, or (rows, columns).
    """

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
    """Masks of training: a new draw for every slice and epoch."""
    val: MaskConfig = MaskConfig(accelerations=(6.0,), centre_fractions=(0.06,))
    """Mask of validation: one fixed mask for all slices of a shape."""
    test: MaskConfig = MaskConfig(accelerations=(6.0,), centre_fractions=(0.07,))
    """Mask of the final test: one fixed mask for all slices of a shape."""

    @field_validator("val", "test")
    @classmethod
    def _fixed(cls, value: MaskConfig) -> MaskConfig:
        if len(value.accelerations) != 1 or len(value.centre_fractions) != 1:
            raise ValueError("validation and test masks are fixed: give one acceleration and one centre fraction")
        return value


class NetworkConfig(Config):
    """The unrolled network: its layout (I shared, Y multi-head, V split) and the U-Net of a block."""

    layout: str = "I12"
    """Kinds of the blocks in their order, such as I2V10 (I shared, Y multi-head, V split)."""
    channels: int = Field(default=18, ge=1)
    """Number of channels of each U-Net's first layer."""
    pools: int = Field(default=4, ge=1)
    """Number of poolings in each U-Net."""
    consistency: Consistency = "k-space"
    """Kind of data consistency in each block.

    ``k-space``: on the k-space of the coils, as in fastMRI's variational network and the paper's public code.
    ``image``: a gradient step on the image, x - eta A^H (A x - k) - U(x), as in the paper's eq. 1. ``accelerated``:
    that step with a learnt momentum, which starts as Nesterov's.
    """
    sense_steps: int = Field(default=0, ge=0)
    """Number of accelerated data-consistency steps before the first block.

    They have no U-Net, learn nothing, and pass no gradient. The momenta of accelerated blocks count on from there. 0 is
    the paper's network.
    """
    padding: Padding = "fastmri"
    """Size to which each U-Net pads its images.

    ``fastmri``: a multiple of 16, whatever the number of poolings, as fastMRI's weights expect. ``least``: a multiple
    of 2^pools. That is faster. It is another network where the sizes are no multiples of 16.
    """
    zero_init: bool = True
    """Start the last convolution of each U-Net at zero, and add no mean to its output.

    The untrained network is then plain gradient descent. False is fastMRI's U-Net, which the paper's public code uses.
    """

    @field_validator("layout")
    @classmethod
    def _parses(cls, value: str) -> str:
        return str(Layout.parse(value))


class WeightingSettings(Config):
    """How a weighting weights, whichever it is.

    These defaults are ours: with them weightings weight as meant in short trainings too (docs/decisions.md). The
    paper's code is ``ratios: epochs, temperature: 2, log_variance_start: -0.5, log_variance_learning_rate: null,
    constant_sum: false``.
    """

    ratios: Literal["smoothed", "epochs"] = "smoothed"
    """Ratios of losses that DWA compares.

    ``smoothed``: of running means over two and over four epochs. ``epochs``: of the means of the last two epochs (Liu,
    Johns, Davison 2019).
    """
    temperature: float = Field(default=0.05, gt=0)
    """Temperature of DWA's softmax over the ratios.

    The authors of DWA take 2, with the ratios of ``epochs``.
    """
    log_variance_start: float | Literal["loss"] = "loss"
    """Start of uncertainty weighting's learnt s = log sigma^2.

    ``loss``: each task starts at the log of its first loss. A number: all tasks start there (the paper's public code:
    -0.5).
    """
    log_variance_learning_rate: float | None = Field(default=0.03, gt=0)
    """Adam's learning rate for the s of uncertainty weighting.

    The schedule does not change this rate. None: the network's learning rate with its schedule, as in the paper's
    public code.
    """
    constant_sum: bool = True
    """Scale the weights of T tasks so that they add up to T.

    A weighting then moves the tasks against each other, and does not change the size of a step against ``clip_norm``.
    False: the weights are those of each formula.
    """


class WeightingConfig(WeightingSettings):
    """How the tasks' losses are weighted (paper, section 2.2)."""

    kind: WeightingKind = "naive"
    """Weighting of the tasks' losses: naive, uncertainty, dwa or equal."""


class TrainConfig(Config):
    """One training, whole: with the prepared data it determines the result."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Names of the tasks that the network is trained on."""
    network: NetworkConfig = NetworkConfig()
    """The unrolled network."""
    weighting: WeightingConfig = WeightingConfig()
    """Weighting of the tasks' losses."""
    slices: dict[str, int] = {}
    """Number of training slices of a task, by the task's name.

    A task that is not named uses all slices that it has.
    """
    cut: Literal["volumes", "slices"] = "volumes"
    """Way to cut a task to its number of slices.

    ``volumes``: whole volumes first, as the paper did. ``slices``: slices at random.
    """
    masks: MasksConfig = MasksConfig()
    """Undersampling masks of training, validation and test."""
    epochs: int = Field(default=120, ge=1)
    """Number of epochs."""
    passes: int = Field(default=1, ge=1)
    """Passes over the training slices in one epoch.

    More than one gives few slices as many steps as many slices have.
    """
    validate_at: tuple[int, ...] | None = None
    """Epochs after which the network is validated and reported, in ascending order.

    The network is always validated after the last epoch. None: after every epoch.
    """
    batch_size: int = Field(default=1, ge=1)
    """Number of slices in a batch."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Adam's learning rate.

    With ``muon`` it is the rate of all weights but the convolutions inside the U-Nets.
    """
    optimiser: Optimiser = "adam"
    """Optimiser of the weights: adam, adamw or muon.

    ``muon`` steps the convolutions inside the U-Nets by Muon and all other weights by Adam
    (``recon.training.optimiser``).
    """
    muon_learning_rate: float = Field(default=0.01, gt=0)
    """Muon's learning rate; only ``muon`` uses it."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of ``adamw`` and ``muon``; ``adam`` has none."""
    schedule: Literal["constant", "one-cycle", "cosine"] = "constant"
    """Course of the learning rates over the training.

    ``constant``: the same rate in every step. ``one-cycle``: up to the given rate and down again. ``cosine``: from the
    given rate down to zero along a half cosine.
    """
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; a larger gradient is scaled down to it.

    None: no clipping.
    """
    precision: Precision = "single"
    """Precision of training steps: single or bfloat16.

    ``bfloat16``: the U-Nets run under autocast. Data consistency, losses and weights stay single. Validation is always
    single.
    """
    compile: bool = False
    """Compile the U-Nets with ``torch.compile``.

    This needs a C++ compiler, and pays in long trainings only.
    """
    memory_saver: bool = False
    """Recompute the activations of each block in the backward pass.

    The result is the same. The training needs less memory and more time.
    """
    seed: int = Field(default=0, ge=0)
    """Seed of the first weights, the order of slices and the training masks."""

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
