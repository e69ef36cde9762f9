"""What the tests of searching share: a small space, pretended data, and one Ray for the session."""

import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import ray

from search import cli
from search.run.cluster import _ENVIRONMENT
from search.run.facts import DataFacts
from spaces.reading import parse_space
from spaces.space import Space

SPACE = """
tasks: [PDw, PDw-FS]
scarce: {task: PDw-FS, slices: [12]}
unroll: {blocks: 4, channels: 2, pools: 1}
layouts: {kind: free, max_changes: 2}
weightings: [naive, dwa]
start: {init: random}
fidelity: {epochs: 6, rungs: [2, 4]}
try_first: [{layout: I2V2}, {layout: I2Y2, weighting: dwa}]
trials: 10
sampler: {startup: 4}
"""


def space(**changes: Any) -> Space:
    return Space.model_validate({**parse_space(SPACE).model_dump(), **changes})


def listed(*layouts: str, **changes: Any) -> Space:
    """A space of a few layouts, naive weighting, none tried first, no baselines beyond STL, no rungs."""
    given = {
        "layouts": {"kind": "list", "choices": layouts},
        "weightings": ["naive"],
        "try_first": [{"layout": layout} for layout in layouts],
        "fidelity": {"epochs": 4, "rungs": []},
        "trials": len(layouts),
        "baselines": {"kinds": []},
    }
    return space(**{**given, **changes})


def facts(folder: Path, hash: str = "abc") -> DataFacts:
    folder.mkdir(parents=True, exist_ok=True)
    return DataFacts(folder, hash, {"PDw": 40, "PDw-FS": 30}, {"calibration_width": 16})


def steer(folder: Path, **behaviour: dict) -> None:
    """Tell the pretended trainer what befalls a layout and weighting (``I4_naive={'raise_at': 2}``)."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {name.replace("_", "/"): what for name, what in behaviour.items()}
    (folder / "steer.json").write_text(
        json.dumps({"*" if name == "every" else name: what for name, what in named.items()})
    )


@pytest.fixture
def plain_environment(monkeypatch, tmp_path):
    """A folder of its own, and no settings that the tests' own user has."""
    for name in ("SPLITPOINT_RUNS", "SPLITPOINT_STORAGE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def splitpoint(monkeypatch, capsys):
    """Run a command in this process: -> (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["splitpoint", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture(scope="session")
def local_ray():
    os.environ.update(_ENVIRONMENT)
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    folder = tempfile.mkdtemp(prefix="sp-", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
