"""Commands on a trained network: the final test, and reconstruction of raw files."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from recon.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
from search.cli.app import app, complain
from search.cli.fields import validated
from search.cli.options import RUNS, Axes, Device, RunsDir, Storage, Threads, axis_names, use_threads
from search.cli.talk import bar, stages, talk


@app.command("test")
def run_test(
    bundle: Annotated[Path | None, typer.Argument(metavar="[BUNDLE]", help="Folder of an exported bundle.")] = None,
    data: Annotated[Path | None, typer.Option(help="Prepared data set; default with --study: the study's.")] = None,
    study: Annotated[
        str | None, typer.Option(metavar="STUDY", help="Study whose networks to test, all seeds, instead of a bundle.")
    ] = None,
    storage: Storage = None,
    runs_dir: RunsDir = RUNS,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of a study's networks to test side by side.")
    ] = os.cpu_count() or 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder of tables and pictures; default: test/ beside the bundle.")
    ] = None,
    classical: Annotated[
        bool, typer.Option(help="Test sigpy's ℓ1-wavelet reconstruction too, tuned on validation.")
    ] = True,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Test a bundle on the test split, which nothing else opens.

    The network is compared with the zero-filled image and sigpy's ℓ1-wavelet reconstruction and, for simulated data,
    with the noise-free truth, which is the ceiling. The summary goes to standard output; tables of every slice and one
    picture per task go into the folder.

    With --study, tests every network that the study trained over its seeds instead, slice by slice, for the tables of
    its report. The same command again tests only what is new.

    Example: splitpoint test runs/first/bundle --data data/prepared
    """
    if (bundle is None) == (study is None):
        raise InputError("give a bundle, or a study with --study")
    if study is not None and (out is not None or not classical):
        raise InputError("--out and --no-classical are of a bundle's test; a study's goes into its own folder")
    if study is None and data is None:
        raise InputError("--data is missing: the prepared data whose test split is opened")
    use_threads(threads)
    from recon import bundle as bundles
    from recon.data.prepared import PreparedData
    from recon.device import choose_device
    from recon.evaluation.definitions import TRUTH, TRUTH_IS
    from recon.evaluation.final_test import NETWORK, final_test
    from search.results.text import plain_table

    if study is not None:
        test_networks(study, storage, runs_dir, data, workers, str(choose_device(device)))
        return
    assert bundle is not None  # as checked above, like the next line
    assert data is not None
    loaded = bundles.load(bundle)
    folder = out or bundle.resolve().parent / "test"
    with stages("testing") as say:
        result = final_test(
            loaded,
            PreparedData(data, open_test=True),
            folder,
            classical=classical,
            device=str(choose_device(device)),
            progress=say,
        )
    shown = result.summary[result.summary["definition"] == "paper"]
    names = ["task", "method", "volumes", "slices", "ssim_mean", "ssim_std", "psnr_mean", "nrmse_mean"]
    sys.stdout.write(plain_table(shown[names].round(4)))
    for line in against_classical(result.slices):
        talk.print(line)
    if shown["method"].eq(TRUTH).any():
        talk.print(TRUTH_IS)
    for kind, suffix in (("tables", ".csv"), ("pictures", ".png")):
        paths = [str(path) for path in result.files if path.suffix == suffix]
        talk.print(f"{kind}: {'  '.join(paths)}")
    talk.print(f"bundle: {bundle} ({loaded.config.network.layout}, method «{NETWORK}» above)")


