"""The unrolled network: gradient steps on the data term, each with a U-Net. A layout says what tasks share.

With ``consistency='k-space'`` one block is that of fastMRI's end-to-end variational network (Sriram et al. 2020), as in
the public code of Liu et al. 2021:

    k ← k − η M(k − k₀) − F s U(Σ s̄ F⁻¹k)

with M the mask, s the maps, U the U-Net. Instead of the k-space of every coil we carry two images, x = Σ s̄ F⁻¹k and
v = Σ s̄ F⁻¹M(k − k₀), the gradient of the data term. With r = U(x), the same block reads

    x ← x − η v − Σ|s|² r,        v ← (1 − η) v − AᴴA r,        x₀ = Aᴴk₀, v₀ = 0,

which is equal in exact arithmetic, costs one pair of FFTs per block, and stores no multi-coil array for the gradient.
Its data term begins at zero, so it never moves the image by itself: it only takes back what a U-Net did to acquired
samples.

With ``consistency='image'`` a block is a gradient step on eq. 1 of the paper (Hammernik et al. 2018):

    x ← x − η v − Σ|s|² r,        v ← v − AᴴA (η v + Σ|s|² r),        x₀ = Aᴴk₀, v₀ = Aᴴ(A x₀ − k₀),

at the same cost. The factor Σ|s|², which the recursion above already contains, confines the image to the support of the
maps: the data could never correct what a U-Net adds where no coil is sensitive. The data term pulls the image towards
the data from the first block on, as a SENSE reconstruction does.

With ``consistency='accelerated'`` the step starts from y = x + β (x − x₋₁), where x₋₁ is the image one block before,
with one learnt β per block, which starts as Nesterov's k / (k + 3) (Beck and Teboulle 2009). The gradient at y is the
same combination of the gradients at x and x₋₁, so the cost is again one AᴴA per block. Untrained blocks come as near to
the data as many more plain steps.

With ``sense_steps`` the first block starts from a SENSE reconstruction in place of the zero-filled image: this many
accelerated steps with η = 1 and r = 0. Nothing in them is learnt, and no gradient flows through them. The first block
then takes over x and v (also with ``k-space``, whose data term begins at zero otherwise), and with ``accelerated`` dx
and dv; its β counts the steps before it. A block costs many times as much as such a step.

With several sets of maps (soft SENSE, ``recon.physics.operators``) x, v and r have one image per set. The U-Net runs on
each of them by itself, so the weights know nothing of the number of sets. The recursions stay as they are: the sets of
a pixel are orthonormal, so the maps that combine the coils turn Σ_j s_j r_j back into Σ|s_j|² r_j for each set j.

With ``zero_init`` the last convolution of every U-Net starts at zero and the image's mean is not added to its output,
so r = 0 and the untrained network is plain gradient descent on the data. fastMRI's normalised U-Net adds the mean:
zeroed, it would take the mean out of the image in one block and let the data put it back in the next. Without
``zero_init`` the blocks are fastMRI's.

``recon.training.loop`` holds losses and training, ``recon.physics.operators`` the operators.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recon.config import NetworkConfig, Precision
from recon.errors import InputError
from recon.network.layout import Layout
from recon.network.unet import MULTIPLE, Decoder, Encoder, UnetRunner, regularise, run_unet
from recon.physics.operators import Cartesian


class State(NamedTuple):
    """What one block hands to the next; each is (batch, rows, columns) or (batch, sets, rows, columns), complex."""

    x: Tensor
    """The image."""
    v: Tensor
    """The gradient of the data term."""
    dx: Tensor | None = None
    """What the last block added to the image; None where blocks are not accelerated."""
    dv: Tensor | None = None
    """What the last block added to the gradient; None where blocks are not accelerated."""


class Block(nn.Module):
    """One unrolled iteration: η and a U-Net, with one copy for all tasks or one copy per task.

    Args:
        kind: ``I``: encoder, decoder and η are shared; ``Y``: one decoder per task, the rest is shared; ``V``: one
            encoder, one decoder and one η per task.
        tasks: how many tasks there are.
        config: channels and poolings of the U-Net, how it starts, and the data consistency.
        number: the number of steps before this block: the steps of the SENSE start and the earlier blocks.

    Attributes:
        encoders, decoders, etas: one entry if shared, else one per task. η starts at 1.
        betas: the momenta of an accelerated block, as many as etas; empty in other blocks.
    """

    def __init__(self, kind: str, tasks: int, config: NetworkConfig, number: int) -> None:
        super().__init__()
        encoders = tasks if kind == "V" else 1
        decoders = tasks if kind in "YV" else 1
        self.encoders = nn.ModuleList(Encoder(config.channels, config.pools) for _ in range(encoders))
        self.decoders = nn.ModuleList(
            Decoder(config.channels, config.pools, zero_init=config.zero_init) for _ in range(decoders)
        )
        self.etas = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(encoders))
        momenta = encoders if config.consistency == "accelerated" else 0
        self.betas = nn.ParameterList(nn.Parameter(torch.tensor(nesterov(number))) for _ in range(momenta))
        self.restore_mean = not config.zero_init
        self.multiple = MULTIPLE if config.padding == "fastmri" else 2**config.pools
        self.in_kspace = config.consistency == "k-space"

    def path(self, task: int) -> tuple[nn.Module, nn.Module, nn.Parameter]:
        """The encoder, the decoder and the η that a task uses."""
        return _own(self.encoders, task), _own(self.decoders, task), _own(self.etas, task)

    def forward(self, state: State, operator: Cartesian, task: int, run: UnetRunner = run_unet) -> State:
        """One step of the recursions above, for the task with this number; ``run`` runs the U-Net."""
        encoder, decoder, eta = self.path(task)

        def unet(image: Tensor) -> Tensor:
            each = image.flatten(0, -3)  # the sets of maps are taken for further samples
            return regularise(encoder, decoder, each, self.restore_mean, self.multiple, run).view_as(image)

        x, v, dx, dv = state
        if self.in_kspace:
            r = unet(x)
            return State(x - eta * v - operator.coverage * r, (1 - eta) * v - operator.normal(r))
        if dx is None or dv is None:
            step = eta * v + operator.coverage * unet(x)
            return State(x - step, v - operator.normal(step))
        beta = _own(self.betas, task)
        dx, dv = beta * dx, beta * dv
        step = eta * (v + dv) + operator.coverage * unet(x + dx)
        dx, dv = dx - step, dv - operator.normal(step)
        return State(x + dx, v + dv, dx, dv)


class UnrolledNetwork(nn.Module):
    """Unrolled blocks in the order of a layout, for any number of tasks.

    Args:
        config: layout and U-Net.
        tasks: the names of the tasks; private parts are stored in this order.

    Attributes:
        config, tasks: as given.
        layout: the configuration's layout.
        blocks: one ``Block`` per letter of the layout.
    """

    def __init__(self, config: NetworkConfig, tasks: Sequence[str]) -> None:
        super().__init__()
        if not tasks or len(set(tasks)) != len(tasks):
            raise InputError(f"a network needs at least one task, each named once; found {list(tasks)}")
        self.config = config
        self.tasks = tuple(tasks)
        self.layout = Layout.parse(config.layout)
        self.blocks = nn.ModuleList(
            Block(kind, len(self.tasks), config, number)
            for number, kind in enumerate(self.layout.kinds, start=config.sense_steps)
        )
        self._run: UnetRunner = run_unet
        self._memory_saver = False

    def train_as(
        self, *, precision: Precision = "single", compile: bool = False, memory_saver: bool = False
    ) -> UnrolledNetwork:
        """Choose how this network runs in training mode; its weights and its evaluation mode stay the same.

        Args:
            precision: ``bfloat16`` runs the U-Nets under autocast. Data consistency, weights and output stay in single
                precision.
            compile: compile the U-Nets by ``torch.compile``: a minute or so when the first batch comes, then faster.
            memory_saver: do not store the activations of the U-Nets, but compute them again in the backward pass; the
                gradients are the same.

        Returns:
            the network.

        Raises InputError if ``compile`` is set and there is no C++ compiler.
        """
        run: UnetRunner = run_unet
        if compile:
            compiler = os.environ.get("CXX", "g++")
            if shutil.which(compiler) is None:
                raise InputError(
                    f"compile needs a C++ compiler, and {compiler} is not here: install it or leave it out"
                )
            run = torch.compile(run)
        self._run = _in_bfloat16(run) if precision == "bfloat16" else run
        self._memory_saver = memory_saver
        return self

    def forward(self, operator: Cartesian, kspace: Tensor, task: str) -> Tensor:
        """Reconstruct: the SENSE-combined image, (batch, rows, columns), complex.

        With several sets of maps there is one image per set, (batch, sets, rows, columns);
        ``recon.physics.operators.magnitude_of`` combines their magnitudes.

        Args:
            operator: maps and mask of the acquisition: ``Sense`` of centred k-space, ``ColumnSense`` of hybrid space.
            kspace: (batch, coils, rows, columns), complex, masked, in the operator's space.
            task: one of ``tasks``.

        Raises InputError if the network does not know the task.
        """
        number = self._number(task)
        state = self._start(operator, kspace)
        run = self._run if self.training else run_unet
        for block in self.blocks:
            if self._memory_saver and self.training:
                state = checkpoint(block, state, operator, number, run, use_reentrant=False, preserve_rng_state=False)
            else:
                state = block(state, operator, number, run)
        return state.x

    def _start(self, operator: Cartesian, kspace: Tensor) -> State:
        """The state before the first block: the zero-filled image or a SENSE reconstruction."""
        if self.config.consistency == "k-space" and not self.config.sense_steps:
            with torch.no_grad():
                x = operator.adjoint(kspace)
            return State(x, torch.zeros_like(x))
        start = sense_start(operator, kspace, self.config.sense_steps)
        return start if self.config.consistency == "accelerated" else State(start.x, start.v)

    def for_task(self, task: str) -> UnrolledNetwork:
        """The path that one task uses, as a network of that task alone (layout all I: a single-task network).

        It shares its parameters with this network; copy it to train it separately.
        """
        number = self._number(task)
        layout = f"I{len(self.blocks)}"
        with torch.device("meta"):
            network = UnrolledNetwork(self.config.model_copy(update={"layout": layout}), [task])
        for view, block in zip(network.blocks, self.blocks, strict=True):
            assert isinstance(view, Block)
            assert isinstance(block, Block)
            view.encoders[0], view.decoders[0], view.etas[0] = block.path(number)
            if block.betas:
                view.betas[0] = _own(block.betas, number)
        return network.train(self.training)

    def load_task(self, task: str, network: UnrolledNetwork) -> None:
        """Copy a single-task network's weights into the path of ``task``. Shared parts change for every task.

        Raises InputError if the two networks differ in blocks, data consistency, SENSE start or U-Net.
        """
        mine = self.for_task(task)
        if len(network.tasks) != 1 or network._describe() != mine._describe():
            raise InputError(
                f"the weights are those of {network._describe()} for {', '.join(network.tasks)}, "
                f"where {mine._describe()} for one task is wanted"
            )
        mine.load_state_dict(network.state_dict())

    def _describe(self) -> str:
        start = "zeroed" if self.config.zero_init else "fastMRI's"
        padded = "" if self.config.padding == "fastmri" else ", padded least"
        steps = f" after {self.config.sense_steps} SENSE steps" if self.config.sense_steps else ""
        return (
            f"{len(self.blocks)} blocks{steps} with {self.config.consistency} consistency and {start} U-Nets of "
            f"{self.config.channels} channels and {self.config.pools} poolings{padded}"
        )

    def _number(self, task: str) -> int:
        if task not in self.tasks:
            raise InputError(f"the network knows the tasks {', '.join(self.tasks)}; found {task!r}")
        return self.tasks.index(task)


@torch.no_grad()
def sense_start(operator: Cartesian, kspace: Tensor, steps: int) -> State:
    """Take accelerated gradient steps on the data term ½‖A x − k‖², from the zero-filled image Aᴴk.

    Args:
        operator: A, with ‖AᴴA‖ ≤ 1 so that a step size of 1 is safe (Σ|s|² ≤ 1 and orthonormal transforms).
        kspace: (batch, coils, rows, columns), masked, in the operator's space.
        steps: the number of steps; their momenta are k / (k + 3) (Beck and Teboulle 2009).
    """
    x = operator.adjoint(kspace)
    v = operator.normal(x) - x
    dx, dv = torch.zeros_like(x), torch.zeros_like(x)
    for number in range(steps):
        beta = nesterov(number)
        step = torch.add(v, dv, alpha=beta)
        dx.mul_(beta).sub_(step)
        dv.mul_(beta).sub_(operator.normal(step))
        x += dx
        v += dv
    return State(x, v, dx, dv)


def nesterov(number: int) -> float:
    """The momentum k / (k + 3) of the step that follows k steps (Beck and Teboulle 2009)."""
    return number / (number + 3)


def _own(copies: nn.ModuleList | nn.ParameterList, task: int) -> Any:
    """The task's own copy, or the shared one."""
    return copies[task if len(copies) > 1 else 0]


def _in_bfloat16(run: UnetRunner) -> UnetRunner:
    """The U-Net under autocast."""

    def under_autocast(encoder: nn.Module, decoder: nn.Module, image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, torch.bfloat16):
            return run(encoder, decoder, image)

    return under_autocast
