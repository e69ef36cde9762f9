from pathlib import Path

import pytest

from recon.data.prepare import prepare
from tests.recon.data import rawfiles


def make_folder(root: Path) -> Path:
    """Raw volumes of six patients, each with both knee contrasts, in one folder."""
    for number in range(6):
        for acquisition in ("CORPD_FBK", "CORPDFS_FBK"):
            rawfiles.make(
                root / f"p{number}_{acquisition}.h5",
                acquisition=acquisition,
                patient=f"p{number}",
                slices=2 + number % 2,
                seed=10 * number + len(acquisition),
            )
    return root


@pytest.fixture(scope="session")
def raw_folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="session")
def prepared_folder(raw_folder, tmp_path_factory):
    """``raw_folder`` prepared; not to be written to."""
    out = tmp_path_factory.mktemp("prepared")
    assert prepare(raw_folder, out).ok
    return out
