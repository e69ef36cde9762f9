"""How much of what a trial says is its layout, and how much is chance: layouts × seeds, trained as a space trains them.

    python -m benchmarks.noise spaces/quickstart.yaml --data PREPARED --out noise.jsonl --fresh PREPARED2
    python -m benchmarks.noise --out noise.jsonl --json

The networks that trials start from (``--start joint``: one for each seed; ``transfer``: the source task's STL) are
trained first, into a folder beside ``--out``; their CPU seconds are given apart. Then every layout is trained with
every seed. Measured are the validation split as often as the space validates, slice by slice at the end, and, with
``--fresh``, the training and validation slices of another prepared set, which no network was trained on. Results are
appended to ``--out`` as they come, and the same command again runs only what is missing; without ``--data`` it runs
nothing and summarises what is there.

CPU seconds are of ``recon.training.train`` in a worker of one thread, its validation included. What the columns are,
``search.results.noise.grid.summary`` says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from recon.config import TrainConfig
from recon.data.loading import Batch, slice_batch
from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.evaluation.measure import SliceMetrics, validate
from recon.network.layout import Layout
from recon.network.unrolled import UnrolledNetwork
from recon.physics.masks import fixed
from recon.training.loop import EpochReport, TrainingError, train
from search.results.noise.grid import summary
from search.results.noise.groups import group_table, verdict
from search.results.noise.words import dumped, rounded, shown
from search.results.text import plain_table
from search.run.parallel import side_by_side
from spaces.point import Init, Point
from spaces.reading import load_space
from spaces.space import Space

LAYOUTS = "I12,I2V10,V12,I6V6,I2Y10,V6I6"
LABELS = ("kind", "start", "layout", "weighting", "n", "seed", "hash")
NoiseJob = dict[str, Any]
"""``labels`` (a value for each of LABELS), ``config``, ``from`` (the configuration that its start was trained with),
and where things lie: ``data``, ``fresh``, ``init``, ``checkpoint``."""


@lru_cache(maxsize=2)
def opened(path: str) -> PreparedData:
    """The data; a process opens them once."""
    return PreparedData(Path(path))


def identity(line: NoiseJob) -> str:
    """Of a training: its labels, its whole configuration and that of its start."""
    return json.dumps([[line["labels"][name] for name in LABELS], line["config"], line["from"]], sort_keys=True)


def jobs(
    space: Space, data: Path, layouts: Iterable[str], seeds: int, start: Init, folder: Path, fresh: Path | None
) -> tuple[list[NoiseJob], list[NoiseJob]]:
    """Every training: the networks that others start from, and the trials.

    Args:
        space: on its data; trials have its first N and weighting.
        data: prepared.
        layouts: of the trials.
        seeds: how many, from the space's.
        start: what trials start from.
        folder: of the starts' checkpoints.
        fresh: prepared data that trials are measured on beside the validation split.
    """
    count, weighting = space.scarce_counts[0], space.weightings[0]
    starts: list[NoiseJob] = []
    trials: list[NoiseJob] = []
    for seed in range(space.seed, space.seed + seeds):
        common = {"start": start, "n": count, "seed": seed, "hash": opened(str(data)).hash[:12]}
        first: TrainConfig | None = None
        if start == "joint":
            first = space.joint_config(count, seed)
        elif start == "transfer":
            first = space.reference_config("stl", space.source, None, seed)
        init = None
        if first is not None:
            labels = {**common, "kind": "start", "layout": first.network.layout, "weighting": first.weighting.kind}
            job = {"labels": labels, "config": first.model_dump(mode="json"), "from": None, "data": str(data)}
            digest = hashlib.sha256(identity(job).encode()).hexdigest()[:8]
            init = str(folder / f"{start}-seed{seed}-{digest}")
            starts.append(job | {"checkpoint": init, "init": None, "fresh": None})
        for text in layouts:
            layout = str(Layout.parse(text, space.unroll.blocks))
            config = space.train_config(Point(layout, weighting, count, (), start), seed)
            trials.append(
                {
                    "labels": {**common, "kind": "trial", "layout": layout, "weighting": weighting},
                    "config": config.model_dump(mode="json"),
                    "from": None if first is None else first.model_dump(mode="json"),
                    "data": str(data),
                    "init": init,
                    "checkpoint": None,
                    "fresh": None if fresh is None else str(fresh),
                }
            )
    return starts, trials


def run(job: NoiseJob) -> dict[str, Any]:
    """One training, as a line: labels, configuration, ``cpu_seconds``, ``epochs`` (SSIM of the mean and each task, and
    the training loss, by epoch), ``slices`` (SSIM of each slice at the end; ``val`` and, where asked for, ``fresh``),
    or ``error`` where its loss was no longer finite."""
    torch.set_num_threads(1)
    config = TrainConfig.model_validate(job["config"])
    data = opened(job["data"])
    epochs: dict[str, dict[str, float]] = {}
    last: list[SliceMetrics] = []

    def report(epoch: EpochReport) -> None:
        names = ("ssim", "loss", *(f"ssim/{task}" for task in config.tasks))
        epochs[str(epoch.epoch)] = {name: epoch.metrics[name] for name in names}
        if epoch.epoch == config.epochs:
            last.append(epoch.slices)
            if job["checkpoint"] is not None:
                epoch.save(Path(job["checkpoint"]))

    line: dict[str, Any] = {**job["labels"], "config": job["config"], "from": job["from"], "fresh": None}
    began = time.process_time()
    try:
        network = train(config, data, init=Path(job["init"]) if job["init"] else None, device="cpu", report=report)
    except TrainingError as error:
        return line | {"error": str(error), "epochs": {}, "slices": {}}
    line |= {"cpu_seconds": time.process_time() - began, "epochs": epochs}
    if job["labels"]["kind"] == "start":
        return line
    slices = {"val": kept(last[0], data)}
    if job["fresh"] is not None:
        fresh = opened(job["fresh"])
        line["fresh"] = fresh.hash[:12]
        slices["fresh"] = kept(unseen(network, fresh, config), fresh)
    return line | {"slices": slices}


def unseen(network: UnrolledNetwork, data: PreparedData, config: TrainConfig) -> SliceMetrics:
    """A network on the training and validation slices of data that it was not trained on, one by one, undersampled by
    the validation mask."""

    def batches() -> Iterator[Batch]:
        for task in config.tasks:
            for number in data.subset(task) + data.subset(task, split="val"):
                piece = data.read(number)
                mask = fixed(config.masks.val, piece.row.shape, piece.row.padding)
                yield slice_batch(piece, mask, task)

    return validate(network, batches()).slices


def kept(slices: SliceMetrics, data: PreparedData) -> dict[str, dict[str, list[Any]]]:
    """Of each task: ``slice_id``, ``volume`` and ``ssim`` (definition ``paper``)."""
    return {
        task: {
            "slice_id": list(columns["slice_id"]),
            "volume": [data.row(int(number)).volume for number in columns["slice_id"]],
            "ssim": list(columns["ssim"]),
        }
        for task, columns in slices.items()
    }


def tables(lines: Iterable[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """The trials as ``search.results.noise`` takes them: ``validation`` by epoch and, where all have it, ``fresh`` at
    the end."""
    trials = [line for line in lines if line["kind"] == "trial"]
    validation = [
        {
            "layout": line["layout"],
            "seed": line["seed"],
            "epoch": int(epoch),
            "task": task,
            "value": values[f"ssim/{task}"],
        }
        for line in trials
        for epoch, values in line["epochs"].items()
        for task in line["config"]["tasks"]
    ]
    found = {"validation": pd.DataFrame(validation, columns=["layout", "seed", "epoch", "task", "value"])}
    complete = [line for line in trials if "error" not in line]
    if complete and all("fresh" in line["slices"] for line in complete):
        found["fresh"] = pd.DataFrame(
            [
                {
                    "layout": line["layout"],
                    "seed": line["seed"],
                    "epoch": line["config"]["epochs"],
                    "task": task,
                    "value": one,
                }
                for line in complete
                for task, columns in line["slices"]["fresh"].items()
                for one in columns["ssim"]
            ]
        )
    return found


def seconds(lines: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Median CPU seconds of a trial, and of a network that trials start from."""
    frame = pd.DataFrame([line for line in lines if "error" not in line], columns=["kind", "cpu_seconds"])
    return {str(kind): float(value) for kind, value in frame.groupby("kind")["cpu_seconds"].median().items()}


