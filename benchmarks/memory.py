"""The memory of a process that trains again and again, as a reused actor does: resident megabytes after each training.

    python -m benchmarks.memory --data PREPARED
    python -m benchmarks.memory --data PREPARED --keep
    python -m benchmarks.memory --data PREPARED --trainings 70 --json

Each training runs in a thread of its own, as Ray Tune runs a trainable, with a layout of its own and checkpoints, on a
few slices. Every second one is stopped in its first report, as Tune stops a trial: by SystemExit. Before each, another
thread begins and stays, as some of Ray's do: it takes the arena that the last training has left, so that the next
training gets a new one, up to eight per processor (glibc). ``--alone`` leaves those threads out. Between trainings the
process calls ``recon.device.release_memory``, unless ``--keep`` is given. ``in_use_mb`` is what the C library's
allocator has handed out, where the library tells (glibc).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from recon.config import NetworkConfig, TrainConfig
from recon.data.prepared import PreparedData
from recon.device import release_memory
from recon.training.loop import EpochReport, train
from search.results.text import plain_table


class Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc, in bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *(
                "arena",
                "ordblks",
                "smblks",
                "hblks",
                "hblkhd",
                "usmblks",
                "fsmblks",
                "uordblks",
                "fordblks",
                "keepcost",
            ),
        )
    ]


def resident() -> float:
    """Megabytes of the process in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def in_use() -> float | None:
    """Megabytes that the allocator of the C library has handed out; None where it does not say so."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return None
    mallinfo2.restype = Mallinfo
    found = mallinfo2()
    return (found.uordblks + found.hblkhd) / 1e6


def one(data: PreparedData, seed: int, blocks: int, slices: int, batch_size: int, found: list[str]) -> None:
    """Train a network with a drawn layout, and note the layout."""
    rng = random.Random(seed)
    layout = "".join(rng.choice("IYV") for _ in range(blocks))
    network = NetworkConfig(
        layout=layout, channels=8, pools=1, consistency="accelerated", sense_steps=30, padding="least"
    )
    config = TrainConfig(
        tasks=data.tasks,
        network=network,
        slices=dict.fromkeys(data.tasks, slices),
        epochs=2,
        batch_size=batch_size,
        optimiser="muon",
        seed=seed,
    )
    found.append(layout)

    def report(epoch: EpochReport) -> None:
        with tempfile.TemporaryDirectory() as folder:
            epoch.save(Path(folder) / "checkpoint")
        if seed % 2 == 0:
            sys.exit(0)

    with contextlib.suppress(SystemExit):
        train(config, data, device="cpu", report=report)


def stay(begun: threading.Event) -> None:
    """A thread that needs some memory once, and stays."""
    held = ctypes.create_string_buffer(4000)
    begun.set()
    while held:
        time.sleep(3600)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="prepared data")
    parser.add_argument("--trainings", type=int, default=30)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--slices", type=int, default=4, help="training slices of each task")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="do not release memory between trainings")
    parser.add_argument("--alone", action="store_true", help="no other threads")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = PreparedData(given.data)
    gc.freeze()  # as a trial's worker does after its imports
    rows = []
    for number in range(1, given.trainings + 1):
        layouts: list[str] = []
        began = time.process_time()
        if not given.alone:
            begun = threading.Event()
            threading.Thread(target=stay, args=(begun,), daemon=True).start()
            begun.wait()
        thread = threading.Thread(
            target=one, args=(data, number, given.blocks, given.slices, given.batch_size, layouts)
        )
        thread.start()
        thread.join()
        trained = time.process_time()
        if not given.keep:
            release_memory()
        released = time.process_time()
        used = in_use()
        row = {
            "training": number,
            "layout": layouts[0],
            "resident_mb": round(resident(), 1),
            "in_use_mb": None if used is None else round(used, 1),
            "training_cpu_s": round(trained - began, 2),
            "release_cpu_s": round(released - trained, 4),
        }
        rows.append(row)
        if given.json:
            print(json.dumps(row), flush=True)
    if not given.json:
        names = list(rows[0])
        print(plain_table(names, [[str(row[name]) for name in names] for row in rows]))


if __name__ == "__main__":
    main()
