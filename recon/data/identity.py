"""What makes two prepared volumes the same: hashes of raw samples, header facts and recipe.

The hashes leave out computed floats, dates and paths, so that equal raw data and options have one identity on every
machine.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recon.data import volume
from recon.data.options import PrepareOptions
from recon.data.readers import RawVolume

RECIPE_VERSION = 3
"""Raised when the same raw data and options begin to give other numbers: what was prepared before is prepared again."""


def volume_key(facts: Mapping[str, Any], kspace_sha256: str) -> str:
    """Identity of a volume file's content: raw samples, the header facts that were used, and the recipe."""
    return digest({**facts, "source": None, "kspace_sha256": kspace_sha256})


def calibration_key(
    raw: RawVolume, options: PrepareOptions, matrices: volume.CoilMatrices, kspace_sha256: str, source_sha256: str
) -> str:
    """Identity of a volume's maps: everything that they are made from, and not the name of the file."""
    fields = {"maps", "espirit", "calibration", "calibration_width", "eigenvalue_crop", "calibration_mask", "maps_sets"}
    stored = {name: hashlib.sha256(matrix.tobytes()).hexdigest() for name, matrix in matrices.stored().items()}
    mask = None if raw.mask is None else raw.mask.tolist()
    return digest(
        {
            "version": RECIPE_VERSION,
            "recipe": json.loads(options.model_dump_json(include=fields)),
            "kspace_sha256": kspace_sha256,
            "matrices": stored,
            "columns": [raw.pad_left, raw.pad_right, mask],
            "image_rows": raw.image_rows,
            # Maps and calibration lines that come with the file are in it, not in the samples.
            "source": source_sha256 if options.maps == "own" or raw.load_calibration is not None else None,
        }
    )


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def files_sha256(paths: Sequence[Path]) -> str:
    """SHA-256 of the bytes of the files that make up a volume, in order."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what shaped the data, for provenance."""
    return {name: importlib.metadata.version(name) for name in ("splitpoint", "numpy", "sigpy", "h5py", "ismrmrd")}
