"""The final test of a bundle. The test split is opened only here.

It writes per-slice and summary tables that name the metrics' definitions. For every task it draws the reference and the
zero-filled, classical and learnt reconstructions with their errors; for simulated data, also the noise-free truth.
``recon.evaluation.compare`` reconstructs and measures the slices.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from recon.bundle import Bundle, slugs
from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.evaluation.compare import Method, VolumeImages, evaluate
from recon.evaluation.definitions import DEFINITIONS, L1_WAVELET, METRICS, TRUTH, TRUTH_IS, ZERO_FILLED
from recon.evaluation.measure import measure
from recon.evaluation.methods import l1_wavelet, network_method, noise_free_truth, tune_l1_wavelet, zero_filled
from recon.evaluation.pictures import Column, draw_columns
from recon.files import replace_file

NETWORK = "network"


@dataclass(frozen=True)
class TestResult:
    """What the final test found.

    Attributes:
        slices: ``task, volume, slice, method, definition, ssim, psnr, nrmse``; one row per slice, method and
            definition.
        summary: mean and standard deviation over slices; one row per task, method and definition.
        files: the written tables and pictures.
    """

    __test__ = False  # pytest must not take it for a test class

    slices: pd.DataFrame
    summary: pd.DataFrame
    files: list[Path]


def final_test(
    bundle: Bundle,
    data: PreparedData,
    out: Path,
    *,
    classical: bool = True,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> TestResult:
    """Test a bundle on the test split of prepared data.

    Args:
        bundle: the network and its configuration, whose test mask is used for every slice.
        data: prepared data opened with ``open_test=True``.
        out: folder for ``slices.csv``, ``summary.csv``, ``test.json`` and one picture per task.
        classical: also reconstruct with sigpy's ℓ1-wavelet, with λ tuned on the validation split.
        device: where the network runs.
        progress: called with a line of text as the work goes on.

    Raises InputError if the data lack a task of the bundle or its test slices, or were not opened for testing.
    """
    tasks = bundle.config.tasks
    missing = [task for task in tasks if task not in data.tasks]
    if missing:
        raise InputError(f"the data hold {', '.join(data.tasks)}, but the bundle reconstructs {', '.join(missing)} too")
    for task in tasks:
        if not data.subset(task, split="test"):
            raise InputError(f"{data.path} has no test slices of {task}")
    say = progress or (lambda line: None)
    mask = bundle.config.masks.test
    network = bundle.network.to(device).eval()
    methods: dict[str, dict[str, Method]] = {}
    tuned: dict[str, dict[str, float]] = {}
    for task in tasks:
        methods[task] = {ZERO_FILLED: zero_filled}
        if classical:
            tuning = tune_l1_wavelet(data, task, bundle.config.masks.val)
            tuned[task] = {f"{value:g}": score for value, score in tuning.scores.items()}
            methods[task][L1_WAVELET] = l1_wavelet(tuning.regularisation)
            best = max(tuning.scores.values())
            say(f"{task}: ℓ1-wavelet λ = {tuning.regularisation:g}, tuned on validation (SSIM {best:.4f})")
        if data.knows_truth(task, "test"):
            methods[task][TRUTH] = noise_free_truth
        methods[task][NETWORK] = network_method(network.for_task(task), task, device)

    out = Path(out)
    tables: list[pd.DataFrame] = []
    shown: dict[str, VolumeImages] = {}
    for pictures, table in evaluate(data, "test", methods, mask):
        tables.append(table)
        shown.setdefault(pictures.task, pictures)
        say(f"{pictures.task}: {pictures.volume}, {len(pictures.reference)} slices")
    slices = pd.concat(tables, ignore_index=True)
    summary = summarise(slices)
    files = [out / "slices.csv", out / "summary.csv", out / "test.json"]
    with replace_file(files[0]) as fresh:
        slices.to_csv(fresh, index=False, float_format="%.6f")
    with replace_file(files[1]) as fresh:
        summary.to_csv(fresh, index=False, float_format="%.6f")
    with replace_file(files[2]) as fresh:
        about = {
            "definitions": {name: DEFINITIONS[name] for name in slices["definition"].unique()},
            "mask": mask.model_dump(mode="json"),
            "data_hash": data.hash,
            "layout": bundle.config.network.layout,
            "l1_wavelet_validation_ssim": tuned,
            "notes": [TRUTH_IS] if (slices["method"] == TRUTH).any() else [],
            "provenance": bundle.provenance,
        }
        fresh.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    for task, name in slugs(tasks).items():
        files.append(out / f"{name}.png")
        draw_methods(shown[task], files[-1])
    return TestResult(slices, summary, files)


def summarise(slices: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over slices of every metric: one row per task, method and definition."""
    keys = ["task", "method", "definition"]
    grouped = slices.groupby(keys, sort=False)
    counts = grouped.agg(volumes=("volume", "nunique"), slices=("slice", "size"))
    moments = grouped[["ssim", "psnr", "nrmse"]].agg(["mean", "std"])
    moments.columns = pd.Index(["_".join(pair) for pair in moments.columns.to_flat_index()])
    table = counts.join(moments).reset_index()
    table["definition_text"] = table["definition"].map(DEFINITIONS)
    return table


def draw_methods(pictures: VolumeImages, path: Path) -> None:
    """Draw a volume's middle slice: the reference and every method; below each, its error and metrics (``paper``)."""
    middle = len(pictures.reference) // 2
    reference = pictures.reference[middle]
    columns = []
    for name, stack in pictures.images.items():
        one = measure(torch.from_numpy(stack[middle])[None], torch.from_numpy(reference)[None])
        ssim, psnr, nrmse = (float(one[metric][0]) for metric in METRICS)
        columns.append(Column(name, stack[middle], f"SSIM {ssim:.3f}\npSNR {psnr:.2f} dB   nRMSE {nrmse:.3f}"))
    title = f"{pictures.task}, {pictures.volume}, slice {middle + 1} of {len(pictures.reference)}"
    with replace_file(path) as fresh:
        draw_columns(reference, columns, title).savefig(fresh, dpi=150, format="png")
