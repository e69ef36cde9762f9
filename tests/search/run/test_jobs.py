"""Fixed jobs: which there are, and that a baseline is what its name says."""

import pytest

from recon.data.loading import Loader
from recon.data.prepared import PreparedData
from search.run.jobs import baselines, confirmations, launched
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


WARM = {
    "start": {"init": "joint", "epochs": 5, "learning_rate": 1e-3},
    "fidelity": {"epochs": 3, "rungs": []},
    "baselines": {"kinds": ["stl", "stl-steps", "joint-stl", "joint-tuned", "transfer"], "seeds": 2},
}
AVAILABLE = {"PDw": 30, "PDw-FS": 12}


def by_key(jobs):
    found = {job.key: job for job in jobs}
    assert len(found) == len(jobs)
    return found


def test_joint_networks_come_before_what_starts_from_them_at_every_seed():
    jobs = launched(space(**WARM), AVAILABLE)
    places = {key: place for place, key in enumerate(by_key(jobs))}
    for seed in (0, 1):
        assert {
            f"joint/n=12/seed={seed}",
            f"stl/PDw/seed={seed}",
            f"stl/PDw-FS/n=12/seed={seed}",
            f"stl-steps/n=12/seed={seed}",
            f"joint-stl/n=12/seed={seed}",
            f"joint-tuned/PDw/n=12/seed={seed}",
            f"joint-tuned/PDw-FS/n=12/seed={seed}",
            f"transfer/n=12/seed={seed}",
        } == {key for key in places if key.endswith(f"/seed={seed}")}
    for job in jobs:
        if job.needs is not None:
            assert places[job.needs] < places[job.key]
        if job.kind == "joint-tuned":
            assert job.needs == f"joint/n=12/seed={job.config.seed}"
            assert (job.config.epochs, job.config.learning_rate, job.scarce_slices) == (3, 1e-3, 12)
    epochs = {job.kind: job.config.epochs for job in jobs}
    assert epochs == {"joint": 5, "stl": 8, "stl-steps": 8, "joint-stl": 8, "joint-tuned": 3, "transfer": 3}


def test_a_joint_network_runs_only_where_something_starts_from_it():
    def joint(**changes: object) -> list[str]:
        return [job.key for job in launched(space(**{**WARM, **changes}), AVAILABLE) if job.kind == "joint"]

    few = {"kinds": ["stl"], "seeds": 2}
    assert joint(baselines=few) == ["joint/n=12/seed=0"], "the search's own seed alone"
    assert joint(baselines=few, start={"init": "random"}) == []
    assert joint(start={"init": "random"}, baselines={"kinds": ["joint-tuned"]}) == ["joint/n=12/seed=0"]
    grid = {"rows": [{"layout": "I2V2", "init": "joint"}, {"layout": "I2V2"}], "seeds": 2}
    given = {"trials": 0, "try_first": [], "baselines": few, "grid": grid}
    assert joint(**given) == ["joint/n=12/seed=0", "joint/n=12/seed=1"]
    needs = {job.key: job.needs for job in launched(space(**{**WARM, **given}), AVAILABLE) if job.kind == "mtl"}
    assert needs["mtl/I2V2/naive/n=12/init=joint/seed=1"] == "joint/n=12/seed=1"
    assert needs["mtl/I2V2/naive/n=12/seed=1"] is None


def test_a_joint_stl_that_is_the_same_training_serves_as_the_joint_network():
    kinds = {"kinds": ["joint-stl", "joint-tuned"]}
    jobs = by_key(launched(space(start={"init": "random"}, baselines=kinds), AVAILABLE))
    assert not [key for key in jobs if key.startswith("joint/")]
    assert {job.needs for job in jobs.values() if job.kind == "joint-tuned"} == {"joint-stl/n=12/seed=0"}
    given = {**kinds, "hyperparameters": {"learning_rate": [1e-3, 2e-4]}}
    jobs = by_key(launched(space(start={"init": "random"}, baselines=given), AVAILABLE))
    assert {job.needs for job in jobs.values() if job.kind == "joint-tuned"} == {
        "joint-stl/n=12/learning_rate=0.0002/seed=0"
    }
    assert "joint/n=12/seed=0" in by_key(launched(space(**WARM), AVAILABLE)), "fewer epochs are another training"


def test_every_baseline_trains_at_every_combination_and_goes_on_from_its_own():
    given = {**WARM["baselines"], "seeds": 1, "hyperparameters": {"learning_rate": [1e-3, 3e-3], "batch_size": [1, 4]}}
    jobs = by_key(launched(space(**{**WARM, "baselines": given}), AVAILABLE))
    kinds = [job.kind for job in jobs.values()]
    counts = {"joint": 1, "stl": 8, "stl-steps": 4, "joint-stl": 4, "joint-tuned": 8, "transfer": 4}
    assert {kind: kinds.count(kind) for kind in counts} == counts
    for key, job in jobs.items():
        if job.kind != "joint":
            assert f"/batch_size={job.config.batch_size}/learning_rate={job.config.learning_rate}/seed=0" in key
        if job.kind == "transfer":
            assert job.needs == key.replace("transfer/n=12", "stl/PDw")
        if job.kind == "joint-tuned":
            assert job.needs == "joint/n=12/seed=0"
        if job.kind == "stl-steps":
            assert job.config.passes == {1: round(42 / 12), 4: round((3 + 8) / 3)}[job.config.batch_size]


def test_confirmations_have_joint_networks_of_their_seeds_and_reuse_the_keys_of_baselines():
    wanted = space(**WARM)
    (first, *_) = wanted.known()
    confirming = by_key(confirmations(wanted, [first], (1, 2), AVAILABLE))
    beside = by_key(launched(wanted, AVAILABLE))
    shared = confirming.keys() & beside.keys()
    assert {job.kind for job in confirming.values() if job.key in shared} == {
        "joint", "stl", "stl-steps", "joint-stl", "joint-tuned", "transfer",
    }  # fmt: skip
    assert all(confirming[key].config == beside[key].config and key.endswith("seed=1") for key in shared)
    needs = {job.config.seed: job.needs for job in confirming.values() if job.kind == "mtl"}
    assert needs == {1: "joint/n=12/seed=1", 2: "joint/n=12/seed=2"}


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_stl_of_equal_steps_counts_those_of_the_joint_network(prepared, batch_size):
    """Where passes come out whole, the steps are equal to the last one."""
    data = PreparedData(prepared)
    available = {task: len(data.subset(task)) for task in data.tasks}
    for count in (2, 4, 6):
        training = {"batch_size": batch_size}
        wanted = space(**{**WARM, "scarce": {"task": "PDw-FS", "slices": [count]}, "training": training}).on(available)
        (job,) = [one for one in baselines(wanted, 0, (count,), "baseline", available) if one.kind == "stl-steps"]
        (known, *_) = wanted.known()

        def steps(config):
            return config.epochs * Loader(data, config).steps_per_epoch

        behind = steps(wanted.joint_config(count)) + steps(wanted.train_config(known))
        exact = behind / wanted.total_epochs / Loader(data, job.config.model_copy(update={"passes": 1})).steps_per_epoch
        assert abs(job.config.passes - exact) <= 0.5
        assert steps(job.config) == behind * job.config.passes / exact
