"""Searches on a real Ray and a real Optuna, with a trainer that takes milliseconds."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray

from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.training.checkpoint import load_network
from search.results.card import _start
from search.results.export import best
from search.results.pick import picked
from search.run.cluster import Resources, fit
from search.run.confirm import confirm, leaders
from search.run.launch import Outcome, launch
from search.run.tuning import Limits
from search.study.open import create_study, open_study
from search.study.record import State
from tests.search import fakes
from tests.search.conftest import facts, listed, space, steer

ROOT = Path(__file__).parents[3]


def run(folder: Path, wanted, **more: Any) -> Outcome:
    return launch(wanted, facts(folder / "data"), "one", runs_dir=folder / "runs", trainer=fakes.train, **more)


def lines(folder: Path, **values: Any) -> list[int]:
    """The epochs that were trained of what has these values, in order of training."""
    return [
        line["epoch"]
        for line in fakes.log(folder / "data")
        if all(line[name] == value for name, value in values.items())
    ]


def stls(study, record, seed: int = 0) -> dict:
    """The STL of each task of a record, at its N and one seed."""
    found = [one for one in study.referenced() if one.kind == "stl" and one.seed == seed]
    return {
        task: next(one for one in found if one.tasks == (task,) and one.slices[task] == record.slices[task])
        for task in record.tasks
    }


def none_running(study) -> bool:
    running = (optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING)
    return not study.search.get_trials(states=running) and not study.references.get_trials(states=running)


@pytest.fixture(scope="module")
def finished(local_ray, tmp_path_factory):
    """A search that ran to its end; tests only look at it."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(folder, space())


def test_a_search_ends_with_its_budget_and_leaves_nothing_running(finished):
    _, outcome = finished
    assert outcome.complete + outcome.pruned == 10
    assert outcome.pruned > 0
    assert (outcome.failed, outcome.references, outcome.complaint) == (0, 4, None)
    assert none_running(outcome.study)


def test_stopped_trials_stand_in_the_study_with_the_values_up_to_where_they_stopped(finished):
    folder, outcome = finished
    stopped = [record for record in outcome.study.searched() if record.state is State.PRUNED]
    for record in stopped:
        trained = lines(folder, layout=record.layout, weighting=record.weighting, tasks=["PDw", "PDw-FS"])
        assert trained == list(range(1, record.epochs + 1))
        assert record.epochs in (2, 4)
        assert list(record.values) == trained
        expected = [fakes.quality(record.config, "PDw", epoch) for epoch in trained]
        assert [metrics["ssim/PDw"] for metrics in record.history.values()] == pytest.approx(expected)
        assert record.value == record.values[record.epochs]


def test_baselines_are_trained_to_the_end_however_poor_they_are(finished):
    _, outcome = finished
    references = outcome.study.referenced()
    assert [(record.kind, record.tasks, record.scarce_slices, record.epochs) for record in references] == [
        ("stl", ("PDw",), None, 6),
        ("stl", ("PDw-FS",), 12, 6),
        ("joint-stl", ("PDw", "PDw-FS"), 12, 6),
        ("transfer", ("PDw-FS",), 12, 6),
    ]
    searched = [record for record in outcome.study.searched() if record.epochs == 6]
    assert max(record.value for record in references) < min(record.value for record in searched)


def test_transfer_starts_from_the_checkpoint_of_the_abundant_tasks_stl(finished):
    folder, outcome = finished
    stl, *_, transfer = outcome.study.referenced()
    (init,) = {line["init"] for line in fakes.log(folder / "data") if line["init"]}
    assert init == stl.checkpoint
    assert transfer.checkpoint != stl.checkpoint


def test_a_record_tells_where_and_with_what_it_ran(finished):
    _, outcome = finished
    for record in outcome.study.records():
        assert ray.util.get_node_ip_address() in record.node
        assert (record.parameters, record.peak_memory_bytes, record.data_hash) == (7, 11, "abc")
        assert record.code_version
        assert record.seed == 0


