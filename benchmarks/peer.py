"""fastMRI's VarNet blocks, trained by a plain loop on a study's data and budget, as a row of its tables.

    python -m benchmarks.peer spaces/paper-small.yaml --data PREPARED --out runs/paper/test --epochs 48 --n 16 --n 32
    python -m benchmarks.peer spaces/paper-small.yaml --data PREPARED --out runs/paper/test --epochs 48 --json

Single-task networks of as many blocks, channels and poolings, on the same slices in the same order with the same masks,
coil maps, SENSE start, loss, optimiser and schedule; for each task, N and seed of the grid. What is theirs: the blocks,
how their weights start, the learning rate, which is chosen for them on validation first, and ``--epochs``: their blocks
move the image by what they have learnt alone, so they need more of them before they hold. With few slices they do not
even then: ``--n`` names the N to train at. Then each is tested as ``splitpoint test --study`` tests, and stands in
``peer.csv.gz`` beside ``trials.csv.gz``, where ``splitpoint report`` finds it. An interrupted run goes on. Needs
``fastmri``, which ``make test`` installs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.varnet import FastMRIChain
from recon.config import TrainConfig
from recon.data.loading import Loader
from recon.data.prepared import PreparedData, Slice
from recon.evaluation.compare import Method, evaluate
from recon.evaluation.definitions import REPORTED
from recon.files import replace_file
from recon.network.layout import Layout
from recon.physics.masks import Mask
from recon.training.loop import complex_l1, make_schedule, seeded
from recon.training.optimiser import make_optimiser
from search.results.folder import KEYS, images_path, read_results, read_table, write_images, write_table
from search.results.tested import TrialTest, test_methods
from search.results.text import plain_table
from search.run.parallel import side_by_side
from spaces.reading import load_space
from spaces.space import Space

KIND = "fastmri"
TABLE = "peer.csv.gz"
RATES = "peer-rates.json"
CANDIDATES = (1e-3, 3e-3, 1e-2, 3e-2)


def digest(config: TrainConfig) -> str:
    """Of everything that a training depends on beside the data; a field at its default leaves it as it was before there
    was that field."""
    return hashlib.sha256(config.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class PeerJob:
    """One training; picklable."""

    config: TrainConfig
    data: Path
    scarce_slices: int | None
    test: bool
    """Whether the test split is opened: not while the rate is chosen."""

    @property
    def name(self) -> str:
        """As a trial is named; another configuration has another name."""
        (task,) = self.config.tasks
        return f"{KIND}-{task}-n{self.scarce_slices or 'all'}-seed{self.config.seed}-{digest(self.config)}"


@dataclass(frozen=True)
class Made:
    """What came of it."""

    job: PeerJob
    validation: float
    """SSIM on the validation split; NaN where the loss was no longer finite."""
    found: TrialTest | None


@lru_cache(maxsize=2)
def opened(path: Path, open_test: bool) -> PreparedData:
    """The data; a process opens them once."""
    return PreparedData(path, open_test=open_test)


@lru_cache(maxsize=4096)
def tensors(path: Path, slice_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """A slice as fastMRI takes it: centred k-space and maps (coils, rows, columns), target, in units of the scale."""
    return scaled(opened(path, False).read(slice_id))


def scaled(piece: Slice) -> tuple[Tensor, Tensor, Tensor]:
    """The same of a slice at hand."""
    scale = piece.row.scale
    kspace, maps, target = (
        torch.from_numpy(np.ascontiguousarray(one)) for one in (piece.kspace, piece.maps, piece.target)
    )
    return kspace / scale, maps, target / scale


def apply(network: FastMRIChain, kspace: Tensor, mask: Tensor, maps: Tensor) -> Tensor:
    """(batch, coils, rows, columns) fully sampled and complex → (batch, rows, columns)."""
    return network(torch.view_as_real(kspace * mask), mask[..., None], torch.view_as_real(maps))


def train(job: PeerJob) -> FastMRIChain | None:
    """The plain loop; None where the loss is no longer finite."""
    config = job.config
    loader = Loader(opened(job.data, False), config)
    with seeded(config.seed):
        network = FastMRIChain.fresh(
            len(Layout.parse(config.network.layout)),
            config.network.channels,
            config.network.pools,
            config.network.sense_steps,
        )
    optimiser = make_optimiser(config, network)
    schedule = make_schedule(config, optimiser, loader.steps_per_epoch)
    for epoch in range(1, config.epochs + 1):
        for batch in loader.training_batches(epoch):
            kspace, maps, target = (
                torch.stack(parts) for parts in zip(*(tensors(job.data, one) for one in batch.slice_ids), strict=True)
            )
            loss = complex_l1(apply(network, kspace, batch.mask, maps), target, batch.crop)
            if not torch.isfinite(loss):
                return None
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
            optimiser.step()
            schedule.step()
    return network.eval()


def method(network: FastMRIChain) -> Method:
    """The network as our evaluation takes a method."""

    def reconstruct(piece: Slice, mask: Mask) -> np.ndarray[Any, Any]:
        kspace, maps, _ = scaled(piece)
        kept = torch.from_numpy(np.array(np.atleast_2d(mask.kept)))[None, None]
        with torch.no_grad():
            return apply(network, kspace[None], kept, maps[None])[0].numpy() * piece.row.scale

    return reconstruct


def run(job: PeerJob) -> Made:
    """Train, validate, and test where that is asked."""
    torch.set_num_threads(1)
    network = train(job)
    if network is None:
        return Made(job, float("nan"), None)
    (task,) = job.config.tasks
    data = opened(job.data, False)
    parts = [
        part for _, part in evaluate(data, "val", {task: {"": method(network)}}, job.config.masks.val, (REPORTED,))
    ]
    validation = float(pd.concat(parts)["ssim"].mean())
    if not job.test:
        return Made(job, validation, None)
    labels = dict.fromkeys(KEYS, "") | {
        "trial": job.name,
        "kind": KIND,
        "layout": job.config.network.layout,
        "hyperparameters": f"{job.config.epochs} epochs",
        "scarce_slices": job.scarce_slices,
        "seed": job.config.seed,
    }
    content = b"".join(one.numpy().tobytes() for one in network.state_dict().values())
    weights = hashlib.sha256(content).hexdigest()[:16]
    found = test_methods(
        opened(job.data, True),
        {task: method(network)},
        job.config.masks.test,
        labels,
        {task: validation},
        weights,
        [job.name],
    )
    return Made(job, validation, found)


def jobs(
    space: Space, data: Path, rate: float, counts: Iterable[int], seeds: Iterable[int], test: bool
) -> list[PeerJob]:
    """A training for each task, N and seed, each once."""
    assert space.scarce is not None
    found = []
    for seed in seeds:
        for task in space.tasks:
            for count in counts if task == space.scarce.task else (None,):
                config = space.reference_config("stl", task, count, seed)
                rates = {"learning_rate": rate}
                if config.optimiser == "muon":  # whose rate goes with Adam's
                    rates["muon_learning_rate"] = config.muon_learning_rate * rate / config.learning_rate
                config = config.model_copy(update=rates)
                found.append(PeerJob(config, data, count, test))
    return found


def longer(space: Space, epochs: int) -> Space:
    """The space with other epochs."""
    return space.model_copy(update={"fidelity": space.fidelity.model_copy(update={"epochs": epochs})})


def chosen_rate(
    space: Space, data: Path, path: Path, mapped: Callable[..., Iterable[Made]]
) -> tuple[float, dict[str, float | None]]:
    """The rate with the best mean validation SSIM over tasks, at the middle N and the first seed, and all scores."""
    counts = [count for count in space.scarce_counts if count is not None]
    middle = counts[(len(counts) - 1) // 2]
    of = " ".join(digest(job.config) for job in jobs(space, data, CANDIDATES[0], [middle], [space.seed], False))
    stored = json.loads(path.read_text()) if path.is_file() else {}
    known: dict[str, float | None] = stored["validation_ssim"] if stored.get("trainings") == of else {}
    missing = [rate for rate in CANDIDATES if f"{rate:g}" not in known]
    wanted = [job for rate in missing for job in jobs(space, data, rate, [middle], [space.seed], False)]
    scores: dict[float, list[float]] = {}
    for made in mapped(run, wanted):
        mine = scores.setdefault(made.job.config.learning_rate, [])
        mine.append(made.validation)
        print(
            f"rate {made.job.config.learning_rate:g}, {made.job.config.tasks[0]}: {made.validation:.4f}",
            file=sys.stderr,
        )
        if len(mine) == len(space.tasks):
            mean = float(np.mean(mine))
            known[f"{made.job.config.learning_rate:g}"] = mean if np.isfinite(mean) else None
            with replace_file(path) as fresh:
                fresh.write_text(json.dumps({"trainings": of, "validation_ssim": known}, indent=2) + "\n")
    finite = {float(rate): score for rate, score in known.items() if score is not None}
    if not finite:
        raise SystemExit("no learning rate gave a finite loss")
    return max(finite, key=finite.__getitem__), known


def main() -> None:
    """Parse the command line, train what is missing, print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", help="space (YAML) with a grid")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study's results")
    parser.add_argument(
        "--n", type=int, action="append", help="of the study's N this one; repeatable, and without it all"
    )
    parser.add_argument("--epochs", type=int, help="of its trainings; without it, the study's")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    given = parser.parse_args()
    data, out = given.data.resolve(), given.out
    facts = opened(data, False)
    about = read_results(out).about
    if about.data_hash != facts.hash:
        parser.error(f"{out} was tested on data {about.data_hash[:12]}, and {data} has {facts.hash[:12]}")
    space = load_space(given.space).on({task: len(facts.subset(task)) for task in facts.tasks}, str(data))
    if space.training.masks.test != about.mask or about.epochs["stl"] != (space.total_epochs,):
        parser.error(f"{out} was tested with another mask, or trained for other epochs, than {given.space} says")
    unknown = sorted(set(given.n or ()) - set(space.scarce_counts))
    if unknown:
        parser.error(f"--n {unknown[0]} is no N of {given.space}, which has {', '.join(map(str, space.scarce_counts))}")
    if given.epochs is not None:
        space = longer(space, given.epochs)
    path = out / TABLE
    with side_by_side(given.workers) as mapped:
        rate, scores = chosen_rate(space, data, out / RATES, mapped)
        counts = given.n or [count for count in space.scarce_counts if count is not None]
        wanted = jobs(space, data, rate, counts, space.grid_seeds(), True)
        table = read_table(path) if path.is_file() else pd.DataFrame({"trial": []})
        table = table[table["trial"].isin([job.name for job in wanted])]
        done = set(table["trial"])
        missing = [job for job in wanted if job.name not in done]
        for count, made in enumerate(mapped(run, missing), start=1):
            if made.found is None:
                raise SystemExit(f"{made.job.name}: the loss is not finite at the rate {rate:g}")
            for name, images in made.found.images.items():
                write_images(images_path(out, name), images, made.found.table["weights"].iloc[0])
            table = pd.concat([table, made.found.table]) if len(table) else made.found.table
            table = table.sort_values(["trial", "volume", "slice"], kind="stable")
            write_table(table, path)
            print(f"{count} of {len(missing)}: {made.job.name}, validation {made.validation:.4f}", file=sys.stderr)
    means = read_table(path).groupby(["task", "scarce_slices"], dropna=False)[["ssim", "psnr", "nrmse"]].mean().round(4)
    lines = means.reset_index().rename(columns={"scarce_slices": "N"})
    if given.json:
        rows = json.loads(lines.to_json(orient="records"))
        print(json.dumps({"rate": rate, "validation_ssim_by_rate": scores, "test": rows}))
    else:
        print(f"learning rate {rate:g}, best of {scores} on validation\n{plain_table(lines)}", end="")


if __name__ == "__main__":
    main()
