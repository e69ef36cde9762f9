"""What a long search costs beside its trainings: thousands of trials, replayed with a trainer that takes no time.

    python -m benchmarks.scale --json
    python -m benchmarks.scale --against OTHER_CHECKOUT --rounds 3 --trials 300
    python -m benchmarks.scale --actor 70

The search is ``search.run.launch.launch`` as users call it, on a local Ray with two CPUs and an SQLite file, in a
process of its own that is watched from outside (Linux only). The space has 4^12 layouts and two rungs, each of which
stops about half of the trials. A result is an epoch that a trial reported. ``--sampler tpe`` adds the cost of Optuna's
TPE, which grows with the number of finished trials; ``random``, the default, leaves it out.

The driver's CPU time is that of all its threads, from the first trial's beginning to the last one's end; what Ray's
start and the end of ``launch`` take is told beside it. What a trial leaves beside its checkpoint is what lies in the
study's folder in the end, but for files named ``checkpoint.pt``.
``--actor N`` runs N real trainings, each of seconds, through one worker, and tells the worker's memory after each.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.pretend import Settings, read_log, resident_mb, train, train_and_note

HERE = Path(__file__).resolve().parents[1]
STUDY = "scale"
LOOK_SECONDS = 0.25
TICK = os.sysconf("SC_CLK_TCK")
CHECKPOINT = "checkpoint.pt"


@dataclasses.dataclass(frozen=True)
class Search:
    """The search that is timed."""

    trials: int
    epochs: int
    sampler: str
    concurrent: int
    checkpoint_bytes: int

    def space(self) -> dict[str, Any]:
        """Its space: free layouts of twelve blocks, one weighting, no references."""
        rungs = sorted({max(1, self.epochs // 4), max(1, self.epochs // 2)} - {self.epochs})
        return {
            "tasks": ["a", "b"],
            "unroll": {"blocks": 12},
            "layouts": {"kind": "free"},
            "start": {"init": "random"},
            "fidelity": {"epochs": self.epochs, "rungs": rungs, "reduction": 2},
            "baselines": {"kinds": []},
            "sampler": {"kind": self.sampler},
            "trials": self.trials,
        }


@dataclasses.dataclass(frozen=True)
class Look:
    """What was seen of the driver at one time."""

    wall: float
    cpu: float
    resident_mb: float
    written: int
    """Bytes that the driver gave to the disk so far."""


def drive(folder: Path, search: Search) -> None:
    """Launch the search in this process. This is the process that is measured."""
    from search.run.cluster import Resources
    from search.run.facts import DataFacts
    from search.run.launch import launch
    from spaces.space import Space

    facts = DataFacts(folder, "none", {"a": 10, "b": 10})
    outcome = launch(
        Space.model_validate(search.space()),
        facts,
        STUDY,
        runs_dir=folder / "runs",
        resources=Resources(max_concurrent=search.concurrent),
        trainer=train,
    )
    if outcome.complaint is not None:
        raise SystemExit(f"the search that was timed did not end: {outcome.complaint}")


def measure(search: Search, checkout: Path) -> dict[str, Any]:
    """Run the search with the code of a checkout, and say what it took."""
    # Ray's sockets are in temporary folders, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="scale-") as place, tempfile.TemporaryDirectory(prefix="s") as short:
        folder, temporary = Path(place) / "data", Path(short)
        folder.mkdir()
        Settings(search.checkpoint_bytes, learns=True, each_epoch=False).write(folder)
        asked = ["--drive", str(folder), *_options(search)]
        # The benchmark is this checkout's, the search is the other's: -P keeps the working directory off the path.
        environment = {
            **os.environ,
            "PYTHONPATH": f"{checkout}{os.pathsep}{HERE}",
            "TMPDIR": str(temporary),
            "OMP_NUM_THREADS": "1",
        }
        log = Path(place) / "driver.log"
        with log.open("w") as output:
            command = [sys.executable, "-P", "-m", "benchmarks.scale", *asked]
            driver = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            looks, most = _watch(driver, temporary)
        if driver.returncode != 0:
            raise SystemExit(f"the driver ended with {driver.returncode}:\n{log.read_text()[-3000:]}")
        found = _timed(read_log(folder), looks)
        found |= _left(folder / "runs" / STUDY, found["trials"])
        # None: TMPDIR is so long that Ray's sockets, and all that lies beside them, are elsewhere.
        found["temporary_files"] = most[0] or None
        found["temporary_kb_a_trial"] = round(most[1] / 1e3 / found["trials"], 2) or None
        found["temporary_files_left"] = _size(temporary)[0]
        found |= _leaderboard(folder / "runs", environment)
    return {"sampler": search.sampler, "epochs": search.epochs, **found}


def _options(search: Search) -> list[str]:
    return [
        text
        for field in dataclasses.fields(search)
        for text in (f"--{field.name.replace('_', '-')}", str(getattr(search, field.name)))
    ]


def _watch(driver: subprocess.Popen[bytes], temporary: Path) -> tuple[list[Look], tuple[int, int]]:
    """Look at the driver until it ends: its resources over time, and the most files and bytes in temporary folders."""
    looks: list[Look] = []
    most = (0, 0)
    for turn in itertools.count():
        if driver.poll() is not None:
            return looks, most
        try:
            looks.append(_look(driver.pid))
            if turn % 20 == 0:
                most = max(most, _size(temporary), key=lambda size: size[1])
        except (FileNotFoundError, ProcessLookupError, ValueError):
            pass  # it ended while it was looked at
        time.sleep(LOOK_SECONDS)
    raise AssertionError


def _look(process: int) -> Look:
    after_name = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    io = dict(line.split(": ") for line in Path(f"/proc/{process}/io").read_text().splitlines())
    cpu = (int(after_name[11]) + int(after_name[12])) / TICK
    return Look(time.time(), cpu, resident_mb(process), int(io["write_bytes"]))


def _size(folder: Path, skip: str = "") -> tuple[int, int]:
    """Number of files in a folder, sockets left out, and their bytes."""
    files = total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where) / name
            if name != skip and path.is_file() and not path.is_symlink():
                files += 1
                total += path.stat().st_size
    return files, total


def _timed(lines: list[dict[str, Any]], looks: list[Look]) -> dict[str, Any]:
    """Rates and memory from the trainer's log and the looks at the driver."""
    begins = [line for line in lines if line["what"] == "begin"]
    ends = [line for line in lines if line["what"] == "end"]
    first = begins[0]["wall"]
    results = sum(line["epochs"] for line in ends)
    begun = next(look for look in looks if look.wall >= first)
    ended = next((look for look in looks if look.wall >= ends[-1]["wall"]), looks[-1])
    span = begins[-1]["wall"] - first
    quarter = len(ends) // 4
    tenth = ends[len(ends) // 10]
    last_quarter = [look for look in looks if look.wall >= ends[-quarter]["wall"]] if quarter else looks
    last_results = sum(line["epochs"] for line in ends[-quarter:]) or results
    workers = {line["pid"] for line in ends}
    cpu = sum(
        own[-1]["cpu"] - own[0]["cpu"] for one in workers if (own := [line for line in lines if line["pid"] == one])
    )
    return {
        "trials": len(begins),
        "results": results,
        "trials_a_minute": round((len(begins) - 1) / span * 60, 1) if span else None,
        "driver_ms_a_result": round((ended.cpu - begun.cpu) / results * 1e3, 2),
        "driver_ms_a_result_in_the_last_quarter": round((ended.cpu - last_quarter[0].cpu) / last_results * 1e3, 2),
        "driver_s_before_the_first_trial": round(begun.cpu, 2),
        "driver_s_after_the_last_trial": round(looks[-1].cpu - ended.cpu, 2),
        "worker_ms_a_result": round(cpu / results * 1e3, 2),
        "workers": len(workers),
        "driver_written_kb_a_trial": round((looks[-1].written - begun.written) / 1e3 / len(begins), 1),
        "driver_peak_mb": max(look.resident_mb for look in looks),
        "driver_mb_after_a_tenth": next(look.resident_mb for look in looks if look.wall >= tenth["wall"]),
        "worker_mb_after_a_tenth": tenth["resident_mb"],
        "worker_mb": max(line["resident_mb"] for line in ends),
    }


def _left(study: Path, trials: int) -> dict[str, Any]:
    """What lies in the study's folder: the database, and the rest beside the checkpoints."""
    files, total = _size(study, skip=CHECKPOINT)
    database = [path for path in study.iterdir() if path.name.startswith("study.db")]
    stored = sum(path.stat().st_size for path in database)
    checkpoints = sum(1 for _ in study.rglob(CHECKPOINT))
    return {
        "files_a_trial": round((files - len(database)) / trials, 2),
        "kb_a_trial": round((total - stored) / 1e3 / trials, 2),
        "database_kb_a_trial": round(stored / 1e3 / trials, 2),
        "checkpoints_a_trial": round(checkpoints / trials, 2),
    }


def _leaderboard(runs: Path, environment: dict[str, str]) -> dict[str, Any]:
    """CPU seconds and memory of ``splitpoint leaderboard --top 5`` in a new process."""
    command = [sys.executable, "-P", "-m", "search.cli", "leaderboard", STUDY, "--top", "5", "--runs-dir", str(runs)]
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"the leaderboard ended with {process.returncode}")
    return {
        "leaderboard_s": round(time.monotonic() - began, 2),
        "leaderboard_cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "leaderboard_mb": round(usage.ru_maxrss / 1024, 1),
    }


