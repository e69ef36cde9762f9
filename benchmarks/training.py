"""What the training's choices are worth: one choice changed at a time, at equal budget, over seeds.

    python -m benchmarks.training --data PREPARED --fresh OTHER --out training.jsonl --workers 2
    python -m benchmarks.training --out training.jsonl --json
    python -m benchmarks.training --out training.jsonl --only "batch size 2" --only "peak rate 6e-3"

Budget: passes over the training slices, so every variant sees each slice as often. Trained are single-task networks on
all slices of the abundant task, and on N of the scarce one; judged on the validation split (SSIM, definition
``paper``), or with ``--fresh`` on the training and validation slices of another prepared set, which no network was
trained on. The base is the STL of ``--space``; each other line changes what it names. Results are appended to
``--out`` as they come, and the same command again runs only what is missing; without ``--data`` it runs nothing and
summarises what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.noise import unseen
from recon.config import TrainConfig
from recon.data.prepared import PreparedData
from recon.network.unet import MULTIPLE, UnetRunner, run_unet
from recon.training.loop import TrainingError, train
from search.results.text import plain_table
from search.run.parallel import side_by_side
from spaces.reading import load_space

SPACE = "spaces/paper-small.yaml"
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "constant rate": {"schedule": "constant"},
    "constant rate 1e-3": {"schedule": "constant", "learning_rate": 1e-3},
    "constant rate 2e-4 (the paper's code)": {"schedule": "constant", "learning_rate": 2e-4, "clip_norm": None},
    "cosine": {"schedule": "cosine"},
    "peak rate 1e-3": {"learning_rate": 1e-3},
    "peak rate 6e-3": {"learning_rate": 6e-3},
    "no clipping": {"clip_norm": None},
    "clipping at 0.1": {"clip_norm": 0.1},
    "batch size 2": {"batch_size": 2},
    "batch size 4": {"batch_size": 4},
    "Adam, peak rate 3e-3": {"optimiser": "adam"},
    "Adam, peak rate 1e-2": {"optimiser": "adam", "learning_rate": 1e-2},
    "AdamW, decay 0.01": {"optimiser": "adamw", "weight_decay": 1e-2},
    "Muon 0.005": {"optimiser": "muon", "muon_learning_rate": 0.005},
    "Muon 0.01": {"optimiser": "muon", "muon_learning_rate": 0.01},
    "Muon 0.02": {"optimiser": "muon", "muon_learning_rate": 0.02},
    "Muon 0.04": {"optimiser": "muon", "muon_learning_rate": 0.04},
    "no SENSE start": {"network": {"sense_steps": 0}},
    "SENSE start, 8 steps": {"network": {"sense_steps": 8}},
    "SENSE start, 15 steps": {"network": {"sense_steps": 15}},
    "SENSE start, 30 steps": {"network": {"sense_steps": 30}},
    "SENSE start, 60 steps": {"network": {"sense_steps": 60}},
    "no SENSE start, Adam": {"optimiser": "adam", "network": {"sense_steps": 0}},
    "padding to a multiple of 16 (fastMRI's)": {"network": {"padding": "fastmri"}},
    "start: PyTorch's, and the mean added (fastMRI's U-Net)": {"network": {"zero_init": False}},
    "consistency: image (eq. 1)": {"network": {"consistency": "image"}},
    "consistency: k-space (fastMRI's)": {"network": {"consistency": "k-space"}},
    "consistency: k-space, fastMRI's U-Net": {"network": {"consistency": "k-space", "zero_init": False}},
    "no normalisation of the U-Net's input": {"normalise": False},
}
"""What each changes; ``normalise`` is of this benchmark alone, the rest are fields of TrainConfig."""


def unnormalised(
    encoder: nn.Module,
    decoder: nn.Module,
    x: Tensor,
    restore_mean: bool = True,
    multiple: int = MULTIPLE,
    run: UnetRunner = run_unet,
) -> Tensor:
    """In place of ``recon.network.unet.regularise``: the U-Net on the image as it is, in units of its volume's scale.

    Args:
        encoder: an Encoder.
        decoder: its Decoder.
        x: (batch, rows, columns), complex.
        restore_mean: nothing was taken away, so nothing is restored.
        multiple, run: those of ``regularise``.
    """
    rows, columns = x.shape[-2:]
    planes = F.pad(torch.view_as_real(x).permute(0, 3, 1, 2), (0, -columns % multiple, 0, -rows % multiple))
    image = run(encoder, decoder, planes)[..., :rows, :columns]
    return torch.view_as_complex(image.permute(0, 2, 3, 1).contiguous())


@lru_cache(maxsize=1)
def opened(path: str) -> PreparedData:
    """The data; a process opens them once."""
    return PreparedData(Path(path))


LABELS = ("variant", "task", "n", "seed", "hash", "fresh")


def identity(line: dict[str, Any]) -> str:
    """Of a training: its labels and its whole configuration."""
    return json.dumps([*(line.get(name) for name in LABELS), line["config"]], sort_keys=True)


def jobs(
    named: str, data: Path, fresh: Path | None, count: int, seeds: int, variants: list[str]
) -> Iterator[dict[str, Any]]:
    """Every training: a variant, a task, an N, a seed."""
    available = {task: len(opened(str(data)).subset(task)) for task in opened(str(data)).tasks}
    space = load_space(named).on(available, str(data))
    assert space.scarce is not None
    for seed in range(seeds):
        for variant in variants:
            for task in space.tasks:
                slices = count if task == space.scarce.task else None
                config = space.reference_config("stl", task, slices, seed).model_dump()
                config["validate_at"] = (config["epochs"],)
                changed = {name: value for name, value in VARIANTS[variant].items() if name != "normalise"}
                config["network"] |= changed.pop("network", {})
                yield {
                    "data": str(data),
                    "fresh": None if fresh is None else str(fresh),
                    "config": TrainConfig.model_validate(config | changed).model_dump(mode="json"),
                    "normalise": VARIANTS[variant].get("normalise", True),
                    "labels": {
                        "variant": variant,
                        "task": task,
                        "n": slices or available[task],
                        "seed": seed,
                        "hash": opened(str(data)).hash[:12],
                        "fresh": opened(str(fresh)).hash[:12] if fresh else None,
                    },
                }


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One training; its SSIM after the last epoch, None where the loss was no longer finite."""
    torch.set_num_threads(1)
    config = TrainConfig.model_validate(job["config"])
    swap: AbstractContextManager[Any] = (
        nullcontext() if job["normalise"] else patch("recon.network.unrolled.regularise", unnormalised)
    )
    found: dict[str, Any] = {"ssim": None}
    began = time.process_time()
    with swap:
        try:
            network = train(config, opened(job["data"]), device="cpu", report=lambda epoch: found.update(epoch.metrics))
            found["cpu_seconds"] = time.process_time() - began
            if job["fresh"] is not None:
                (slices,) = unseen(network, opened(job["fresh"]), config).values()
                found["ssim"] = float(np.mean(slices["ssim"]))
        except TrainingError as error:
            found = {"ssim": None, "error": str(error)}
    kept = {name: found[name] for name in ("ssim", "cpu_seconds", "error") if name in found}
    return {**job["labels"], "config": job["config"], **kept}


