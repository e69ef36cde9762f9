"""What the tests of training share."""

import pytest

from recon.data.prepared import PreparedData
from recon.training.loop import train
from tests.recon.networks import small


@pytest.fixture(scope="module")
def once(prepared, tmp_path_factory):
    """The checkpoint of a training of one epoch."""
    folder = tmp_path_factory.mktemp("once") / "c"
    train(small(epochs=1), PreparedData(prepared), report=lambda report: report.save(folder))
    return folder