def against(search: Search, other: Path, rounds: int) -> dict[str, Any]:
    """The same search with this checkout's code and with another's in turns: medians, and theirs to ours."""
    found: dict[str, list[dict[str, Any]]] = {"here": [], "other": []}
    for turn in range(rounds):
        order = ("here", "other") if turn % 2 == 0 else ("other", "here")
        for name in order:
            found[name].append(measure(search, HERE if name == "here" else other))
    medians = {
        name: {
            key: statistics.median(run[key] for run in runs)
            for key, value in runs[0].items()
            if isinstance(value, int | float)
        }
        for name, runs in found.items()
    }
    ratios = {
        key: round(value / medians["other"][key], 3)
        for key, value in medians["here"].items()
        if medians["other"].get(key)
    }
    return {"rounds": rounds, **medians, "here_to_other": ratios}


def actor(trainings: int) -> dict[str, Any]:
    """Real trainings through one worker: its resident memory in MB after each."""
    from recon.data.options import PrepareOptions
    from recon.data.prepare import prepare
    from recon.simulate import simulate
    from search.run.cluster import Resources
    from search.run.facts import DataFacts
    from search.run.launch import launch
    from spaces.space import Space

    place = Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        simulate(place / "raw", subjects={"train": 2, "val": 1, "test": 1}, matrix=48, slices=6, coils=4, seed=0)
        prepared = prepare([place / "raw"], place / "data", PrepareOptions(calibration_width=16))
        if not prepared.ok:
            raise SystemExit(f"the data could not be prepared: {prepared.failed}")
        space = Space.model_validate(
            {
                "tasks": ["PDw", "PDw-FS"],
                "unroll": {"blocks": 4, "channels": 4, "pools": 1},
                "layouts": {"kind": "free"},
                "start": {"init": "random"},
                "fidelity": {"epochs": 2, "rungs": []},
                "baselines": {"kinds": []},
                "sampler": {"kind": "random"},
                "trials": trainings,
            }
        )
        resources = Resources(max_concurrent=1)
        facts = DataFacts.of(place / "data")
        outcome = launch(space, facts, STUDY, runs_dir=place / "runs", resources=resources, trainer=train_and_note)
        if outcome.complaint is not None:
            raise SystemExit(f"the search that was watched did not end: {outcome.complaint}")
        ends = [line for line in read_log(place / "data") if line["what"] == "end"]
    finally:
        shutil.rmtree(place, ignore_errors=True)
    memory = [line["resident_mb"] for line in ends]
    third = len(memory) // 3
    return {
        "trainings": len(memory),
        "workers": len({line["pid"] for line in ends}),
        "first_mb": memory[0],
        "after_a_third_mb": memory[third],
        "last_mb": memory[-1],
        "mb_a_training_since_a_third": round((memory[-1] - memory[third]) / max(1, len(memory) - 1 - third), 3),
        "resident_mb": memory,
    }


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--sampler", choices=("random", "tpe"), default="random")
    parser.add_argument("--concurrent", type=int, default=2, help="number of trials in parallel")
    parser.add_argument("--checkpoint-bytes", type=int, default=1000, help="size of a checkpoint")
    parser.add_argument("--against", type=Path, help="another checkout, measured in turns with this one")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of --against")
    parser.add_argument("--actor", type=int, help="number of real trainings through one worker, in place of all else")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    search = Search(options.trials, options.epochs, options.sampler, options.concurrent, options.checkpoint_bytes)
    if options.drive is not None:
        drive(options.drive, search)
        return
    if options.actor:
        result = actor(options.actor)
    elif options.against:
        result = against(search, options.against.resolve(), options.rounds)
    else:
        result = measure(search, HERE)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:40s} {value}")


if __name__ == "__main__":
    main()
