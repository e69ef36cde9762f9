"""What a search costs beside its trainings: the worker's start, and each trial with a trainer that takes no time.

    python -m benchmarks.overhead --json

Trials run one after the other, so a trial's seconds are those between its first epoch and the next trial's, its own
epochs' reports and checkpoints included. CPU seconds tell more on a busy machine: the driver's and the worker's
(without its start), both per trial. A worker is ready when it has imported what it trains with and stepped an optimiser
once; its CPU seconds count from its process's beginning, Ray's own imports included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.pretend import read_log, train


def measure(trials: int, epochs: int) -> dict[str, Any]:
    """Launch a search of so many trials in a folder of its own, and what it took."""
    from search.run.cluster import Resources
    from search.run.facts import DataFacts
    from search.run.launch import launch
    from spaces.space import Space

    space = Space.model_validate(
        {
            "tasks": ["a", "b"],
            "unroll": {"blocks": 12},
            "layouts": {"kind": "free"},
            "fidelity": {"epochs": epochs, "rungs": []},
            "baselines": {"kinds": []},
            "trials": trials,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        facts = DataFacts(data, "none", {"a": 10, "b": 10})
        began, cpu = time.time(), time.process_time()
        resources = Resources(max_concurrent=1)
        outcome = launch(space, facts, "overhead", runs_dir=data / "runs", resources=resources, trainer=train)
        driver = time.process_time() - cpu
        if outcome.complaint is not None:
            raise SystemExit(f"the search that was timed did not end: {outcome.complaint}")
        lines = read_log(data)
    begins = [line["wall"] for line in lines if line["what"] == "begin"]
    starts = [line for line in lines if line["what"] == "ready"]
    busy = sum(_span([line for line in lines if line["pid"] == start["pid"]]) for start in starts)
    return {
        "trials": trials,
        "epochs": epochs,
        "trial_seconds": round(statistics.median(b - a for a, b in itertools.pairwise(begins)), 3),
        "driver_cpu_a_trial": round(driver / trials, 3),
        "worker_cpu_a_trial": round(busy / trials, 3),
        "workers": len(starts),
        "worker_ready_cpu": round(statistics.median(start["cpu"] for start in starts), 2),
        "first_trial_after": round(begins[0] - began, 1),
    }


def _span(lines: list[dict[str, Any]]) -> float:
    cpu = [line["cpu"] for line in lines]
    return float(cpu[-1] - cpu[0])


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = measure(options.trials, options.epochs)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:20s} {value}")


if __name__ == "__main__":
    main()