def test_one_checkpoint_a_trial_is_kept_and_it_is_the_last(finished):
    _, outcome = finished
    for record in outcome.study.records():
        (kept,) = Path(record.checkpoint).parent.iterdir()
        assert str(kept) == record.checkpoint
        assert record.checkpoint_epoch == record.epochs
        assert f'"epoch": {record.epochs}' in (kept / "checkpoint.pt").read_text()


def test_the_same_launch_again_runs_nothing_and_more_trials_extend_it(finished, tmp_path):
    folder, outcome = finished
    before = fakes.log(folder / "data")
    again = run(folder, space())
    assert fakes.log(folder / "data") == before
    assert (again.complete, again.pruned) == (outcome.complete, outcome.pruned)
    longer = run(folder, space(trials=12))
    assert longer.complete + longer.pruned == 12
    new = [record.layout + "/" + record.weighting for record in longer.study.searched()[10:]]
    assert {f"{line['layout']}/{line['weighting']}" for line in fakes.log(folder / "data")[len(before) :]} == set(new)


def test_another_space_other_data_and_another_direction_are_refused(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(InputError, match=r"another space: fidelity.epochs is 9, not 6; choose another --study"):
        run(folder, space(fidelity={"epochs": 9, "rungs": [2, 4]}))
    other = facts(folder / "data", hash="other")
    with pytest.raises(InputError, match="made with other data"):
        launch(space(), other, "one", runs_dir=folder / "runs", trainer=fakes.train)
    storage = f"sqlite:///{tmp_path}/theirs.db"
    optuna.create_study(study_name="theirs", storage=storage, direction="minimize")
    with pytest.raises(InputError, match="minimises"):
        create_study("theirs", storage, tmp_path)


@pytest.fixture(scope="module")
def troubled(local_ray, tmp_path_factory):
    """A search in which each layout meets its own misfortune."""
    folder = tmp_path_factory.mktemp("troubled")
    steer(
        folder / "data",
        I4_naive={"nan_at": 2},
        V4_naive={"diverge_at": 3},
        # Epochs of milliseconds would share a checkpoint.
        Y4_naive={"raise_at": 3, "seconds": 0.6},
        I2V2_naive={"die_at": 3, "seconds": 0.6},
        I2Y2_naive={"raise_at": 2, "always": True, "seconds": 0.6},
        IV3_naive={"refuse_at": 1},
    )
    layouts = ("I4", "V4", "Y4", "I2V2", "I2Y2", "IV3", "I3V")
    wanted = listed(*layouts, baselines={"kinds": ["stl", "transfer"]})
    return folder, run(folder, wanted, resources=Resources(max_failures=1))


def of(outcome: Outcome, layout: str):
    (record,) = [record for record in outcome.study.searched() if record.layout == layout]
    return record


@pytest.mark.parametrize(
    ("layout", "reason", "epochs"),
    [
        ("I4", "ssim is nan after epoch 2", 1),
        ("V4", "the loss of PDw is nan in epoch 3, step 1", 2),
        ("I2Y2", "OSError: the disk is gone", 1),
        ("IV3", "the data do not fit", 0),
    ],
)
def test_a_trial_that_fails_is_closed_as_failed_with_the_reason(troubled, layout, reason, epochs):
    record = of(troubled[1], layout)
    assert (record.state, record.value, record.epochs) == (State.FAIL, None, epochs)
    assert record.error == reason


def test_what_would_fail_again_is_not_tried_again_and_the_rest_is_once(troubled):
    folder, _ = troubled
    assert lines(folder, layout="V4") == [1, 2, 3]
    assert lines(folder, layout="IV3") == [1]
    assert lines(folder, layout="I2Y2") == [1, 2, 2]


@pytest.mark.parametrize("layout", ["Y4", "I2V2"])
def test_a_retry_goes_on_from_the_last_checkpoint(troubled, layout):
    folder, outcome = troubled
    assert lines(folder, layout=layout) == [1, 2, 3, 3, 4]
    record = of(outcome, layout)
    assert (record.state, record.error, record.epochs) == (State.COMPLETE, None, 4)


def test_failing_trials_do_not_take_the_search_down(troubled):
    _, outcome = troubled
    assert (outcome.complete, outcome.failed) == (3, 4)
    assert outcome.exhausted
    assert none_running(outcome.study)


def test_failed_baselines_are_said_and_what_starts_from_them_does_not_run(troubled):
    _, outcome = troubled
    # An STL is I4 with naive weighting here, which diverges.
    assert set(outcome.blocked) == {"stl/PDw/seed=0", "stl/PDw-FS/n=12/seed=0", "transfer/n=12/seed=0"}
    assert re.match("3 of the fixed jobs did not finish, first stl/PDw.*: ssim is nan after epoch 2", outcome.complaint)


@pytest.fixture(scope="module")
def judged(local_ray, tmp_path_factory):
    """A search by gain at two N, in a journal file, confirmed."""
    folder = tmp_path_factory.mktemp("judged")
    wanted = space(
        scarce={"task": "PDw-FS", "slices": [12, 24]},
        objective={"metric": "gain", "epsilon": 0.05},
        fidelity={"epochs": 3, "rungs": []},
        trials=6,
        confirm={"top": 2, "seeds": 2},
    )
    where = {"storage": f"journal://{folder}/study.journal"}
    outcome = run(folder, wanted, **where)
    again = {"runs_dir": folder / "runs", "trainer": fakes.train, "data": facts(folder / "data"), **where}
    return folder, outcome, lambda **more: confirm("one", **again, **more)


def test_gains_are_above_the_stl_of_the_same_n_and_epoch(judged):
    _, outcome, _ = judged
    assert {record.scarce_slices for record in outcome.study.searched()} == {12, 24}
    for record in outcome.study.searched():
        stl = stls(outcome.study, record)
        assert list(record.history) == [1, 2, 3]
        for epoch, metrics in record.history.items():
            gains = [metrics[f"ssim/{task}"] - one.history[epoch][f"ssim/{task}"] for task, one in stl.items()]
            assert metrics["gain"] == pytest.approx(sum(gains) / 2)
        assert record.value == record.metrics["gain"]
        assert record.constraints["PDw"] == pytest.approx(-0.05 - record.metrics["gain/PDw"])


def test_a_search_that_validates_after_rungs_alone_keeps_those_epochs_by_slice_too(local_ray, tmp_path):
    fidelity = {"epochs": 5, "rungs": [2, 4], "validate_after": "rungs"}
    outcome = run(tmp_path, space(objective={"metric": "gain"}, fidelity=fidelity, trials=6))
    assert (outcome.failed, outcome.complete + outcome.pruned) == (0, 6)
    records = outcome.study.records()
    assert {record.epochs for record in records} == {2, 4, 5}, "some were stopped at either rung"
    for record in records:
        trained = lines(tmp_path, layout=record.layout, weighting=record.config.weighting.kind, tasks=[*record.tasks])
        assert set(trained) >= set(range(1, record.epochs + 1))
        reported = [epoch for epoch in (2, 4, 5) if epoch <= record.epochs]
        assert list(record.history) == list(record.values) == list(record.packed_slices) == reported
        assert record.checkpoint_epoch == record.epochs
        for epoch in reported:
            frame = record.slice_metrics(epoch)
            means = frame.groupby("task")["ssim"].mean()
            for task in record.tasks:
                assert record.history[epoch][f"ssim/{task}"] == fakes.quality(record.config, task, epoch)
                assert means[task] == pytest.approx(fakes.quality(record.config, task, epoch), abs=1e-5)
        if record.stage == "search":
            stl = stls(outcome.study, record)
            gains = [record.metrics[f"ssim/{one}"] - stl[one].history[record.epochs][f"ssim/{one}"] for one in stl]
            assert record.value == pytest.approx(sum(gains) / 2)


def test_where_every_epoch_is_validated_slices_are_kept_at_rungs_and_the_end(finished):
    _, outcome = finished
    for record in outcome.study.records():
        assert list(record.history) == list(range(1, record.epochs + 1))
        assert list(record.packed_slices) == [epoch for epoch in (2, 4, 6) if epoch <= record.epochs]


def test_confirmation_retrains_leaders_and_baselines_over_new_seeds_once(judged):
    folder, outcome, confirming = judged
    best = leaders(outcome.study, 2)
    confirmed = confirming()
    new = [record for record in confirmed.study.referenced() if record.stage == "confirm"]
    assert {record.state for record in new} == {State.COMPLETE}
    assert sorted((record.layout, record.seed) for record in new if record.kind == "mtl") == sorted(
        (record.layout, seed) for record in best for seed in (1, 2)
    )
    counts = {record.scarce_slices for record in best}
    for seed in (1, 2):
        kinds = [record.kind for record in new if record.seed == seed]
        assert (kinds.count("stl"), kinds.count("transfer")) == (1 + len(counts), len(counts))
    assert len(confirmed.study.searched()) == 6

    before = fakes.log(folder / "data")
    confirming()
    assert fakes.log(folder / "data") == before
    confirming(seeds=3)
    assert {line["seed"] for line in fakes.log(folder / "data")[len(before) :]} == {3}

    pick = picked(confirmed.study)
    assert pick.unconfirmed.key == best[0].key
    for one in pick.ranking:
        # The search's seed and those of the confirmations.
        stl = [stls(outcome.study, record, seed) for record in one.records[:1] for seed in range(4)]
        means = {task: sum(single[task].metrics[f"ssim/{task}"] for single in stl) / 4 for task in one.records[0].tasks}
        gains = [
            sum(record.metrics[f"ssim/{task}"] - means[task] for task in record.tasks) / 2 for record in one.records
        ]
        assert one.values == pytest.approx(gains)
        assert one.mean == pytest.approx(sum(gains) / 3)
    assert [one.mean for one in pick.ranking] == sorted((one.mean for one in pick.ranking), reverse=True)
    assert pick.record.stage == "confirm"


GRID = {
    "trials": 0,
    "try_first": [],
    "baselines": {"kinds": ["stl", "transfer"]},
    "scarce": {"task": "PDw-FS", "slices": [12, 30]},
    "objective": {"metric": "gain"},
    "grid": {"rows": [{"layout": "I2V2"}, {"layout": "I2Y2", "init": "transfer"}], "seeds": 2},
}


def test_a_grid_runs_every_row_at_every_n_over_its_seeds_and_nothing_else(local_ray, tmp_path):
    def launching(seeds: int = 2) -> Outcome:
        changes = {**GRID, "grid": {**GRID["grid"], "seeds": seeds}}
        return launch(space(**changes), facts(tmp_path / "data"), "grid", runs_dir=tmp_path, trainer=fakes.train)

    outcome = launching()
    assert outcome.complaint is None
    assert outcome.study.searched() == []
    records = outcome.study.referenced()
    assert {(record.state, record.stage, record.epochs) for record in records} == {(State.COMPLETE, "confirm", 6)}
    ran = [(record.layout, record.scarce_slices, record.seed) for record in records if record.kind == "mtl"]
    assert sorted(ran) == [(one, n, seed) for one in ("I2V2", "I2Y2") for n in (12, 30) for seed in (0, 1)]
    kinds = [record.kind for record in records]
    # PDw alone does not depend on N.
    assert (kinds.count("stl"), kinds.count("transfer")) == (2 * 3, 2 * 2)

    sources = {line["seed"]: line for line in fakes.log(tmp_path / "data") if line["tasks"] == ["PDw"]}
    started = [line for line in fakes.log(tmp_path / "data") if line["layout"] == "I2Y2"]
    assert all(line["init"] for line in started)
    assert not any(line["init"] for line in fakes.log(tmp_path / "data") if line["layout"] == "I2V2")
    assert set(sources) == {0, 1}

    before = len(fakes.log(tmp_path / "data"))
    launching()
    assert len(fakes.log(tmp_path / "data")) == before
    launching(seeds=3)
    assert {line["seed"] for line in fakes.log(tmp_path / "data")[before:]} == {2}

    pick = picked(outcome.study)
    assert pick.unconfirmed is None
    assert not pick.changed
    assert len(pick.ranking) == 4
    assert {len(one.values) for one in pick.ranking} == {3}
    _, why = best(outcome.study)
    assert why.endswith("Nothing was searched: these are all the configurations of its grid.")


def test_a_search_from_a_joint_network_is_confirmed_from_those_of_other_seeds_and_reuses_baselines(local_ray, tmp_path):
    wanted = space(
        start={"init": "joint", "epochs": 3},
        fidelity={"epochs": 2, "rungs": [1]},
        baselines={"kinds": ["stl", "joint-tuned"], "seeds": 2},
        objective={"metric": "gain"},
        trials=4,
        confirm={"top": 1, "seeds": 2, "beside": [{"layout": "I4", "weighting": "naive"}]},
    )
    outcome = run(tmp_path, wanted)
    assert outcome.complaint is None
    records = {record.key: record for record in outcome.study.referenced()}
    for record in outcome.study.searched():
        (init,) = {
            line["init"]
            for line in fakes.log(tmp_path / "data")
            if (line["layout"], line["weighting"]) == (record.layout, record.weighting) and len(line["tasks"]) == 2
            if line["init"]
        }
        assert init == records["joint/n=12/seed=0"].checkpoint
        stl = [stls(outcome.study, record, seed) for seed in (0, 1)]
        for task in record.tasks:
            mean = sum(one[task].metrics[f"ssim/{task}"] for one in stl) / 2
            for metrics in record.history.values():
                assert metrics[f"gain/{task}"] == pytest.approx(metrics[f"ssim/{task}"] - mean)
    assert {record.config.epochs for record in records.values() if record.kind == "stl"} == {5}

    before = len(fakes.log(tmp_path / "data"))
    more = {"runs_dir": tmp_path / "runs", "trainer": fakes.train, "data": facts(tmp_path / "data")}
    confirmed = confirm("one", **more)
    assert confirmed.complaint is None
    trained = fakes.log(tmp_path / "data")[before:]
    assert {(line["seed"], len(line["tasks"])) for line in trained} == {(1, 2), (2, 1), (2, 2)}
    retrained = {record.layout: [] for record in leaders(confirmed.study, 1)} | {"I4": []}
    for record in confirmed.study.referenced():
        if record.kind == "mtl":
            retrained[record.layout].append(record.seed)
    assert all(sorted(seeds) == [1, 2] for seeds in retrained.values())
    records = {record.key: record for record in confirmed.study.referenced()}
    ranking = picked(confirmed.study).ranking
    (leader,) = leaders(confirmed.study, 1)
    assert {one.point.layout for one in ranking} == {leader.layout, "I4"}
    one = next(one for one in ranking if one.point == leader.point)
    assert [record.seed for record in one.records] == [1, 2]
    for record in one.records:
        (init,) = {line["init"] for line in trained if line["seed"] == record.seed and line["epoch"] == 1
                   if line["layout"] == record.layout and len(line["tasks"]) == 2 and line["init"]}  # fmt: skip
        assert init == records[f"joint/n=12/seed={record.seed}"].checkpoint
    assert "- started from the joint network of all tasks, 3 epochs, with the same seed\n" in _start(
        confirmed.study, one.records[0]
    )


def test_a_trial_that_fits_on_no_host_is_refused(local_ray):
    with pytest.raises(InputError, match=r"a trial needs 3 CPUs and 0 GPUs .* they have 2 CPUs and 0 GPUs"):
        fit(Resources(cpus=3))
    with pytest.raises(InputError, match=r"0\.5 GPUs"):
        fit(Resources(gpus=0.5))
    assert fit(Resources(cpus=1)) == (1, 0.0, 2)
    assert fit(Resources(cpus=1, max_concurrent=7)) == (1, 0.0, 7)
    assert fit(Resources(cpus=0.5)) == (0.5, 0.0, 4)


def test_real_trainings_end_in_checkpoints_that_recon_reads(local_ray, prepared, tmp_path):
    wanted = space(
        unroll={"blocks": 3, "channels": 4, "pools": 2},
        layouts={"kind": "list", "choices": ["IYV", "I3"]},
        scarce={"task": "PDw-FS", "slices": [4]},
        training={"batch_size": 4, "learning_rate": 1e-3, "clip_norm": 1.0},
        fidelity={"epochs": 2},
        objective={"metric": "ssim", "epsilon": 1.0},
        try_first=[{"layout": "IYV", "weighting": "dwa"}],
        trials=1,
    )
    outcome = launch(wanted, prepared, "real", runs_dir=tmp_path)
    assert (outcome.complaint, outcome.complete, outcome.references) == (None, 1, 4)
    (trial,) = outcome.study.searched()
    assert trial.slices == {"PDw": 12, "PDw-FS": 4}
    assert trial.data_hash == PreparedData(prepared).hash
    for record in outcome.study.records():
        network, config = load_network(Path(record.checkpoint))
        assert config == record.config
        assert network.tasks == record.tasks
        assert record.parameters == sum(parameter.numel() for parameter in network.parameters())
        assert 1e7 < record.peak_memory_bytes < 1e10
        for task in record.tasks:
            assert 0 < record.metrics[f"ssim/{task}"] < 1
    stl = stls(outcome.study, trial)
    for task in trial.tasks:
        assert trial.constraints[task] == pytest.approx(
            stl[task].metrics[f"ssim/{task}"] - 1.0 - trial.metrics[f"ssim/{task}"]
        )


def drive(folder: Path, trials: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.search.driver", str(folder), str(trials)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "stderr.txt").open("a"),
    )


def wait_for(condition, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def check_rungs(study) -> None:
    """Every decision at a rung is the one that all values there before it call for, restarts or not."""
    records = study.searched()
    assert {record.epochs for record in records if record.state is State.PRUNED} <= {2, 4}
    for record in records:
        if record.state is State.PRUNED:
            there = [other.values[record.epochs] for other in records if record.epochs in other.values]
            assert record.value < max(there)


def test_a_killed_search_goes_on_where_it_was_and_an_interrupted_one_too(local_ray, tmp_path):
    steer(tmp_path / "data", every={"seconds": 0.15})
    data = tmp_path / "data"
    driver = drive(tmp_path, 8)
    try:
        wait_for(lambda: len(lines(tmp_path, tasks=["PDw", "PDw-FS"])) > 22)
        study = open_study("killed", None, tmp_path / "runs")
        seen = study.records()
        assert any(record.state is State.RUNNING for record in seen), "it can be read while it runs"
        with pytest.raises(InputError, match=rf"another process \(process {driver.pid} on"):
            launch(space(), facts(data), "killed", runs_dir=tmp_path / "runs", trainer=fakes.train)
        os.kill(driver.pid, signal.SIGKILL)
    finally:
        driver.kill()
        driver.wait()
    workers = {line["pid"] for line in fakes.log(data)}
    wait_for(lambda: not any(alive(pid) for pid in workers), 60)

    study = open_study("killed", None, tmp_path / "runs")
    before = {record.name: record for record in study.records()}
    ended = {name: record for name, record in before.items() if record.state is not State.RUNNING}
    assert len(ended) < len(before)
    count = len(fakes.log(data))

    driver = drive(tmp_path, 8)
    try:
        wait_for(lambda: len(fakes.log(data)) > count + 6)
        os.kill(driver.pid, signal.SIGINT)
        assert driver.wait(120) == 130
    finally:
        driver.kill()
        driver.wait()
    waiting = sum(record.state is State.RUNNING for record in before.values())
    said = (tmp_path / "stderr.txt").read_text()
    assert f"{waiting} trial{' goes' if waiting == 1 else 's go'} on from where the last run was interrupted" in said
    study = open_study("killed", None, tmp_path / "runs")
    assert none_running(study)
    after = {record.name: record for record in study.records()}
    for name, record in before.items():
        if name in ended:
            assert after[name] == record
        else:
            assert (after[name].state, after[name].closed) == (State.FAIL, "interrupted")

    outcome = launch(space(trials=8), facts(data), "killed", runs_dir=tmp_path / "runs", trainer=fakes.train)
    assert outcome.complete + outcome.pruned == 8
    assert (outcome.failed, outcome.references) == (0, 4)
    assert none_running(outcome.study)
    records = outcome.study.records()
    done = [record for record in records if record.state is not State.FAIL]
    assert len({record.key for record in done}) == len(done), "nothing finished twice"
    for record in done:
        same = {"layout": record.layout, "weighting": record.config.weighting.kind, "tasks": list(record.tasks)}
        if record.kind == "transfer":
            continue  # it looks like an STL in the log
        trained = lines(tmp_path, **same)
        interruptions = sum(other.key == record.key and other.closed == "interrupted" for other in records)
        # A killed trial repeats at most the epoch that it was in, and the one whose checkpoint was being written.
        assert len(trained) <= record.epochs + 2 * interruptions + (6 if record.kind == "stl" else 0)
        if record.continues is not None:
            assert record.closed is None
    continued = [record for record in records if record.continues is not None and record.values]
    assert continued
    check_rungs(outcome.study)


@pytest.mark.slow
def test_a_trial_that_hangs_is_ended_and_tried_again_and_one_that_takes_too_long_fails(local_ray, tmp_path):
    hangs = {"hang_at": 2, "seconds": 0.6}
    steer(tmp_path / "data", I4_naive=hangs, V4_naive={**hangs, "always": True})
    wanted = listed("I4", "V4", baselines={"kinds": []})
    limits = Limits(silence=15.0)  # a worker's start is silent, too
    outcome = run(tmp_path, wanted, limits=limits, resources=Resources(max_failures=1))
    assert lines(tmp_path, layout="I4") == [1, 2, 2, 3, 4]
    assert (of(outcome, "I4").state, of(outcome, "I4").epochs) == (State.COMPLETE, 4)
    record = of(outcome, "V4")
    assert (record.state, record.fault, record.epochs) == (State.FAIL, "timeout", 1)
    assert record.error == "no report for 15 s (--silence)"
    assert lines(tmp_path, layout="V4") == [1, 2, 2]

    more = listed("I4", "V4", baselines={"kinds": []})
    limits = Limits(trial=20.0)
    outcome = run(tmp_path, more, limits=limits, resources=Resources(max_failures=1), retry_failed=True)
    record = outcome.study.searched()[-1]
    assert (record.layout, record.continues, record.fault) == ("V4", 1, "timeout")
    assert record.error == "it took longer than 20 s (--trial-timeout)"
    assert lines(tmp_path, layout="V4") == [1, 2, 2, 2], "one attempt"


def test_folders_of_trials_without_their_study_are_said_and_left_alone(local_ray, tmp_path):
    steer(tmp_path / "data")
    folder = tmp_path / "runs" / "one" / "trials" / "search-0000" / "epoch-00001"
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds the folders of 1 trials, and sqlite:.* has no study 'one'"):
        run(tmp_path, listed("I4"))
    assert folder.is_dir()
    assert fakes.log(tmp_path / "data") == []


def test_retries_count_anew_where_a_trial_got_on(local_ray, tmp_path):
    steer(tmp_path / "data", I4_naive={"raise_once_at": [2, 3, 4], "seconds": 0.6})
    outcome = run(tmp_path, listed("I4", baselines={"kinds": []}), resources=Resources(max_failures=1))
    assert (outcome.complete, outcome.failed) == (1, 0)
    assert lines(tmp_path, layout="I4") == [1, 2, 2, 3, 3, 4, 4]
