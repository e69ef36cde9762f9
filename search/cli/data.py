"""Commands on data: simulate, prepare, inspect."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from recon.config import MasksConfig
from recon.data.options import PrepareOptions
from search.cli.app import app
from search.cli.fields import Offered, changed, offering, validated
from search.cli.options import Axes, axis_names, named_glob
from search.cli.talk import bar, talk

PROBLEMS_SHOWN = 20
"""The most findings that prepare prints; all are in problems.csv."""


@app.command()
def simulate(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT_DIR", help="Folder of the raw files; they lie in train/, val/ and test/ inside."),
    ],
    train: Annotated[int, typer.Option(help="Number of training subjects; each gives one volume per contrast.")] = 8,
    val: Annotated[int, typer.Option(help="Number of validation subjects.")] = 2,
    test: Annotated[
        int, typer.Option(help="Number of test subjects; they come from a knee that no other subject comes from.")
    ] = 2,
    matrix: Annotated[int, typer.Option(help="Number of rows and of columns of the reconstructed image.")] = 320,
    slices: Annotated[int, typer.Option(help="Number of coronal slices per volume.")] = 30,
    coils: Annotated[int, typer.Option(help="Number of receive coils.")] = 15,
    snr: Annotated[
        float,
        typer.Option(
            help="SNR of muscle in the combined proton-density image; inspect shows the ceiling that it sets."
        ),
    ] = 30.0,
    seed: Annotated[int, typer.Option(help="Seed; the same one gives the same files bit for bit.")] = 0,
    contrast: Annotated[
        list[str] | None,
        typer.Option(help="Contrast to simulate: PDw, PDw-FS or T2w; repeatable. Default: PDw and PDw-FS."),
    ] = None,
    format: Annotated[
        Literal["fastmri", "ismrmrd", "hammernik", "cfl", "numpy"],
        typer.Option(
            help="Format of the files: fastMRI's HDF5, ISMRMRD with a noise scan, MATLAB's, BART's or NumPy's."
        ),
    ] = "fastmri",
    workers: Annotated[int, typer.Option(min=1, help="Number of subjects to make side by side.")] = os.cpu_count() or 1,
) -> None:
    """Simulate raw k-space of knees in two or three contrasts.

    The folder may hold volumes of the same settings already: more subjects and more contrasts can be added. Volumes of
    other settings are refused.

    Example: splitpoint simulate data/raw --train 8 --val 2 --test 2 --matrix 64 --coils 8
    """
    from recon.simulate import simulate as run
    from recon.simulate.simulation import CONTRASTS
    from search.run.parallel import side_by_side

    with bar("simulating", "volumes") as step, side_by_side(workers) as mapped:
        files = run(
            out,
            subjects={"train": train, "val": val, "test": test},
            matrix=matrix,
            slices=slices,
            coils=coils,
            snr=snr,
            seed=seed,
            contrasts=contrast or CONTRASTS,
            format=format,
            refuse_others=True,
            map=mapped,
            progress=step,
        )
    talk.print(f"{len(files)} volumes in {out}")


PREPARE_FIELDS = (
    Offered.of("calibration"),
    Offered.of("calibration_width"),
    Offered.of("eigenvalue_crop"),
    Offered.of("maps_sets"),
    Offered.of("target"),
    Offered.of("espirit"),
    Offered.of("maps"),
    Offered.of("prewhiten"),
    Offered.of("coils"),
    Offered.of("compression"),
    Offered.of("hints.oversampling"),
    Offered.of("hints.images"),
    Offered.of("patients"),
    Offered.of("split"),
    Offered.of("split_seed"),
    Offered.of("subset_seed"),
)


@app.command()
@offering(PrepareOptions, *PREPARE_FIELDS)
def prepare(
    raw: Annotated[list[Path], typer.Argument(metavar="RAW", help="Raw files, or folders of raw files.")],
    out: Annotated[Path, typer.Option(help="Folder of the prepared data set.")],
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=GLOB", help="Name of the task of all files that a glob matches; repeatable."),
    ] = None,
    axes: Axes = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PREPARED", help="Prepared data set from which to take the maps of equal samples; repeatable."
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster: auto on one of its hosts, or HOST:PORT; default: this machine."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of volumes to prepare side by side; default: as many as fit and pay."),
    ] = None,
    fields: Mapping[str, Any] = {},
) -> None:
    """Prepare raw k-space for training.

    Reads ISMRMRD, fastMRI, M4Raw, Siemens .dat, CMRxRecon, SKM-TEA, Calgary-Campinas, Hammernik's .mat, BART's .cfl and
    NumPy's .npy. Writes coil maps, targets, the split, and nested subsets of each task into one folder. Problems with a
    file are shown and written to problems.csv. The same command again continues what is unfinished.

    Example: splitpoint prepare data/raw --out data/prepared
    """
    import pandas as pd

    changes: dict[str, Any] = dict(fields)
    if axes:
        changes["hints.axes"] = axis_names(axes)
    if task:
        changes["tasks"] = dict(named_glob(text) for text in task)
    flags = {one.name: one.flag for one in PREPARE_FIELDS} | {"hints.axes": "--axes", "tasks": "--task"}
    options = validated(PrepareOptions, changed({}, changes), flags)

    from recon.data.prepare import prepare as run
    from search.run.parallel import file_bytes, processes, ray_map, side_by_side

    # Ray where there is a cluster; on one machine processes cost less.
    parallel = side_by_side(processes(workers, file_bytes(raw))) if address is None else ray_map(address, workers)
    with bar("preparing", "volumes") as step, parallel as mapped:
        report = run(
            raw, out, options, reuse=reuse or [], map=mapped, progress=lambda done, total, result: step(done, total)
        )
    # What many files have in common is one line.
    alike = list(report.problems.groupby(["severity", "what"], sort=False))
    for (severity, what), group in alike[:PROBLEMS_SHOWN]:
        first, more = group.iloc[0], len(group) - 1
        where = "" if first["slice"] is pd.NA else f" slice {first['slice']}:"
        talk.print(f"{severity}: {first['file']}:{where} {what}" + (f" ({more} more like this)" if more else ""))
    if len(alike) > PROBLEMS_SHOWN or any(len(group) > 1 for _, group in alike):
        talk.print(f"all {len(report.problems)} findings: {out / 'problems.csv'}")
    done = (
        f"{len(report.prepared)} volumes prepared, {len(report.kept)} kept, {len(report.duplicates)} listed twice, "
        f"{len(report.failed)} left out"
    )
    if report.slices_left_out:
        done += f", and {report.slices_left_out} slices of the others"
    talk.print(f"{done} in {report.seconds:.0f} s: {out}, hash {(report.hash or 'none')[:12]}")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def inspect(
    data: Annotated[Path, typer.Argument(metavar="PREPARED", help="Prepared data set.")],
    out: Annotated[
        Path | None, typer.Option(help="File of the contact sheet (PNG); default: PREPARED/contact_sheet.png.")
    ] = None,
    slices: Annotated[int, typer.Option(min=1, help="Number of slices per task on the sheet.")] = 3,
    space: Annotated[
        Path | None, typer.Option(help="Space (YAML) whose masks to count and draw; default: the paper's masks.")
    ] = None,
) -> None:
    """Say what prepared data hold, and draw a contact sheet.

    Prints one line per task and split, and draws images, maps and masks of a few slices. `kept` is the least share of
    the object's energy that the maps of a slice keep, noise apart; it should be near 1. For simulated data, also
    prints the ceiling: the SSIM of the noise-free truth on validation. If it is low, simulate at a higher --snr.

    Example: splitpoint inspect data/prepared --space spaces/quickstart.yaml
    """
    from recon.data.inspect import contact_sheet, summary
    from recon.data.prepared import PreparedData
    from recon.evaluation.definitions import TRUTH, TRUTH_IS
    from search.results.text import plain_table
    from spaces.reading import load_space

    prepared = PreparedData(data)
    masks = load_space(space).training.masks if space is not None else MasksConfig()
    table = summary(prepared, masks)
    table["kept"] = table["kept"].round(3)
    if "ceiling" in table:
        table["ceiling"] = table["ceiling"].round(3)
    sys.stdout.write(plain_table(table))
    if "ceiling" in table:
        talk.print(f"ceiling: mean SSIM, definition «paper», of the {TRUTH} on validation. {TRUTH_IS}")
    path = contact_sheet(prepared, out or data / "contact_sheet.png", slices=slices, mask=masks.val)
    talk.print(f"hash {prepared.hash[:12]}, contact sheet {path}")
