"""What a training step and an inference cost, ours against fastMRI's ``VarNetBlock`` chain with the same weights.

    python -m benchmarks.step --json
    python -m benchmarks.step --sizes a,c2 --rounds 5 --compile --json

A training step is forward pass, complex L1 loss, backward pass and one step of Adam (ours fused, fastMRI's as PyTorch
gives it), on the same k-space, maps and mask; blocks, channels, poolings and weights are the same, data consistency is
on k-space. An inference is a forward pass without gradient. Times are CPU seconds of one thread, medians over rounds in
which the variants alternate; ratios are medians of the rounds' ratios to fastMRI. Peak memory is what a process holds
at most during two training steps, beyond what it held after its imports, in a process of its own for each variant.
``convolutions`` runs the network's convolutions alone, forward and backward.

Needs ``fastmri``, which ``make test`` installs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import fastmri
import torch
from torch import Tensor, nn

from benchmarks.varnet import FastMRIChain
from recon.config import MaskConfig, NetworkConfig, TrainConfig, WeightingConfig
from recon.network.unrolled import UnrolledNetwork
from recon.physics.fourier import fft
from recon.physics.masks import fixed
from recon.physics.operators import ColumnSense, to_hybrid
from recon.training.loop import complex_l1
from recon.training.optimiser import make_optimiser
from recon.training.weighting import make_weighting

TASK = "only"


class Size(NamedTuple):
    """A network and its input."""

    batch: int
    coils: int
    rows: int
    columns: int
    blocks: int
    channels: int
    pools: int


SIZES = {
    "a": Size(2, 4, 56, 56, 12, 8, 1),
    "b": Size(1, 8, 56, 56, 12, 8, 1),
    "c": Size(1, 15, 320, 368, 12, 18, 4),
    "c2": Size(1, 15, 320, 368, 2, 18, 4),
}
"""The quickstart's networks, those of docs/paper.md, the paper's, and two blocks of the paper's."""

VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, least padding": {"network": {"padding": "least"}},
    "ours, memory saver": {"memory_saver": True},
    "ours, bfloat16": {"precision": "bfloat16"},
    "ours, compiled": {"compile": True},
}
"""Fields of TrainConfig that each changes."""

PEER = "fastmri"
CONVOLUTIONS = {
    "convolutions, contiguous": torch.contiguous_format,
    "convolutions, channels last": torch.channels_last,
}


class Runner(NamedTuple):
    """What is timed."""

    step: Callable[[], Any]
    infer: Callable[[], Any]


def problem(size: Size) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Masked centred k-space and maps (batch, coils, rows, columns), mask (batch, 1, 1, columns), target: noise."""
    generator = torch.Generator().manual_seed(0)
    batch, coils, rows, columns = size[:4]
    maps = torch.randn(batch, coils, rows, columns, generator=generator, dtype=torch.complex64)
    maps /= maps.abs().square().sum(1, keepdim=True).sqrt()
    target = torch.randn(batch, rows, columns, generator=generator, dtype=torch.complex64)
    keep = torch.from_numpy(fixed(MaskConfig(), (rows, columns)).kept.copy()).expand(batch, 1, 1, columns)
    return fft(maps * target[:, None]) * keep, maps, keep, target


def configuration(size: Size, variant: str) -> TrainConfig:
    """The training that a variant means at a size."""
    changed = {name: value for name, value in VARIANTS.get(variant, {}).items() if name != "network"}
    network = NetworkConfig(
        layout=f"I{size.blocks}",
        channels=size.channels,
        pools=size.pools,
        zero_init=False,
        **VARIANTS.get(variant, {}).get("network", {}),
    )
    return TrainConfig(tasks=(TASK,), network=network, weighting=WeightingConfig(kind="equal"), **changed)


def ours(config: TrainConfig) -> UnrolledNetwork:
    """Our network, with the same weights whatever the variant."""
    torch.manual_seed(0)
    network = UnrolledNetwork(config.network, config.tasks).train()
    return network.train_as(precision=config.precision, compile=config.compile, memory_saver=config.memory_saver)


def runner(size: Size, variant: str) -> Runner:
    """A variant's training step and inference at a size."""
    kspace, maps, mask, target = problem(size)
    crop = (size.rows, size.columns)
    config = configuration(size, variant)
    network: nn.Module
    forward: Callable[[], Tensor]
    optimiser: torch.optim.Optimizer
    if variant == PEER:
        network = chain = FastMRIChain.like(ours(config))
        inputs = (torch.view_as_real(kspace), mask[..., None], torch.view_as_real(maps))
        forward = partial(chain, *inputs)
        optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    else:
        network = unrolled = ours(config)
        hybrid, folded = to_hybrid(kspace, maps)

        def through() -> Tensor:
            # The operator belongs to what a batch costs, so it is made anew each time.
            result: Tensor = unrolled(ColumnSense(folded, mask), hybrid, TASK)
            return result

        forward = through
        optimiser = make_optimiser(config, unrolled, make_weighting(config.weighting, config.tasks, {TASK: 1}))

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        complex_l1(forward(), target, crop).backward()
        optimiser.step()

    @torch.no_grad()
    def infer() -> Tensor:
        return forward()

    return Runner(step, infer)


