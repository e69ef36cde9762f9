"""How much faster ``splitpoint prepare`` is with two processes than with one, from the command line to its end.

    python -m benchmarks.prepare --json
    python -m benchmarks.prepare --subjects 4 --matrix 320 --slices 6 --coils 15 --rounds 3 --json

Simulates knees once, and prepares them with one worker and with several in turns, each time into an empty folder. Each
worker has one thread. Starting Ray is part of both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recon.simulate import simulate

PROGRAM = Path(sys.executable).with_name("splitpoint")
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def seconds(raw: Path, out: Path, workers: int) -> float:
    """Wall time of one ``splitpoint prepare``."""
    began = time.perf_counter()
    subprocess.run(
        [PROGRAM, "prepare", raw, "--out", out, "--workers", str(workers)],
        check=True,
        env=os.environ | THREADS,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def measure(
    *, subjects: int, matrix: int, slices: int, coils: int, workers: int, rounds: int
) -> dict[str, float | int]:
    """Median seconds with one worker and with ``workers``, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        volumes = simulate(raw, subjects={"train": subjects}, matrix=matrix, slices=slices, coils=coils)
        found: dict[int, list[float]] = {1: [], workers: []}
        for _ in range(rounds):
            for count, times in found.items():
                out = Path(folder) / "out"
                times.append(seconds(raw, out, count))
                shutil.rmtree(out)
    one, several = (statistics.median(times) for times in found.values())
    return {
        "volumes": len(volumes),
        "slices": slices,
        "one": one,
        "workers": workers,
        "several": several,
        "ratio": several / one,
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("subjects", 4),
        ("matrix", 320),
        ("slices", 6),
        ("coils", 15),
        ("workers", 2),
        ("rounds", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    result = measure(**given)
    if as_json:
        print(json.dumps(result))
    else:
        print(
            f"{result['volumes']} volumes of {result['slices']} slices: {result['one']:.1f} s with one worker, "
            f"{result['several']:.1f} s with {result['workers']}, ratio {result['ratio']:.2f}"
        )


if __name__ == "__main__":
    main()
