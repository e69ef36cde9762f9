"""Made-up folders of results, whose every mean is known."""

import numpy as np
import pandas as pd

from recon.config import MaskConfig
from recon.evaluation.definitions import DEFINITIONS, L1_WAVELET, TRUTH, ZERO_FILLED
from search.report.compare import Comparison, Row
from search.results.folder import (
    COLUMNS,
    REFERENCE,
    TABLE,
    UNTRAINED,
    About,
    Counts,
    Results,
    images_path,
    write_about,
    write_images,
    write_table,
)

VOLUMES, SLICES = 6, 3
SPLIT = Row("mtl", "I2V10", "naive", "random")
HEAD = Row("mtl", "I2Y10", "dwa", "random")
MOVED = Row("mtl", "I2V10", "naive", "transfer")
STL = Row("stl", "I12", "", "")
LONGER = Row("stl-steps", "I12", "", "")
TRANSFER = Row("transfer", "I12", "", "")
PEER = Row("fastmri", "", "", "")
ZERO = Row(ZERO_FILLED, "", "", "")
WAVELET = Row(L1_WAVELET, "", "", "")
CEILING = Row(TRUTH, "", "", "")
OWN = np.array([[0.05 * np.sin(7 * volume + position) for position in range(SLICES)] for volume in range(VOLUMES)])
"""What belongs to a slice, whatever the network."""


def made(row, task, base, n=None, seeds=(0, 1), validation=0.5, spread=0.001, by_volume=(0,) * VOLUMES):
    """Tested slices of one configuration: ``base``, plus what belongs to volume and slice, plus a little a seed."""
    lines = []
    for seed in seeds:
        for volume in range(VOLUMES):
            for position in range(SLICES):
                ssim = base + OWN[volume, position] + by_volume[volume] + spread * (seed or 0)
                name = "" if row.kind in UNTRAINED else f"{row.kind}-{row.layout}-{row.weighting}-{row.init}-{n}-{seed}"
                lines.append(
                    dict.fromkeys(COLUMNS, "")
                    | {"kind": row.kind, "layout": row.layout, "weighting": row.weighting, "init": row.init}
                    | {"trial": name, "scarce_slices": n, "seed": seed, "task": task, "volume": f"v{volume}"}
                    | {"slice": position, "ssim": ssim, "psnr": 40 * base, "nrmse": 0.1, "validation": validation}
                )
    return pd.DataFrame(lines).astype({"scarce_slices": "Int64", "seed": "Int64"})


def study_table():
    """STL, transfer and two networks at N = 12 and 30; one of the networks at 12 alone."""
    return pd.concat(
        [
            *(made(ZERO, task, 0.4, seeds=(None,)) for task in ("PDw", "PDw-FS")),
            made(STL, "PDw", 0.90),
            *(made(STL, "PDw-FS", 0.70 + n / 1000, n) for n in (12, 30)),
            *(made(TRANSFER, "PDw-FS", 0.74 + n / 1000, n) for n in (12, 30)),
            *(made(SPLIT, "PDw-FS", 0.75, n, validation=0.6) for n in (12, 30)),
            *(made(SPLIT, "PDw", 0.88, n) for n in (12, 30)),
            made(HEAD, "PDw-FS", 0.80, 12, validation=0.4),
            made(HEAD, "PDw", 0.90, 12),
        ],
        ignore_index=True,
    )


def about(scarce="PDw-FS"):
    counts = Counts(volumes=VOLUMES, slices=VOLUMES * SLICES)
    return About(
        study="made_up",
        definition="paper",
        definition_text=DEFINITIONS["paper"],
        mask=MaskConfig(centre_fractions=(0.07,)),
        data_hash="abc123",
        tasks=("PDw", "PDw-FS"),
        scarce=scarce,
        test={"PDw": counts, "PDw-FS": counts},
        epochs={"mtl": (120,), "stl": (120,)},
        code_versions=("0.1.0 (123+)",),
    )


def compare(table, folder=None, scarce="PDw-FS"):
    return Comparison(Results(about(scarce), table, folder))


def store(table, folder, images=True):
    """Write a folder of results; the images are noise."""
    write_about(about(), folder)
    write_table(table[COLUMNS], folder / TABLE)
    rng = np.random.default_rng(0)
    names = table["trial"].where(table["trial"] != "", table["kind"])
    trials = table.groupby(names)["task"].unique() if images else {}
    for name, tasks in [*trials.items(), *([(REFERENCE, ["PDw", "PDw-FS"])] if images else [])]:
        found = {f"{task}/v{v}": rng.random((24, 20)).astype(np.float16) for task in tasks for v in range(VOLUMES)}
        write_images(images_path(folder, name), found, "")
    return folder
