"""The peer sees what our networks see, and its rows stand where a report looks for them."""

import pandas as pd
import pytest
import torch

from benchmarks import peer
from recon.data.loading import Loader
from recon.data.prepared import PreparedData
from recon.physics.operators import ColumnSense, Sense
from search.results.folder import COLUMNS
from tests.search.conftest import space


def small(prepared):
    wanted = space(
        unroll={"blocks": 2, "channels": 2, "pools": 1},
        fidelity={"epochs": 1, "rungs": []},
        training={"batch_size": 2},
        trials=0,
        try_first=[],
        grid={"rows": [{"layout": "I2"}], "seeds": 2},
        layouts={"kind": "list", "choices": ["I2"]},
        scarce={"task": "PDw-FS", "slices": [2, 4]},
        objective={"metric": "gain"},
    )
    data = PreparedData(prepared)
    return wanted.on({task: len(data.subset(task)) for task in data.tasks}), data


def test_the_peer_is_trained_on_the_images_masks_and_order_of_our_networks(prepared):
    wanted, data = small(prepared)
    (job, *_) = peer.jobs(wanted, prepared, 1e-3, [2], [0], True)
    assert job.config == wanted.reference_config("stl", "PDw", None, 0).model_copy(update={"learning_rate": 1e-3})
    for batch in Loader(data, job.config).training_batches(1):
        ours = ColumnSense(batch.maps, batch.mask).adjoint(batch.kspace)
        for place, one in enumerate(batch.slice_ids):
            kspace, maps, target = peer.tensors(prepared, one)
            mask = batch.mask[place, 0, 0]
            theirs = Sense(maps[None], mask).adjoint((kspace * mask)[None])[0]
            torch.testing.assert_close(theirs, ours[place], rtol=0, atol=1e-5)
            torch.testing.assert_close(target, batch.target[place])


def test_muons_rate_goes_with_the_peers(prepared):
    wanted, _ = small(prepared)
    training = wanted.training.model_copy(update={"optimiser": "muon", "muon_learning_rate": 0.01})
    (job, *_) = peer.jobs(wanted.model_copy(update={"training": training}), prepared, 6e-4, [2], [0], True)
    assert job.config.muon_learning_rate / 0.01 == pytest.approx(job.config.learning_rate / training.learning_rate)


def test_a_peers_rows_have_every_test_slice_of_its_task(prepared):
    wanted, _ = small(prepared)
    jobs = peer.jobs(wanted, prepared, 1e-3, [2, 4], [0, 1], True)
    assert len({job.name for job in jobs}) == len(jobs) == 2 * (1 + 2)
    made = peer.run(jobs[1])
    assert made.found is not None
    table = made.found.table
    opened = PreparedData(prepared, open_test=True)
    assert list(table.columns) == COLUMNS
    assert len(table) == len(opened.subset("PDw-FS", split="test"))
    assert set(table["kind"]) == {"fastmri"}
    assert set(table["scarce_slices"]) == {2}
    assert set(table["hyperparameters"]) == {"1 epochs"}
    assert pd.api.types.is_float_dtype(table["ssim"])
    assert table["ssim"].between(0, 1).all()
    assert list(made.found.images) == [jobs[1].name]


def test_the_peers_rate_is_chosen_on_validation_and_kept(prepared, tmp_path, monkeypatch):
    wanted, _ = small(prepared)
    tried = []

    def pretended(function, jobs):
        for job in jobs:
            assert not job.test, "the test split stays closed while the rate is chosen"
            tried.append(job.config.learning_rate)
            score = float("nan") if job.config.learning_rate == 1e-2 else 0.5 - abs(job.config.learning_rate - 1e-3)
            yield peer.Made(job, score, None)

    rate, scores = peer.chosen_rate(wanted, prepared, tmp_path / "rates.json", pretended)
    assert rate == 1e-3
    assert scores["0.01"] is None
    assert len(tried) == 2 * len(peer.CANDIDATES)
    again = peer.chosen_rate(wanted, prepared, tmp_path / "rates.json", pretended)
    assert (again, len(tried)) == ((rate, scores), 2 * len(peer.CANDIDATES))
    longer = peer.longer(wanted, 2)
    peer.chosen_rate(longer, prepared, tmp_path / "rates.json", pretended)
    assert len(tried) == 4 * len(peer.CANDIDATES), "other trainings, other scores"
    names = [peer.jobs(one, prepared, 1e-3, [2], [0], True)[0].name for one in (wanted, longer)]
    assert names[0] != names[1]