def summary(lines: pd.DataFrame) -> pd.DataFrame:
    """One line per variant: mean SSIM on each problem over the seeds whose loss stayed finite, and its difference from
    the base, paired by seed, ± its standard error over seeds."""
    problems = [f"{task} {n}" for task, n in lines[["task", "n"]].drop_duplicates().itertuples(index=False)]
    keyed = lines.assign(problem=lines["task"] + " " + lines["n"].astype(str))
    scores = keyed.pivot(index=["variant", "seed"], columns="problem", values="ssim").astype(float)
    # Lines of an earlier version have wall seconds instead.
    seconds = keyed.groupby("variant")["cpu_seconds"].mean() if "cpu_seconds" in keyed else None
    rows = []
    for variant in dict.fromkeys(lines["variant"]):
        mine = scores.loc[variant]
        row: dict[str, Any] = {"variant": variant, "seeds": int(mine.notna().all(axis=1).sum())}
        for problem in problems:
            row[problem] = round(mine[problem].mean(), 4)
        for problem in problems if variant != "base" and "base" in scores.index else ():
            paired = (mine - scores.loc["base"])[problem].dropna()
            error = f" ± {paired.sem():.4f}" if len(paired) > 1 else ""
            row[f"{problem} minus base"] = f"{paired.mean():+.4f}{error}" if len(paired) else ""
        if seconds is not None:
            row["CPU seconds"] = round(seconds[variant], 1)
        rows.append(row)
    return pd.DataFrame(rows).astype(object).fillna("–")


def main() -> None:
    """Parse the command line, run what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default=SPACE, help="whose STL is the base")
    parser.add_argument("--data", type=Path, help="prepared data set; without it nothing is run")
    parser.add_argument(
        "--fresh", type=Path, help="another prepared set, whose training and validation slices judge instead"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, a training each")
    parser.add_argument("--n", type=int, default=10, help="of the scarce task")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", action="append", choices=list(VARIANTS), help="this variant; repeatable")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    given = parser.parse_args()
    stored = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.is_file() else []
    lines = stored
    if given.data is not None:
        found = jobs(given.space, given.data, given.fresh, given.n, given.seeds, given.only or list(VARIANTS))
        wanted = {identity({**job["labels"], "config": job["config"]}): job for job in found}
        known = {identity(line): line for line in stored}
        missing = [job for key, job in wanted.items() if key not in known]
        with side_by_side(given.workers) as mapped, given.out.open("a") as file:
            for count, line in enumerate(mapped(run, missing), start=1):
                known[identity(line)] = line
                print(json.dumps(line), file=file, flush=True)
                print(f"{count} of {len(missing)}: {line['variant']}, {line['task']}", file=sys.stderr)
        # What is there of other data or of another base is no match for these.
        lines = [known[key] for key in wanted]
    if not lines:
        parser.error(f"{given.out} holds no trainings yet; give --data")
    if len({tuple(line[name] for name in LABELS[:4]) for line in lines}) < len(lines):
        parser.error(f"{given.out} holds trainings of several data sets or bases; give --data to say which")
    table = summary(pd.DataFrame(lines))
    print(json.dumps(table.to_dict("records")) if given.json else plain_table(table), end="\n" if given.json else "")


if __name__ == "__main__":
    main()