@app.command()
def reconstruct(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of an exported bundle.")],
    raw: Annotated[list[Path], typer.Argument(metavar="RAW", help="Raw files of any format, or folders of raw files.")],
    out: Annotated[Path, typer.Option(help="File to write, or a folder for files named as the raw volumes.")],
    task: Annotated[
        str | None, typer.Option(help="Task of the files, one of the bundle's; default: as each file says.")
    ] = None,
    axes: Axes = None,
    oversampling: Annotated[
        float | None, typer.Option(help="Readout oversampling, where the file does not say it or says it wrongly.")
    ] = None,
    images: Annotated[
        Literal["one", "volumes", "average"] | None,
        typer.Option(help="How to take a file that holds several images of each slice: one refuses it."),
    ] = None,
    format: Annotated[
        Literal["fastmri", "nifti", "png"] | None,
        typer.Option(
            help="Format of the images: fastMRI's HDF5, NIfTI, or a PNG of all slices; default: as --out ends (.h5, "
            ".nii.gz, .nii, .png), and fastMRI's in a folder."
        ),
    ] = None,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Run a bundle on raw files, and write images.

    Writes one file per raw volume. fastMRI's HDF5 holds `reconstruction` (slices, rows, columns), which fastMRI's own
    evaluation reads; NIfTI holds voxel size and place in the patient, too. Raw files are prepared like the bundle's
    training data. Undersampled files are reconstructed from their own samples, fully sampled files from the lines that
    the bundle's test mask keeps.

    Example: splitpoint reconstruct runs/first/bundle data/raw/test --out reconstructions
    """
    use_threads(threads)
    from recon import bundle as bundles
    from recon.data.prepare import find
    from recon.data.readers import Hints
    from recon.reconstruct import reconstruct_files

    loaded = bundles.load(bundle)
    options = loaded.prepare_options
    asked = {"axes": axis_names(axes), "oversampling": oversampling, "images": images}
    hints = options.hints.model_dump(exclude_unset=True) | {name: one for name, one in asked.items() if one is not None}
    given = validated(Hints, hints, {name: f"--{name}" for name in asked})
    options = options.model_copy(update={"hints": given})
    files = [source.path for source in find(raw)]
    done, left_out = 0, 0
    with bar("reconstructing", "files") as step:
        for made in reconstruct_files(
            loaded, files, out, task=task, options=options, format=format, device=device, progress=step
        ):
            if isinstance(made, InputError):
                left_out += 1
                complain(str(made), 1)
                continue
            done += 1
            for note in made.notes:
                talk.print(f"{made.path}: {note}")
            print(made.path)
    if left_out:
        raise typer.Exit(complain(f"{left_out} of {done + left_out} volumes were left out", 1))


def against_classical(slices: pd.DataFrame) -> Iterator[str]:
    """The network's SSIM minus the ℓ1-wavelet's for each task, paired by slice, with an interval over volumes."""
    from recon.evaluation.definitions import L1_WAVELET
    from recon.evaluation.final_test import NETWORK
    from search.report.compare import difference

    paper = slices[slices["definition"] == "paper"]
    for task, rows in paper.groupby("task", sort=False):
        ssim = rows.pivot(index=["volume", "slice"], columns="method", values="ssim")
        if L1_WAVELET in ssim:
            found = difference((ssim[NETWORK] - ssim[L1_WAVELET]).to_frame())
            interval = "" if math.isnan(found.low) else f" [{found.low:+.4f}, {found.high:+.4f}]"
            yield f"{task}: {NETWORK} minus {L1_WAVELET} {found.mean:+.4f}{interval}, 95 % over volumes"


def test_networks(
    study: str, storage: str | None, runs_dir: Path, data: Path | None, workers: int, device: str
) -> None:
    """Test a study's networks, and print the mean of each configuration over its seeds."""
    from recon.evaluation.definitions import TRUTH, TRUTH_IS
    from search.results.folder import KEYS, TABLE
    from search.results.tested import study_test
    from search.results.text import plain_table
    from search.run.parallel import side_by_side
    from search.study.open import open_study

    opened = open_study(study, storage, runs_dir)
    with bar("testing", "networks") as step, side_by_side(workers) as mapped:
        table = study_test(opened, data, device=device, map=mapped, progress=step)
    groups = [one for one in (*KEYS, "task") if one not in ("trial", "seed")]
    by_seed = table.groupby([*groups, "seed"], dropna=False, sort=False)[["ssim", "psnr", "nrmse"]].mean().reset_index()
    grouped = by_seed.groupby(groups, dropna=False, sort=False)
    means = grouped[["ssim", "psnr", "nrmse"]].mean().assign(seeds=grouped.size()).reset_index()
    sys.stdout.write(plain_table(means.rename(columns={"scarce_slices": "N"}).round(4)))
    if means["kind"].eq(TRUTH).any():
        talk.print(TRUTH_IS)
    talk.print(f"table: {opened.folder / 'test' / TABLE}")
