"""A folder of results: the test results of networks, readable without study, storage and data.

It holds ``trials.json`` (what the numbers are) and tables ``*.csv.gz`` with one line per trial, task and test slice.
Tables of other tools may lie beside ``trials.csv.gz``. If pictures were kept, they are in ``images/``.
``search.results.tested`` writes the folder, ``search.report`` reads it.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from recon.config import Config, MaskConfig
from recon.errors import InputError, sentence
from recon.evaluation.definitions import L1_WAVELET, TRUTH, ZERO_FILLED
from recon.files import replace_file
from recon.stored import read_json

ABOUT = "trials.json"
TABLE = "trials.csv.gz"
"""The study's own table, definition ``paper``. ``validation`` repeats the trial's validation SSIM of the task, by which
one may choose among trials without looking at the test."""
KEYS = ["trial", "kind", "layout", "weighting", "init", "hyperparameters", "scarce_slices", "seed"]
"""What names a tested network; ``hyperparameters`` are those that were searched, such as ``learning_rate=0.001``."""
COLUMNS = [*KEYS, "task", "volume", "slice", "ssim", "psnr", "nrmse", "validation", "weights"]
UNTRAINED = (ZERO_FILLED, L1_WAVELET, TRUTH)
"""Kinds of lines that come from no network, and the names of their images. They have neither N nor seed."""
REFERENCE = "reference"
"""The name of the reference images."""

Images = dict[str, NDArray[np.float16]]
"""By ``task/volume``: the magnitude image of the volume's middle slice; the reference's maximum is 1."""


class Counts(Config):
    """Numbers of tested slices and volumes of a task."""

    volumes: int
    slices: int


class About(Config):
    """``trials.json``: what the numbers in the tables beside it are."""

    study: str
    definition: str
    definition_text: str
    """The definition of the metrics in one sentence."""
    mask: MaskConfig
    """Of every test slice; of a file's path, the name."""
    data_hash: str
    tasks: tuple[str, ...]
    scarce: str | None
    """The task that N cuts."""
    test: dict[str, Counts]
    """By task."""
    epochs: dict[str, tuple[int, ...]]
    """By kind of trial: the epochs that its trainings ran."""
    code_versions: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """What a folder of results holds."""

    about: About
    table: pd.DataFrame
    """All tables of the folder, one below the other: ``COLUMNS``."""
    folder: Path

    def images(self, name: str, weights: str | None = None) -> Images | None:
        """A trial's images, or those of ``REFERENCE`` or a kind of ``UNTRAINED``; None where they were not kept.

        Args:
            name: of a trial, or one of these.
            weights: as the table has them; other ones are refused.

        Raises:
            InputError: the file is damaged, or of other weights.
        """
        path = images_path(self.folder, name)
        if not path.is_file():
            return None
        found, made_by = read_images(path)
        if weights is not None and made_by != weights:
            raise InputError(f"{path} was made by other weights ({made_by}) than the table's line ({weights})")
        return found


def read_results(folder: Path) -> Results:
    """Read a folder of results.

    Raises:
        InputError: no ``trials.json``, nothing tested, or tables that cannot be read or do not belong together.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise InputError(f"{folder} is no folder of results: it holds no {ABOUT}")
    try:
        about = About.model_validate(read_json(path))
    except ValidationError as error:
        raise InputError(f"{path} does not say what the results are: {sentence(error)}") from error
    tables = [table for one in sorted(folder.glob("*.csv.gz")) if len(table := read_table(one))]
    if not tables:
        raise InputError(f"{folder} holds no tested networks yet")
    table = pd.concat(tables, ignore_index=True)
    _check(table, about, folder)
    return Results(about, table, folder)


def _check(table: pd.DataFrame, about: About, folder: Path) -> None:
    """Every configuration and seed has each test slice of a task once: else nothing can be paired."""
    keys = [*KEYS[1:], "task"]
    twice = table.duplicated([*keys, "volume", "slice"])
    if twice.any():
        line = table.loc[twice, KEYS[1:]].iloc[0]
        alike = ", ".join(f"{name} {value}" for name, value in line.items() if pd.notna(value) and value != "")
        raise InputError(f"{folder}: two tested networks are alike ({alike}), so tables cannot tell them apart")
    in_all = table[["task", "volume", "slice"]].drop_duplicates()["task"].value_counts().to_dict()
    sizes = table.groupby(keys, dropna=False, sort=False).size().reset_index(name="slices")
    for kind, task, slices in zip(sizes["kind"], sizes["task"], sizes["slices"], strict=True):
        wanted = about.test[task].slices if task in about.test else 0
        if slices != wanted or in_all[task] != wanted:
            raise InputError(
                f"{folder}: {kind} was tested on {slices} slices of {task} ({in_all[task]} in all tables together), "
                f"where {ABOUT} says {wanted}"
            )


def write_about(about: About, folder: Path) -> None:
    """Write ``trials.json``."""
    with replace_file(folder / ABOUT) as fresh:
        fresh.write_text(about.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of tested trials; text stays text, and an empty field an empty text.

    Raises:
        InputError: it is damaged, or not such a table.
    """
    numbers = {"seed": "Int64", "scarce_slices": "Int64", "slice": "int64"}
    numbers |= dict.fromkeys(("ssim", "psnr", "nrmse", "validation"), "float64")
    try:
        table = pd.read_csv(path, dtype="str", keep_default_na=False, compression="gzip")
        if list(table.columns) != COLUMNS:
            raise InputError(f"{path} has other columns than the tables of this version: {', '.join(COLUMNS)}")
        for name in numbers:
            table[name] = pd.to_numeric(table[name].replace("", pd.NA))
        return table.astype(numbers)
    except (OSError, EOFError, ValueError, TypeError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error})") from error


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table of tested trials; equal tables give equal bytes."""
    # Without the temporary file's name and the time, which gzip would note.
    with (
        replace_file(path) as fresh,
        fresh.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
    ):
        table.to_csv(packed, index=False, float_format="%.6f")


def images_path(folder: Path, name: str) -> Path:
    """The path of a trial's images in a folder of results."""
    return folder / "images" / f"{name}.npz"


def read_images(path: Path) -> tuple[Images, str]:
    """Images and the identity of the weights that made them.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
            return found, str(found.pop("weights"))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read as images ({error})") from error


def write_images(path: Path, images: Mapping[str, NDArray[np.float16]], weights: str) -> None:
    """Write images and the identity of the weights that made them."""
    members: dict[str, Any] = {**images, "weights": np.array(weights)}
    with replace_file(path) as fresh, fresh.open("wb") as file:
        np.savez_compressed(file, **members)