def convolutions(size: Size, order: torch.memory_format) -> Runner:
    """All convolutions of a network, in order, each on noise of the size that it sees there."""
    network = ours(configuration(size, "ours"))
    found: list[tuple[nn.Module, torch.Size, torch.Size]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((module, inputs[0].shape, output.shape))

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(note)
    kspace, maps, mask, _ = problem(size)
    hybrid, folded = to_hybrid(kspace, maps)
    whole = patch("recon.network.unet.memory_format", lambda image: torch.contiguous_format)  # no convolution in parts
    with torch.no_grad(), whole:
        network(ColumnSense(folded, mask), hybrid, TASK)
    for module, _, _ in found:
        module._forward_hooks.clear()
        module.to(memory_format=order)
    noise = {
        shape: torch.randn(shape).contiguous(memory_format=order) for shape in {s for _, *both in found for s in both}
    }

    def step() -> None:
        for module, before, after in found:
            x = noise[before].requires_grad_()
            torch.autograd.grad(module(x), (x, *module.parameters()), noise[after].detach())

    @torch.no_grad()
    def infer() -> None:
        for module, before, _ in found:
            module(noise[before])

    return Runner(step, infer)


def seconds(action: Callable[[], Any]) -> float:
    """CPU seconds that it takes."""
    began = time.process_time()
    action()
    return time.process_time() - began


def memory(field: str) -> int:
    """Bytes that this process holds (``VmRSS``) or held at most (``VmHWM``); Linux alone tells."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def peak(size: Size, variant: str) -> int:
    """Peak bytes of two training steps, over what this process held before."""
    before = memory("VmRSS")
    step = runner(size, variant).step
    with open("/proc/self/clear_refs", "w", encoding="ascii") as reset:
        reset.write("5")  # VmHWM, which imports may have driven higher, starts again
    step()
    step()
    return memory("VmHWM") - before


def peak_alone(name: str, variant: str) -> int:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.step", "--sizes", name, "--peak", variant]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(name: str, variants: list[str], rounds: int) -> dict[str, Any]:
    """Every variant at a size: seconds of a step and an inference, ratios to fastMRI, memory, difference of outputs."""
    size = SIZES[name]
    runners = {variant: runner(size, variant) for variant in (PEER, *variants)}
    outputs = {variant: one.infer() for variant, one in runners.items()}  # before the first step changes the weights
    scale = outputs[PEER].abs().max()
    differences = {variant: float((output - outputs[PEER]).abs().max() / scale) for variant, output in outputs.items()}
    del outputs
    runners |= {variant: convolutions(size, order) for variant, order in CONVOLUTIONS.items()}
    for one in runners.values():
        one.step()
    steps: dict[str, list[float]] = {variant: [] for variant in runners}
    inferences: dict[str, list[float]] = {variant: [] for variant in runners}
    for _ in range(rounds):
        for variant, one in runners.items():
            steps[variant].append(seconds(one.step))
            inferences[variant].append(seconds(one.infer))
    peaks = {variant: peak_alone(name, variant) for variant in (PEER, *variants)}
    return {
        variant: {
            "step_seconds": round(statistics.median(steps[variant]), 4),
            "step_ratio": ratio(steps[variant], steps[PEER]),
            "inference_seconds": round(statistics.median(inferences[variant]), 4),
            "inference_ratio": ratio(inferences[variant], inferences[PEER]),
        }
        | (
            {
                "peak_bytes": peaks[variant],
                "peak_ratio": round(peaks[variant] / peaks[PEER], 3),
                "largest_difference": differences[variant],
            }
            if variant in peaks
            else {}
        )
        for variant in runners
    }


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the rounds' ratios."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="a,b,c2", help=f"some of {', '.join(SIZES)}")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too (minutes at first)")
    parser.add_argument("--peak", metavar="VARIANT", help=argparse.SUPPRESS)  # the process of peak_alone
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.sizes.split(",")
    if not set(names) <= set(SIZES):
        parser.error(f"sizes are some of {', '.join(SIZES)}; found {options.sizes}")
    if options.peak:
        print(peak(SIZES[names[0]], options.peak))
        return
    variants = [variant for variant in VARIANTS if options.compile or not VARIANTS[variant].get("compile")]
    found = {name: measure(name, variants, options.rounds) for name in names}
    about = {"rounds": options.rounds, "threads": 1, "torch": torch.__version__, "fastmri": fastmri.__version__}
    if options.json:
        print(json.dumps({"sizes": found, **about}))
        return
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    for name, rows in found.items():
        print(f"\n{name}: {SIZES[name]}")
        heads = {"step, s": 10, "ratio": 8, "inference, s": 14, "ratio ": 8, "peak, MB": 10, " ratio": 8, "differs": 10}
        print(" " * 30 + "".join(f"{head.strip():>{width}}" for head, width in heads.items()))
        for variant, row in rows.items():
            line = f"{variant:30}{row['step_seconds']:10.4f}{row['step_ratio']:8.3f}"
            line += f"{row['inference_seconds']:14.4f}{row['inference_ratio']:8.3f}"
            if "peak_bytes" in row:
                line += f"{row['peak_bytes'] / 1e6:10.0f}{row['peak_ratio']:8.3f}{row['largest_difference']:10.0e}"
            print(line)


if __name__ == "__main__":
    main()
