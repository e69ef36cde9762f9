"""How fast our chain of unrolled blocks is against fastMRI's ``VarNetBlock`` chain with the same weights.

    python -m benchmarks.block --json
    python -m benchmarks.block --rows 320 --columns 368 --coils 15 --blocks 1 --channels 18 --pools 4 --batch 1 --json

Both run forward and backward of an L1 loss on the SENSE-combined image, in turns, so that a busy machine slows both.
Needs ``fastmri``, which ``make test`` installs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import fastmri
import torch
from torch import Tensor, nn

from benchmarks.varnet import FastMRIChain
from recon.config import MaskConfig, NetworkConfig
from recon.data.loading import Batch
from recon.fourier import fft
from recon.masks import fixed
from recon.operators import to_hybrid
from recon.unrolled import UnrolledNetwork

TASK = "only"


def problem(batch: int, coils: int, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Masked centred k-space and maps (batch, coils, rows, columns), mask (batch, 1, 1, columns), target: noise."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(batch, coils, rows, columns, generator=generator, dtype=torch.complex64)
    maps /= maps.abs().square().sum(1, keepdim=True).sqrt()
    target = torch.randn(batch, rows, columns, generator=generator, dtype=torch.complex64)
    keep = torch.from_numpy(fixed(MaskConfig(), columns).columns).expand(batch, 1, 1, columns)
    return fft(maps * target[:, None]) * keep, maps, keep, target


def medians(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each step, run in turns, after a first round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for count in range(rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if count:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}


def measure(
    *, rows: int, columns: int, coils: int, blocks: int, channels: int, pools: int, batch: int, rounds: int
) -> dict[str, Any]:
    """Median seconds of one training step's forward and backward pass, ours and fastMRI's, and how far they differ."""
    torch.manual_seed(0)
    config = NetworkConfig(layout=f"I{blocks}", channels=channels, pools=pools, zero_init=False)
    ours = UnrolledNetwork(config, [TASK])
    theirs = FastMRIChain.like(ours)
    kspace, maps, mask, target = problem(batch, coils, rows, columns)
    hybrid = Batch(
        *to_hybrid(kspace, maps), mask, target, TASK, torch.ones(batch), (rows, columns), tuple(range(batch))
    )
    real = torch.view_as_real(kspace), mask[..., None], torch.view_as_real(maps)

    with torch.no_grad():
        a, b = ours(hybrid, TASK), theirs(*real)

    def train(network: nn.Module, *inputs: Any) -> Callable[[], None]:
        def step() -> None:
            network.zero_grad()
            torch.view_as_real(network(*inputs) - target).abs().mean().backward()

        return step

    seconds = medians({"ours": train(ours, hybrid, TASK), "fastmri": train(theirs, *real)}, rounds)
    return {
        "ours_seconds": round(seconds["ours"], 4),
        "fastmri_seconds": round(seconds["fastmri"], 4),
        "speed_ratio": round(seconds["fastmri"] / seconds["ours"], 2),
        "largest_difference": float((a - b).abs().max() / b.abs().max()),
    }


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"rows": 64, "columns": 64, "coils": 8, "blocks": 12, "channels": 8, "pools": 2, "batch": 4, "rounds": 7}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = vars(parser.parse_args())
    as_json, threads = options.pop("json"), options.pop("threads")
    torch.set_num_threads(threads)
    result = measure(**options)
    about = {**options, "threads": threads, "torch": torch.__version__, "fastmri": fastmri.__version__}
    if as_json:
        print(json.dumps({**result, **about}))
        return
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(f"ours     {result['ours_seconds']:8.4f} s\nfastMRI  {result['fastmri_seconds']:8.4f} s")
    print(f"fastMRI takes {result['speed_ratio']} times as long; outputs differ by {result['largest_difference']:.1e}")


if __name__ == "__main__":
    main()
