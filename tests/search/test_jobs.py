"""Fixed jobs: which there are, and that a baseline is what its name says."""

import pytest

from recon.data.loading import Loader
from recon.data.prepared import PreparedData
from search.jobs import baselines, launched
from tests.search.conftest import space

KINDS = {"kinds": ["stl", "stl-steps", "joint-stl", "transfer"]}


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("count", [2, 5])
def test_an_stl_of_equal_steps_takes_the_steps_of_the_multi_task_network(prepared, count, batch_size):
    data = PreparedData(prepared)
    available = {task: len(data.subset(task)) for task in data.tasks}
    wanted = space(
        scarce={"task": "PDw-FS", "slices": [count]}, training={"batch_size": batch_size}, baselines=KINDS
    ).on(available)
    (job,) = [job for job in baselines(wanted, 0, (count,), "baseline", available) if job.kind == "stl-steps"]
    (short,) = [
        job.config
        for job in baselines(wanted, 0, (count,), "baseline", available)
        if job.kind == "stl" and job.config.tasks == ("PDw-FS",)
    ]
    assert job.config == short.model_copy(update={"passes": job.config.passes})
    alone, short, together = (
        Loader(data, one).steps_per_epoch for one in (job.config, short, wanted.train_config(wanted.known()[0]))
    )
    # Whole passes: at most half a pass beside.
    assert abs(alone - together) <= short / 2
    assert alone > short


def test_a_grid_has_its_baselines_at_every_n_and_seed():
    grid = {"rows": [{"layout": "I2V2"}], "seeds": 2}
    scarce = {"task": "PDw-FS", "slices": [3, 12]}
    wanted = space(trials=0, try_first=[], grid=grid, scarce=scarce, objective={"metric": "gain"}, baselines=KINDS)
    jobs = launched(wanted, {"PDw": 30, "PDw-FS": 12})
    found = [(job.kind, job.scarce_slices, job.config.seed) for job in jobs]
    for kind in ("stl", "stl-steps", "joint-stl", "transfer", "mtl"):
        every = [(kind, count, seed) for seed in (0, 1) for count in (3, 12)]
        assert [one for one in found if one[0] == kind and one[1] is not None] == every
    assert [one for one in found if one[1] is None] == [("stl", None, 0), ("stl", None, 1)]
    assert len({job.key for job in jobs}) == len(jobs)
    assert {(job.scarce_slices, job.config.passes) for job in jobs if job.kind == "stl-steps"} == {(3, 11), (12, 4)}
