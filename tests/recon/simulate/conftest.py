"""One small simulated examination of each split, shared by the tests of this folder."""

from pathlib import Path

import pytest

from recon.simulate import simulate

SMALL = {"matrix": 48, "slices": 5, "coils": 5, "seed": 3}


@pytest.fixture(scope="session")
def knees(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("knees")
    simulate(folder, subjects={"train": 2, "val": 1, "test": 1}, **SMALL)
    return folder
