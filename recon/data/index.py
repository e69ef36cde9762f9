"""The index of a prepared data set: one line per slice, read and written with exact types."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

import numpy as np
import pandas as pd

from recon.files import replace_file

Split = Literal["train", "val", "test"]
Cut = Literal["volumes", "slices"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class IndexRow(NamedTuple):
    """A line of the index: one slice."""

    slice_id: int
    task: str
    volume: str
    patient: str
    slice: int
    split: Split
    coils: int
    rows: int
    columns: int
    pad_left: int
    """Columns at the left edge that were never acquired (zero)."""
    pad_right: int
    """Number of columns at the right edge that were never acquired (zero)."""
    crop_rows: int
    crop_columns: int
    scale: float
    """Largest target magnitude of the volume inside the crop; k-space and target are divided by it at loading."""
    rank_volumes: int
    """Place in the nested order by volumes of the task's training slices; -1 outside training."""
    rank_slices: int
    """Place in the nested order by slices; -1 outside training."""
    file: str
    """The volume's file, relative to the data set's folder."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of k-space and image."""
        return self.rows, self.columns

    @property
    def padding(self) -> tuple[int, int]:
        """Columns at the left and at the right edge that were never acquired."""
        return self.pad_left, self.pad_right


def _index_dtypes() -> dict[str, Any]:
    kinds = {int: np.dtype(np.int64), float: np.dtype(np.float64)}
    # Everything else (str, Split) is text: "007" stays a patient's name, "NA" a task's.
    return {name: kinds.get(kind, "str") for name, kind in get_type_hints(IndexRow).items()}


INDEX_DTYPES: dict[str, Any] = _index_dtypes()


def empty_index() -> pd.DataFrame:
    """An index without slices, with the columns and types that every index has."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in INDEX_DTYPES.items()})


def read_index(path: Path) -> pd.DataFrame:
    """Read ``index.csv`` with exact types: text stays text, and the scale keeps every bit."""
    # pandas' own parser of floats may miss the last bit; Python's, which astype calls, does not.
    as_text = {name: "str" if kind == np.float64 else kind for name, kind in INDEX_DTYPES.items()}
    return pd.read_csv(path, dtype=as_text, na_filter=False).astype(INDEX_DTYPES)


def write_index(path: Path, index: pd.DataFrame) -> None:
    """Write ``index.csv`` whole or not at all."""
    with replace_file(path) as fresh:
        index.to_csv(fresh, index=False)
