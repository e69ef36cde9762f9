"""The optimiser of a training: Adam, AdamW, or Muon for the U-Nets' convolutions with Adam for the rest.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces a matrix's momentum by the nearest orthogonal
matrix, approximately, so that every direction of the weight moves alike. PyTorch's Muon takes one two-dimensional
parameter at a time and computes in bfloat16. Ours takes convolutions, and all weights of one shape together, in their
own precision; a test compares it with PyTorch's. Adam runs in PyTorch's fused kernel. ``recon.training.loop`` makes the
schedules of the rates.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adam import adam

from recon.config import TrainConfig

BETAS = (0.9, 0.999)
"""Adam's betas (its authors' values)."""
MOMENTUM = 0.95
"""Muon's momentum (its authors' value)."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the Newton-Schulz iteration X ← aX + b(XXᵀ)X + c(XXᵀ)²X (Jordan et al. 2024)."""
ITERATIONS = 5
TINY = 1e-7


class GroupedOptimiser(Optimizer):
    """An optimiser that steps each group of parameters by the group's own ``method``: ``adam``, ``adamw`` or ``muon``.

    It is one optimiser so that one schedule drives the rates of all groups. PyTorch's ``step`` and the methods named
    below import PyTorch's compiler on their first call (.9 s of CPU and 72 MB in every worker); ours do not.

    Args:
        groups: dictionaries with ``params``, ``lr``, ``method``, and ``weight_decay`` if it is not 0. Parameters of
            a ``muon`` group are weights of convolutions, (out, in, rows, columns) or, transposed, (in, out, rows,
            columns), the latter in a group with ``transposed=True``. An Adam group with ``constant_rate`` uses that
            rate and Adam's first betas, whatever a schedule does to ``lr``.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        defaults = {"lr": 1e-3, "betas": BETAS, "weight_decay": 0.0, "method": "adam", "transposed": False}
        super().__init__(list(groups), {**defaults, "constant_rate": None})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moved:
                continue
            if group["method"] == "muon":
                self._muon(group, moved)
            else:
                self._adam(group, moved)

    def _adam(self, group: dict[str, Any], moved: list[Tensor]) -> None:
        for parameter in moved:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in moved]
        scheduled = group["constant_rate"] is None
        rate, betas = (group["lr"], group["betas"]) if scheduled else (group["constant_rate"], BETAS)
        adam(
            moved,
            [parameter.grad for parameter in moved],  # type: ignore[misc]  # those without one were left out
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=rate,
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
            decoupled_weight_decay=group["method"] == "adamw",
        )

    def _muon(self, group: dict[str, Any], moved: list[Tensor]) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for parameter in moved:
            by_shape.setdefault(parameter.shape, []).append(parameter)
            if not self.state[parameter]:
                self.state[parameter] = {"momentum": torch.zeros_like(parameter)}
        for shape, parameters in by_shape.items():
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            momenta = [self.state[parameter]["momentum"] for parameter in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            # Nesterov's momentum looks one step ahead.
            ahead = torch.stack(gradients).lerp(torch.stack(momenta), MOMENTUM).flatten(2)
            # The convolution as a matrix with one row per output channel.
            update = orthogonal(ahead.mT if group["transposed"] else ahead)
            rate = group["lr"] * math.sqrt(max(1.0, update.shape[-2] / update.shape[-1]))
            if group["transposed"]:
                update = update.mT
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, list(update.reshape(-1, *shape).unbind()), alpha=-rate)


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest orthogonal matrix of each, (…, rows, columns) → the same: singular values between .7 and 1.2.

    Five Newton-Schulz iterations on the matrix divided by its Frobenius norm (Jordan et al. 2024).
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=TINY)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def make_optimiser(config: TrainConfig, network: nn.Module, weighting: nn.Module | None = None) -> GroupedOptimiser:
    """The optimiser of a configuration, for the network and for the parameters that its weighting learns.

    With ``muon``, Muon steps the weights of convolutions, and Adam all else (biases, step sizes, momenta). Adam also
    steps the 1×1 convolutions that end a U-Net: an output layer wants Adam (Jordan et al. 2024), and with ``zero_init``
    the first step should follow the size of the gradient. The weighting's parameters are an Adam group of their own,
    with a constant rate if the configuration gives one.
    """
    method = "adamw" if config.optimiser == "adamw" else "adam"
    decay = 0.0 if config.optimiser == "adam" else config.weight_decay
    convolutions: list[Tensor] = []
    transposed: list[Tensor] = []
    if config.optimiser == "muon":
        convolutions = [
            module.weight
            for module in network.modules()
            if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
        ]
        transposed = [module.weight for module in network.modules() if isinstance(module, nn.ConvTranspose2d)]
    taken = {id(parameter) for parameter in (*convolutions, *transposed)}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in taken]
    muon = {"method": "muon", "lr": config.muon_learning_rate, "weight_decay": decay}
    groups: list[dict[str, Any]] = [
        {"params": convolutions, **muon},
        {"params": transposed, **muon, "transposed": True},
        {
            "params": rest,
            "method": method,
            "lr": config.learning_rate,
            "weight_decay": decay if method == "adamw" else 0.0,
        },
        {
            "params": list(weighting.parameters()) if weighting is not None else [],
            "method": "adam",
            "lr": config.learning_rate,
            "constant_rate": config.weighting.log_variance_learning_rate,
        },
    ]
    return GroupedOptimiser(group for group in groups if group["params"])