def measured(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """All that the lines show, as JSON has it.

    ``start, n, weighting, cpu_seconds`` (``trial``, ``start``), ``rows``: those of
    ``search.results.noise.grid.summary`` for ``on`` validation and fresh; ``verdict`` on each.

    Raises InputError where two layouts and two seeds are not there.
    """
    trial = next(line for line in lines if line["kind"] == "trial")
    found = tables(lines)
    rows = [row | {"on": name} for name, table in found.items() for row in summary(table).to_dict("records")]
    return {
        **{name: trial[name] for name in ("start", "n", "weighting", "hash", "fresh")},
        "cpu_seconds": seconds(lines),
        "rows": rows,
        "verdict": {name: verdict(table) for name, table in found.items()},
    }


def text(lines: list[dict[str, Any]]) -> str:
    """The same for people."""
    facts = measured(lines)
    cpu = facts["cpu_seconds"]
    parts = [
        f"start {facts['start']}, weighting {facts['weighting']}, N = {facts['n']}: {cpu['trial']:.1f} CPU s a trial"
    ]
    if "start" in cpu:
        parts[0] += f", {cpu['start']:.1f} the network that it starts from"
    for name, table in tables(lines).items():
        parts += [f"\non {name}", plain_table(shown(summary(table))).rstrip()]
        parts += ["", plain_table(rounded(group_table(table))).rstrip(), facts["verdict"][name]]
    return "\n".join(parts) + "\n"


def run_missing(wanted: list[NoiseJob], known: dict[str, dict[str, Any]], out: Path, workers: int) -> None:
    """Run the jobs that ``known`` lacks; each is a line in ``out`` and in ``known`` as soon as it is done."""

    def there(job: NoiseJob) -> bool:
        line = known.get(identity(job))
        if line is None or (job["checkpoint"] is not None and not Path(job["checkpoint"]).is_dir()):
            return False
        return job["fresh"] is None or line["fresh"] == opened(job["fresh"]).hash[:12] or "error" in line

    missing = [job for job in wanted if not there(job)]
    with side_by_side(min(workers, max(1, len(missing)))) as mapped, out.open("a") as file:
        for count, line in enumerate(mapped(run, missing), start=1):
            known[identity(labelled(line))] = line
            print(dumped(line), file=file, flush=True)
            print(f"{count} of {len(missing)}: {line['kind']} {line['layout']}, seed {line['seed']}", file=sys.stderr)


def labelled(line: dict[str, Any]) -> NoiseJob:
    """A stored line as ``identity`` takes it."""
    return {"labels": {name: line[name] for name in LABELS}, "config": line["config"], "from": line["from"]}


def main() -> None:
    """Parse the command line, run what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", nargs="?", help="space (YAML) whose trials are trained")
    parser.add_argument("--data", type=Path, help="prepared data set; without it nothing is run")
    parser.add_argument("--fresh", type=Path, help="another prepared data set to measure on")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, a training each")
    parser.add_argument("--layouts", default=LAYOUTS, help="separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--start", choices=["joint", "random", "transfer"], help="without it, the space's")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    given = parser.parse_args()
    try:
        lines = measure_all(given)
        print(dumped(measured(lines)) if given.json else text(lines), end="\n" if given.json else "")
    except InputError as error:
        parser.error(str(error))


def measure_all(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The lines that the command line asks for, those that are missing run first.

    Raises InputError where there are none, or several benchmarks' without a word on which.
    """
    stored = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.is_file() else []
    if given.data is None:
        if not stored:
            raise InputError(f"{given.out} holds no trainings yet; give a space and --data")
        trials = [line for line in stored if line["kind"] == "trial"]
        if not trials or len({(line["start"], line["weighting"], line["n"], line["hash"]) for line in trials}) > 1:
            raise InputError(f"{given.out} holds trainings of several benchmarks; give a space and --data to say which")
        return stored
    if given.space is None:
        raise InputError("--data is given without a space, such as spaces/quickstart.yaml")
    data = opened(str(given.data))
    space = load_space(given.space).on({task: len(data.subset(task)) for task in data.tasks}, str(given.data))
    folder = given.out.with_suffix(".starts")
    layouts = [one for one in given.layouts.split(",") if one]
    starts, trials = jobs(space, given.data, layouts, given.seeds, given.start or space.start.init, folder, given.fresh)
    known = {identity(labelled(line)): line for line in stored}
    run_missing(starts, known, given.out, given.workers)
    failed = [job["labels"] for job in starts if "error" in known[identity(job)]]
    if failed:
        raise InputError(f"the network that seed {failed[0]['seed']} starts from could not be trained; see {given.out}")
    run_missing(trials, known, given.out, given.workers)
    return [known[identity(job)] for job in [*starts, *trials]]


if __name__ == "__main__":
    main()
