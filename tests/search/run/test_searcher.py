"""The searcher, driven as Tune drives it: what it serves, and what the study says afterwards."""

import json
import math
import shutil
import sqlite3
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from ray.tune.search import Searcher

from recon.errors import InputError
from recon.network.layout import Layout
from search.run import searcher
from search.run.beginning import Runtime
from search.run.checkpoints import write
from search.run.jobs import FixedJob, baselines, launched, stl_key
from search.run.launch import HALVES
from search.run.ledger import Ledger
from search.run.outbox import Outbox
from search.run.searcher import FAILURES_IN_A_ROW, StudySearch
from search.run.trial import TrialJob, compare
from search.study.open import OpenStudy, create_study, open_study
from search.study.record import State
from search.study.slices import packed
from spaces.space import Space
from tests.search.conftest import listed, space

SLICES = {"PDw": 40, "PDw-FS": 30}
OUTBOXES: list[Outbox] = []
RUNTIME = Runtime(Path("data"), "tests.search.fakes:train", "cpu", 1)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine's storage may answer late."""
    monkeypatch.setattr(searcher, "ANSWER_SECONDS", 30.0)
    yield
    while OUTBOXES:
        OUTBOXES.pop().close(10)


class Tune:
    """Calls a searcher in Tune's order."""

    def __init__(
        self,
        folder: Path,
        wanted: Space,
        fixed: list[FixedJob] | None = None,
        budget: int | None = None,
        retry_failed: bool = False,
    ) -> None:
        for earlier in OUTBOXES:  # its driver has died, and nothing of it is left in memory
            earlier.close(10)
        self._study = create_study("s", None, folder)
        self.said: list[str] = []
        self.outbox = Outbox(self._study.storage, "the study", self.said.append)
        OUTBOXES.append(self.outbox)
        ledger = Ledger(self._study, SLICES, "abc", "0", self.outbox)
        for half in HALVES:
            ledger.close_orphans(half)
        trials = wanted.trials if budget is None else budget
        self.search = StudySearch(self._study, wanted, ledger, fixed or [], trials, retry_failed)
        self.search.say = self.said.append
        self.search.runtime = RUNTIME
        self._count = 0

    @property
    def study(self) -> OpenStudy:
        """The study, with everything in it that was told."""
        assert self.outbox.drain(10)
        return self._study

    def next(self) -> tuple[str, TrialJob | str | None]:
        self._count += 1
        trial_id = f"t{self._count}"
        suggestion = self.search.suggest(trial_id)
        return trial_id, TrialJob.model_validate_json(suggestion["job"]) if isinstance(suggestion, dict) else suggestion

    def report(self, trial_id: str, epoch: int, value: float = 0.5, last: bool = False, **more: Any) -> None:
        job = self.search.live[trial_id].job
        ssim = {f"ssim/{task}": value for task in job.config.tasks}
        slices = {name: more.pop(name) for name in ("slices",) if name in more}
        report = {"epoch": epoch, "objective": value, "metrics": {"ssim": value, **ssim}, **slices}
        reports = json.dumps([report] if math.isfinite(value) else [])
        result = {"epoch": epoch, "objective": value, "node": "here", "reports": reports, **more}
        if last:
            self.search.on_trial_complete(trial_id, result)
        else:
            self.search.on_trial_result(trial_id, result)

    def save(self, trial_id: str, *epochs: int) -> str:
        """Write checkpoints as the trial's actor does, and report their epochs; -> the last one's path."""
        live = self.search.live[trial_id]
        reports = {}
        for epoch in epochs:
            reports[epoch] = {"epoch": epoch, "objective": epoch / 10}

            def state(folder: Path, epoch: int = epoch) -> None:
                folder.mkdir()
                (folder / "checkpoint.pt").write_text(str(epoch))

            path = str(write(Path(live.job.folder), epoch, state, reports))
            self.report(trial_id, epoch, epoch / 10, checkpoint=path)
        return path

    def whole(self, trial_id: str, value: float = 0.5) -> None:
        """Run a trial to its end."""
        last = self.search.live[trial_id].job.config.epochs
        for epoch in range(1, last + 1):
            self.report(trial_id, epoch, value, last=epoch == last)


def states(tune: Tune) -> list[State]:
    return [record.state for record in tune.study.searched()]


def test_a_stopped_trial_is_pruned_with_all_its_values_the_last_included(tmp_path):
    tune = Tune(tmp_path, space())
    trial_id, _ = tune.next()
    tune.report(trial_id, 1, 0.3)
    tune.report(trial_id, 2, 0.4, last=True)
    (record,) = tune.study.searched()
    assert (record.state, record.value, record.values) == (State.PRUNED, 0.4, {1: 0.3, 2: 0.4})
    assert {epoch: metrics["ssim/PDw"] for epoch, metrics in record.history.items()} == {1: 0.3, 2: 0.4}


def test_a_finished_trial_is_complete_with_its_last_value(tmp_path):
    tune = Tune(tmp_path, space())
    trial_id, job = tune.next()
    tune.whole(trial_id, 0.7)
    (record,) = tune.study.searched()
    assert (record.state, record.value, record.epochs) == (State.COMPLETE, 0.7, 6)
    assert record.config == job.config
    assert (record.scarce_slices, record.slices) == (12, {"PDw": 40, "PDw-FS": 12})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_fails_the_trial_and_says_so(tmp_path, bad):
    tune = Tune(tmp_path, space())
    trial_id, _ = tune.next()
    tune.report(trial_id, 1, 0.3)
    tune.report(trial_id, 2, bad, last=True)
    (record,) = tune.study.searched()
    assert (record.state, record.value) == (State.FAIL, None)
    assert str(bad) in record.error
    assert record.values == {1: 0.3}


def test_a_raised_error_is_kept_as_the_reason(tmp_path):
    tune = Tune(tmp_path, space())
    trial_id, _ = tune.next()
    tune.search.note_error(trial_id, "OSError: the disk is gone", "machine")
    tune.search.on_trial_complete(trial_id, error=True)
    (record,) = tune.study.searched()
    assert (record.state, record.error) == (State.FAIL, "OSError: the disk is gone")


def test_an_error_that_a_retry_mended_leaves_no_trace(tmp_path):
    tune = Tune(tmp_path, space())
    trial_id, _ = tune.next()
    tune.report(trial_id, 1)
    tune.search.note_error(trial_id, "OSError: the disk is gone", "machine")
    tune.report(trial_id, 1)  # Tune's retry may report an epoch again
    tune.whole(trial_id)
    (record,) = tune.study.searched()
    assert (record.state, record.error) == (State.COMPLETE, None)


def test_a_trial_that_tune_ended_without_a_word_is_closed(tmp_path):
    tune = Tune(tmp_path, space())
    trial_id, _ = tune.next()
    tune.search.reconcile(["another", trial_id])
    assert states(tune) == [State.FAIL]
    assert tune.search.live == {}


def test_known_configurations_come_first_and_nothing_is_repeated(tmp_path):
    tune = Tune(tmp_path, space(trials=20))
    jobs = []
    while True:
        trial_id, job = tune.next()
        if job == Searcher.FINISHED:
            break
        jobs.append(job)
        tune.whole(trial_id, 0.5 + 0.01 * job.config.network.layout.count("V"))
    layouts = [(job.config.network.layout, job.config.weighting.kind) for job in jobs]
    assert layouts[:2] == [("I2V2", "naive"), ("I2Y2", "dwa")]
    assert len(set(layouts)) == len(layouts) == 20
    assert all(Layout.parse(layout).changes <= 2 for layout, _ in layouts)
    assert states(tune) == [State.COMPLETE] * 20


def test_what_the_sampler_learns_from_is_what_was_run(tmp_path):
    tune = Tune(tmp_path, space(trials=12))
    for _ in range(12):
        trial_id, _ = tune.next()
        tune.whole(trial_id)
    for record, trial in zip(tune.study.searched(), tune.study.search.trials, strict=True):
        assert "".join(trial.params[f"b{block:02d}"] for block in range(1, 5)) == Layout.parse(record.layout).kinds
        assert trial.params["weighting"] == record.weighting


def test_a_space_that_is_tried_in_full_ends_the_search(tmp_path):
    tune = Tune(tmp_path, listed("I4", "V4", trials=9, try_first=[]))
    for _ in range(2):
        trial_id, job = tune.next()
        assert isinstance(job, TrialJob)
        tune.whole(trial_id)
    assert tune.next()[1] == Searcher.FINISHED
    assert tune.search.exhausted
    assert len(tune.study.searched()) == 2
    assert not tune.study.search.get_trials(states=(optuna.trial.TrialState.RUNNING,))


def test_failed_trials_do_not_count_and_are_replaced(tmp_path):
    tune = Tune(tmp_path, space(trials=2))
    for fails in (True, False, False):
        trial_id, _ = tune.next()
        tune.report(trial_id, 1, math.nan, last=True) if fails else tune.whole(trial_id)
    assert tune.next()[1] == Searcher.FINISHED
    assert states(tune) == [State.FAIL, State.COMPLETE, State.COMPLETE]


def test_it_waits_for_running_trials_before_it_ends_since_they_may_fail(tmp_path):
    tune = Tune(tmp_path, space(trials=1))
    trial_id, _ = tune.next()
    assert tune.next()[1] is None
    tune.report(trial_id, 1, math.nan, last=True)
    assert isinstance(tune.next()[1], TrialJob)


def test_a_search_whose_trials_all_fail_gives_up(tmp_path):
    tune = Tune(tmp_path, space(trials=30))
    for _ in range(FAILURES_IN_A_ROW):
        trial_id, job = tune.next()
        assert isinstance(job, TrialJob)
        tune.report(trial_id, 1, math.nan, last=True)
    assert tune.next()[1] == Searcher.FINISHED
    assert tune.search.failing


def test_the_limit_on_trials_side_by_side_is_kept(tmp_path):
    tune = Tune(tmp_path, space())
    assert tune.search.set_max_concurrency(2)
    first, _ = tune.next()
    assert isinstance(tune.next()[1], TrialJob)
    assert tune.next()[1] is None
    tune.whole(first)
    assert isinstance(tune.next()[1], TrialJob)


def test_fixed_jobs_come_first_and_transfer_waits_for_its_source(tmp_path):
    wanted = space()
    tune = Tune(tmp_path, wanted, baselines(wanted, 0, (12,), "baseline", SLICES))
    first, source = tune.next()
    assert (source.config.tasks, source.config.slices) == (("PDw",), {})
    kinds = [tune.next()[1] for _ in range(2)]
    assert [job.config.tasks for job in kinds] == [("PDw-FS",), ("PDw", "PDw-FS")]
    assert kinds[1].config.weighting.kind == "equal"
    assert tune.next()[1].stage == "search", "transfer waits, the search does not"
    path = tune.save(first, 1)
    tune.whole(first)
    transfer = tune.next()[1]
    assert transfer.stage == "baseline"
    assert (transfer.config.tasks, transfer.init) == (("PDw-FS",), path)


def test_what_needs_a_failed_job_does_not_run(tmp_path):
    wanted = space(trials=1)
    fixed = [
        job
        for job in baselines(wanted, 0, (12,), "baseline", SLICES)
        if job.kind == "transfer" or "stl/PDw/" in job.key
    ]
    tune = Tune(tmp_path, wanted, fixed, budget=0)
    trial_id, _ = tune.next()
    tune.report(trial_id, 1, math.nan, last=True)
    assert tune.next()[1] == Searcher.FINISHED
    assert set(tune.search.blocked) == {"stl/PDw/seed=0", "transfer/n=12/seed=0"}


def gain_space(**changes: Any) -> Space:
    scarce = {"task": "PDw-FS", "slices": [12, 24]}
    objective = {"metric": "gain", "epsilon": 0.05}
    given = {"scarce": scarce, "objective": objective, "baselines": {"kinds": ["stl"]}, "trials": 4}
    return listed("I4", "V4", **{**given, **changes})


def test_a_trial_that_is_judged_by_its_gain_waits_for_its_stl_and_gets_its_values(tmp_path):
    wanted = gain_space()
    tune = Tune(tmp_path, wanted, baselines(wanted, 0, (12, 24), "baseline", SLICES))
    stl = dict(tune.next() for _ in range(3))
    assert tune.next()[1] is None
    ids = {job.config.slices.get("PDw-FS", job.config.tasks[0]): trial_id for trial_id, job in stl.items()}
    tune.whole(ids["PDw"], 0.8)
    assert tune.next()[1] is None
    tune.whole(ids[24], 0.6)
    trial_id, job = tune.next()
    assert job.config.slices == {"PDw-FS": 24}
    assert job.references == {"PDw": dict.fromkeys(range(1, 5), 0.8), "PDw-FS": dict.fromkeys(range(1, 5), 0.6)}
    tune.whole(trial_id, 0.7)
    record = tune.study.searched()[0]
    assert record.constraints == pytest.approx({"PDw": 0.8 - 0.05 - 0.7, "PDw-FS": 0.6 - 0.05 - 0.7})
    assert not record.feasible


WARM = {"start": {"init": "joint", "epochs": 2, "learning_rate": 1e-4}, "fidelity": {"epochs": 3, "rungs": []}}


def ended(tune: Tune, trial_id: str, value: float = 0.5) -> str:
    """Run a trial to its end; the checkpoint that it leaves."""
    path = tune.save(trial_id, 1)
    tune.whole(trial_id, value)
    return path


def test_trials_wait_for_the_joint_network_and_start_from_its_checkpoint(tmp_path):
    wanted = space(**WARM, baselines={"kinds": ["stl", "joint-tuned"]})
    tune = Tune(tmp_path, wanted, launched(wanted, SLICES))
    first, joint = tune.next()
    assert (joint.config, joint.init) == (wanted.joint_config(12), None)
    for _ in range(2):
        assert len(tune.next()[1].config.tasks) == 1
    assert tune.next()[1] is None
    path = ended(tune, first)
    tuned = [tune.next()[1] for _ in range(2)]
    assert [(job.config.tasks, job.init, job.config.epochs) for job in tuned] == [
        (("PDw",), path, 3),
        (("PDw-FS",), path, 3),
    ]
    trial_id, job = tune.next()
    assert (job.stage, job.init, job.config.epochs, job.config.learning_rate) == ("search", path, 3, 1e-4)
    tune.whole(trial_id)
    (record,) = [one for one in tune.study.searched() if one.state is State.COMPLETE]
    assert record.point.init == "joint"
    assert record.key == "mtl/I2V2/naive/n=12/init=joint/seed=0"


def test_an_interrupted_joint_network_goes_on_and_trials_wait_for_it(tmp_path):
    wanted = space(**WARM, baselines={"kinds": []})
    tune = Tune(tmp_path, wanted, launched(wanted, SLICES))
    trial_id, _ = tune.next()
    checkpoint = tune.save(trial_id, 1)

    again = Tune(tmp_path, wanted, launched(wanted, SLICES))
    trial_id, job = again.next()
    assert (job.config, job.resume, job.init) == (wanted.joint_config(12), checkpoint, None)
    assert again.next()[1] is None
    whole = again.save(trial_id, 2)
    again.report(trial_id, 2, last=True)
    assert again.next()[1].init == whole

    third = Tune(tmp_path, wanted, launched(wanted, SLICES))
    assert third.next()[1].init == whole, "it is not trained twice"


def test_where_the_joint_network_failed_nothing_starts_from_it(tmp_path):
    wanted = space(**WARM, baselines={"kinds": ["joint-tuned"]})
    tune = Tune(tmp_path, wanted, launched(wanted, SLICES))
    trial_id, _ = tune.next()
    tune.report(trial_id, 1, math.nan, last=True)
    assert tune.next()[1] == Searcher.FINISHED
    assert set(tune.search.blocked) == {
        "joint/n=12/seed=0",
        "joint-tuned/PDw/n=12/seed=0",
        "joint-tuned/PDw-FS/n=12/seed=0",
    }
    assert not [one for one in tune.study.searched() if one.values]


def seeded_stl(tmp_path: Path, **changes: Any) -> tuple[Tune, Space, dict[str, str]]:
    """A search by gain over two seeds of STL whose values are .7 and .6 at two learning rates, .1 above that of seed 0
    in seed 1; the trials by key."""
    given = {"kinds": ["stl"], "seeds": 2, "hyperparameters": {"learning_rate": [1e-3, 3e-3]}}
    wanted = gain_space(baselines=given, scarce={"task": "PDw-FS", "slices": [12]}, trials=2, **changes)
    tune = Tune(tmp_path, wanted, launched(wanted, SLICES))
    ids = {}
    for _ in range(8 + (wanted.start.init == "joint")):
        trial_id, _ = tune.next()
        ids[tune.search.live[trial_id].key] = trial_id
    return tune, wanted, ids


def stl_value(job: TrialJob, epoch: int) -> float:
    return {1e-3: 0.7, 3e-3: 0.6}[job.config.learning_rate] + 0.1 * job.config.seed + 0.01 * epoch


@pytest.mark.parametrize("init", ["joint", "random"])
def test_a_trial_is_compared_with_the_mean_stl_over_seeds_at_the_best_hyperparameters(tmp_path, init):
    more = {**WARM, "start": {**WARM["start"], "init": init}}
    tune, wanted, ids = seeded_stl(tmp_path, **more)
    total = wanted.total_epochs
    assert total == (5 if init == "joint" else 3)
    for key, trial_id in ids.items():
        assert tune.next()[1] is None, f"it waits for {key}"
        job = tune.search.live[trial_id].job
        for epoch in range(1, job.config.epochs + 1):
            value = 0.5 if key.startswith("joint") else stl_value(job, epoch)
            tune.report(trial_id, epoch, value, last=epoch == job.config.epochs)
    job = tune.next()[1]
    assert job.stage == "search"
    epochs = [total] * 3 if init == "joint" else [1, 2, 3]
    for task in wanted.tasks:
        assert list(job.references[task]) == [1, 2, 3]
        assert list(job.references[task].values()) == pytest.approx([0.75 + 0.01 * epoch for epoch in epochs])


def test_a_combination_of_which_a_seed_failed_does_not_count(tmp_path):
    tune, _, ids = seeded_stl(tmp_path, start={"init": "random"})
    for key, trial_id in ids.items():
        job = tune.search.live[trial_id].job
        if key == "stl/PDw/learning_rate=0.001/seed=1":
            tune.report(trial_id, 1, math.nan, last=True)
            continue
        for epoch in range(1, 5):
            tune.report(trial_id, epoch, stl_value(job, epoch), last=epoch == 4)
    job = tune.next()[1]
    assert job.references["PDw"][4] == pytest.approx(0.65 + 0.04)
    assert job.references["PDw-FS"][4] == pytest.approx(0.75 + 0.04)


def test_trials_whose_stl_failed_are_left_out_and_the_others_run(tmp_path):
    wanted = gain_space()
    tune = Tune(tmp_path, wanted, baselines(wanted, 0, (12, 24), "baseline", SLICES))
    for trial_id, job in [tune.next() for _ in range(3)]:
        if job.config.slices == {"PDw-FS": 12}:
            tune.report(trial_id, 1, math.nan, last=True)
        else:
            tune.whole(trial_id)
    counts = []
    while isinstance((one := tune.next())[1], TrialJob):
        counts.append(one[1].config.slices["PDw-FS"])
        tune.whole(one[0])
    assert counts == [24, 24]
    assert stl_key(wanted, "PDw-FS", 12, 0) in tune.search.blocked


def two_epochs_and_a_checkpoint(tmp_path):
    """A search whose first trial has two epochs and a checkpoint: (search, trial, job, checkpoint)."""
    tune = Tune(tmp_path, space())
    trial_id, job = tune.next()
    return tune, trial_id, job, tune.save(trial_id, 1, 2)


def test_a_trial_interrupted_again_before_its_own_checkpoint_goes_on_from_the_one_it_inherited(tmp_path):
    *_, checkpoint = two_epochs_and_a_checkpoint(tmp_path)

    second = Tune(tmp_path, space())
    trial_id, _ = second.next()
    second.report(trial_id, 3, 0.3)  # its checkpoint was never written

    third = Tune(tmp_path, space())
    _, job = third.next()
    assert (job.resume, job.root) == (checkpoint, 0)
    record = third.study.searched()[2]
    assert (record.continues, record.values) == (1, {1: 0.1, 2: 0.2})
    assert (record.checkpoint, record.checkpoint_epoch) == (checkpoint, 2)


def test_orphans_are_closed_and_continued_from_their_checkpoint_with_their_epochs(tmp_path):
    tune, trial_id, job, checkpoint = two_epochs_and_a_checkpoint(tmp_path)
    tune.report(trial_id, 3, 0.3)  # its checkpoint was never written

    again = Tune(tmp_path, space())
    old = again.study.searched()[0]
    assert (old.state, old.closed, old.error) == (State.FAIL, "interrupted", None)
    trial_id, next_job = again.next()
    assert next_job.config == job.config
    assert (next_job.resume, next_job.root) == (checkpoint, 0)
    record = again.study.searched()[1]
    assert (record.continues, record.values) == (0, {1: 0.1, 2: 0.2})
    for epoch in range(3, 7):
        again.report(trial_id, epoch, 0.4, last=epoch == 6)
    record = again.study.searched()[1]
    assert (record.state, record.epochs) == (State.COMPLETE, 6)
    assert again.search.finished == 1
    assert again.next()[1].config.network.layout == "I2Y2"

    third = Tune(tmp_path, space())
    assert third.next()[1].config.network.layout == "I2Y2", "what was continued once is not continued again"
    assert third.next()[1].resume is None
    assert "I2V2" not in [live.job.config.network.layout for live in third.search.live.values()]


def test_what_a_continued_trial_takes_over_has_gaps_where_epochs_were_not_validated(tmp_path):
    wanted = space(fidelity={"epochs": 6, "rungs": [2, 4], "validate_after": "rungs"})
    tune = Tune(tmp_path, wanted)
    trial_id, job = tune.next()
    assert (job.config.validate_at, job.slices_at) == ((2, 4, 6), (2, 4, 6))
    kept = {"slice_id": [3, 5], "ssim": [0.1234567, 0.2], "psnr": [30.0, 31.0], "nrmse": [0.5, 0.25]}
    for epoch in (2, 4):
        tune.report(trial_id, epoch, epoch / 10, slices=packed({"PDw": {**kept, "psnr": [30.0, epoch]}}))
        if epoch == 2:
            tune.save(trial_id, 2)

    again = Tune(tmp_path, wanted)
    trial_id, _ = again.next()
    record = again.study.searched()[1]
    assert (record.continues, record.epochs, record.values) == (0, 2, {2: 0.2})
    assert list(record.history) == [2]
    for epoch in (4, 6):
        again.report(trial_id, epoch, 0.4, last=epoch == 6)
    record = again.study.searched()[1]
    assert (record.state, record.epochs, list(record.history)) == (State.COMPLETE, 6, [2, 4, 6])
    assert record.metrics == record.history[6]
    expected = pd.DataFrame({"task": "PDw", **kept, "ssim": [0.123457, 0.2], "psnr": [30.0, 2.0]})
    pd.testing.assert_frame_equal(record.slice_metrics(2), expected)
    pd.testing.assert_frame_equal(record.slice_metrics(), expected)
    with pytest.raises(InputError, match="trial 1 has no metrics by slice at epoch 6; it has those at: 2"):
        record.slice_metrics(6)


def test_an_epoch_that_the_stl_was_not_validated_after_has_no_gain():
    metrics = {"ssim": 0.7, "ssim/PDw": 0.8, "ssim/PDw-FS": 0.6}
    references = {"PDw": {2: 0.75, 6: 0.8}, "PDw-FS": {2: 0.6, 4: 0.7}}
    found = compare(metrics, 2, references)
    assert (found["gain/PDw"], found["gain/PDw-FS"], found["gain"]) == pytest.approx((0.05, 0.0, 0.025))
    with pytest.raises(InputError, match=r"the STL of PDw was not validated after epoch 4, .* but after 2, 6"):
        compare(metrics, 4, references)
    assert compare(metrics, 4, {}) == metrics


def test_an_orphan_without_a_checkpoint_begins_anew(tmp_path):
    tune = Tune(tmp_path, space())
    _, job = tune.next()
    again = Tune(tmp_path, space())
    _, next_job = again.next()
    assert (next_job.config, next_job.resume) == (job.config, None)
    assert again.study.searched()[1].epochs == 0


def test_an_orphan_that_died_before_it_was_described_is_closed_and_ignored(tmp_path):
    create_study("s", None, tmp_path).search.ask()
    again = Tune(tmp_path, space())
    assert again.study.searched() == []
    assert [trial.state.name for trial in again.study.search.trials] == ["FAIL"]
    assert again.next()[1].config.network.layout == "I2V2"


def test_finished_references_are_not_run_again_and_failed_ones_are(tmp_path):
    wanted = space()
    fixed = baselines(wanted, 0, (12,), "baseline", SLICES)[:2]
    tune = Tune(tmp_path, wanted, fixed, budget=0)
    (good, _), (bad, _) = tune.next(), tune.next()
    tune.whole(good)
    tune.report(bad, 1, math.nan, last=True)
    again = Tune(tmp_path, wanted, fixed, budget=0)
    trial_id, job = again.next()
    assert job.config.tasks == ("PDw-FS",)
    again.whole(trial_id)
    assert again.next()[1] == Searcher.FINISHED


def test_the_sampler_does_not_start_over_after_a_restart(tmp_path):
    tune = Tune(tmp_path, space(trials=30, try_first=[]))
    first = [tune.next()[1].config.network.layout for _ in range(3)]
    for trial_id in list(tune.search.live):
        tune.whole(trial_id)
    again = Tune(tmp_path, space(trials=30, try_first=[]))
    assert again.search._agenda.mirror.study.sampler._rng.rng.randint(1 << 30) != (
        tune.search._agenda.mirror.study.sampler._rng.rng.randint(1 << 30)
    )
    second = [again.next()[1].config.network.layout for _ in range(3)]
    assert second != first


def test_nothing_of_the_searcher_is_pickled(tmp_path):
    tune = Tune(tmp_path, space())
    tune.search.save_to_dir(str(tmp_path), "x")
    assert not list(tmp_path.glob("*searcher*"))


def test_the_configuration_given_to_tune_is_plain_text(tmp_path):
    tune = Tune(tmp_path, space())
    suggestion = tune.search.suggest("t")
    assert json.loads(json.dumps(suggestion)) == suggestion


def test_a_reader_sees_a_running_trial(tmp_path):
    tune = Tune(tmp_path, space())
    trial_id, _ = tune.next()
    tune.report(trial_id, 1, 0.25)
    tune.outbox.drain(10)
    (record,) = open_study("s", None, tmp_path).searched()
    assert (record.state, record.epochs, record.value, record.node) == (State.RUNNING, 1, None, "here")


def test_a_trial_goes_on_from_the_newest_whole_checkpoint_and_reports_what_the_study_lacks(tmp_path):
    tune = Tune(tmp_path, space(fidelity={"epochs": 6, "rungs": []}))
    trial_id, job = tune.next()
    tune.save(trial_id, 1, 2)
    # The actor wrote a third one, and the driver died before it heard of that epoch.
    reports = {epoch: {"epoch": epoch, "objective": epoch / 10} for epoch in (1, 2, 3)}
    newer = write(Path(job.folder), 3, lambda folder: folder.mkdir(), reports)

    again = Tune(tmp_path, space(fidelity={"epochs": 6, "rungs": []}))
    _, next_job = again.next()
    assert (next_job.resume, next_job.recorded) == (str(newer), (1, 2))
    assert again.study.searched()[1].epochs == 2


def test_a_damaged_checkpoint_is_said_and_an_older_one_is_taken(tmp_path):
    *_, job, checkpoint = two_epochs_and_a_checkpoint(tmp_path)
    (Path(checkpoint) / "checkpoint.pt").write_text("half")
    again = Tune(tmp_path, space())
    _, next_job = again.next()
    assert next_job.resume == str(Path(job.folder) / "epoch-00001")
    assert again.study.searched()[1].values == {1: 0.1}
    (said,) = again.said
    assert said == (
        f"trial 0 was interrupted, and the checkpoint {checkpoint} is damaged: checkpoint.pt is not what was written: "
        "it goes on from epoch 1"
    )


def test_where_every_checkpoint_is_damaged_it_begins_anew_and_says_so(tmp_path):
    *_, job, _ = two_epochs_and_a_checkpoint(tmp_path)
    for path in Path(job.folder).glob("epoch-*/checkpoint.pt"):
        path.unlink()
    again = Tune(tmp_path, space())
    _, next_job = again.next()
    assert (next_job.config, next_job.resume, next_job.recorded) == (job.config, None, ())
    assert again.study.searched()[1].values == {}
    assert again.said[0].endswith("it begins anew")


def test_the_rung_at_which_a_trial_was_interrupted_is_reported_again_so_that_it_is_decided(tmp_path):
    *_, checkpoint = two_epochs_and_a_checkpoint(tmp_path)
    again = Tune(tmp_path, space())
    trial_id, job = again.next()
    assert (job.resume, job.recorded) == (checkpoint, (1,)), "epoch 2 is a rung"
    again.report(trial_id, 2, 0.2)
    assert again.study.searched()[1].values == {1: 0.1, 2: 0.2}


def hole(study: OpenStudy, half: optuna.Study, number: int, epoch: int) -> None:
    """Take an epoch out of a record, as drivers of earlier versions could lose it."""
    with sqlite3.connect(study.folder / "study.db") as connection:
        trial_id = half.trials[number]._trial_id
        connection.execute(
            "DELETE FROM trial_user_attributes WHERE trial_id = ? AND key = ?", (trial_id, f"epoch/{epoch}")
        )


def test_a_hole_in_an_interrupted_trial_is_trained_again(tmp_path):
    tune = Tune(tmp_path, space(fidelity={"epochs": 6, "rungs": []}))
    trial_id, job = tune.next()
    tune.save(trial_id, 1, 2, 3)
    hole(tune.study, tune.study.search, 0, 2)

    again = Tune(tmp_path, space(fidelity={"epochs": 6, "rungs": []}))
    trial_id, next_job = again.next()
    assert (Path(next_job.resume).name, next_job.recorded) == ("epoch-00003", (1,)), "its reports hold epoch 2"

    old = Path(tmp_path) / "checkpoint_000002"
    old.mkdir()
    again.report(trial_id, 2, 0.2)
    again.report(trial_id, 3, 0.3)
    for name, value in (("checkpoint", str(old)), ("checkpoint_epoch", 3)):
        again.study.storage.set_trial_user_attr(again.search.live[trial_id].trial._trial_id, name, value)
    hole(again.study, again.study.search, 1, 2)
    shutil.rmtree(job.folder)
    third = Tune(tmp_path, space(fidelity={"epochs": 6, "rungs": []}))
    _, third_job = third.next()
    assert (third_job.resume, third_job.recorded) == (None, ()), "a checkpoint of an earlier version cannot fill it"
    assert third.said == ["trial 1 was interrupted, and epochs 2 are missing: it begins anew"]


def test_a_finished_baseline_with_a_hole_is_trained_again(tmp_path):
    wanted = gain_space()
    fixed = baselines(wanted, 0, (12,), "baseline", SLICES)[:1]
    tune = Tune(tmp_path, wanted, fixed, budget=0)
    trial_id, job = tune.next()
    tune.whole(trial_id)
    assert tune.next()[1] == Searcher.FINISHED
    hole(tune.study, tune.study.references, 0, 2)
    again = Tune(tmp_path, wanted, fixed, budget=0)
    trial_id, next_job = again.next()
    assert next_job.config == job.config
    again.whole(trial_id, 0.6)
    third = Tune(tmp_path, wanted, fixed, budget=0)
    assert third.search.idle
    assert third.search.references[fixed[0].key].value == 0.6


def failed_by_the_machine(tmp_path: Path) -> tuple[Tune, TrialJob]:
    tune = Tune(tmp_path, space())
    trial_id, job = tune.next()
    tune.save(trial_id, 1)
    tune.search.note_error(trial_id, "the worker was lost", "machine")
    tune.search.on_trial_complete(trial_id, error=True)
    return tune, job


def test_a_fault_of_the_machine_does_not_count_as_tried(tmp_path):
    tune, job = failed_by_the_machine(tmp_path)
    (record,) = tune.study.searched()
    assert (record.state, record.fault, record.error) == (State.FAIL, "machine", "the worker was lost")
    assert tune.next()[1].config.network.layout != job.config.network.layout, "not again in this run"
    again = Tune(tmp_path, space())
    assert job.config.network.layout in [again.next()[1].config.network.layout for _ in range(2)]


def test_retry_failed_goes_on_from_where_the_machine_failed(tmp_path):
    _, job = failed_by_the_machine(tmp_path)
    again = Tune(tmp_path, space(), retry_failed=True)
    _, next_job = again.next()
    assert next_job.config == job.config
    assert next_job.resume == str(Path(job.folder) / "epoch-00001")
    assert again.study.searched()[1].continues == 0
    third = Tune(tmp_path, space(), retry_failed=True)
    assert third.next()[1].config == job.config, "now the second one was interrupted"
    assert third.next()[1].config != job.config, "and the first is continued once"


def test_a_timeout_is_not_the_configurations_fault(tmp_path):
    tune = Tune(tmp_path, space())
    trial_id, _ = tune.next()
    tune.search.note_timeout(trial_id, "no report for 900 s (--silence)")
    tune.search.note_error(trial_id, "The actor died", "machine")
    tune.search.on_trial_complete(trial_id, error=True)
    (record,) = tune.study.searched()
    assert (record.error, record.fault) == ("no report for 900 s (--silence)", "timeout")


@pytest.mark.parametrize("fault", ["data", "disk"])
def test_a_fault_that_every_trial_would_meet_ends_the_search_and_blames_no_trial(tmp_path, fault):
    tune = Tune(tmp_path, space())
    trial_id, job = tune.next()
    tune.report(trial_id, 1)
    tune.report(trial_id, 1, math.nan, last=True, error="volumes/a.h5 is truncated", fault=fault)
    (record,) = tune.study.searched()
    assert (record.state, record.closed, record.fault) == (State.FAIL, "interrupted", None)
    assert (
        str(tune.search.ending) == "volumes/a.h5 is truncated; when that is mended, the same command goes on from here"
    )
    assert tune.search.failed == []
    again = Tune(tmp_path, space())
    assert again.next()[1].config == job.config


def test_a_diverged_trial_is_marked_as_such(tmp_path):
    tune = Tune(tmp_path, space())
    trial_id, _ = tune.next()
    tune.search.note_stop(trial_id, True)
    tune.report(trial_id, 2, 0.1, last=True)
    (record,) = tune.study.searched()
    assert (record.state, record.diverged, record.value) == (State.PRUNED, True, 0.1)


def test_a_trial_that_stops_because_the_run_is_left_is_interrupted_and_a_stopped_one_is_not(tmp_path):
    tune = Tune(tmp_path, space())
    (left, _), (stopped, _) = tune.next(), tune.next()
    tune.search.leaving = True
    assert tune.next()[1] is None
    tune.report(left, 1, last=True)
    tune.search.note_stop(stopped, False)
    tune.report(stopped, 2, last=True)
    assert [(record.state, record.closed) for record in tune.study.searched()] == [
        (State.FAIL, "interrupted"),
        (State.PRUNED, None),
    ]


def test_where_all_of_ray_is_gone_a_lost_worker_is_not_the_trials_failure(tmp_path):
    tune = Tune(tmp_path, space())
    trial_id, _ = tune.next()
    tune.search.ray_is_dead = lambda: True
    tune.search.note_error(trial_id, "The actor died", "machine")
    tune.search.on_trial_complete(trial_id, error=True)
    (record,) = tune.study.searched()
    assert (record.state, record.closed, record.fault) == (State.FAIL, "interrupted", None)


def test_the_checkpoints_of_an_interrupted_trial_go_when_its_successor_has_one(tmp_path):
    *_, job, _ = two_epochs_and_a_checkpoint(tmp_path)
    again = Tune(tmp_path, space())
    trial_id, next_job = again.next()
    assert Path(job.folder).is_dir()
    again.save(trial_id, 3)
    assert again.outbox.drain(10)
    assert not Path(job.folder).exists()
    assert [path.name for path in Path(next_job.folder).iterdir()] == ["epoch-00003"]


def test_trials_begin_again_when_the_storage_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr(searcher, "ANSWER_SECONDS", 0.05)
    tune = Tune(tmp_path, space())
    made = tune.outbox.create
    late: Future[tuple[int, int]] = Future()
    monkeypatch.setattr(tune.outbox, "create", lambda *what: late)
    assert tune.next()[1] is None
    assert tune.next()[1] is None, "it waits for the same trial"
    monkeypatch.setattr(tune.outbox, "create", made)
    template = tune.search._beginning.trial
    late.set_result(made(tune._study.search._study_id, template).result(10))
    assert tune.next()[1].config.network.layout == "I2V2"
    assert len(tune.study.searched()) == 1


def test_retry_failed_serves_a_known_configuration_once_and_one_that_ended_since_not_at_all(tmp_path):
    _, job = failed_by_the_machine(tmp_path)
    again = Tune(tmp_path, space(trials=3), retry_failed=True)
    served = [again.next() for _ in range(3)]
    layouts = [one.config.network.layout for _, one in served]
    assert len(set(layouts)) == 3
    assert layouts[0] == job.config.network.layout
    for trial_id, _ in served:
        again.whole(trial_id)
    third = Tune(tmp_path, space(trials=4), retry_failed=True)
    assert third.next()[1].config.network.layout not in layouts


def test_a_folder_of_a_trial_that_the_study_lost_steps_aside_before_its_number_is_used_again(tmp_path):
    folder = tmp_path / "s" / "trials" / "search-0000"
    write(folder, 9, lambda fresh: fresh.mkdir(), {9: {}}, token="of a trial that a power cut took")
    tune = Tune(tmp_path, space())
    _, job = tune.next()
    assert job.folder == str(folder)
    assert not folder.exists()
    (aside,) = folder.parent.iterdir()
    assert (aside / "epoch-00009").is_dir()
    assert tune.said == [f"{folder} is of a trial that the study does not have; it is {aside.name} now"]


def test_a_network_that_others_start_from_is_trained_again_where_its_checkpoint_is_damaged(tmp_path):
    wanted = space(**WARM, baselines={"kinds": []})
    tune = Tune(tmp_path, wanted, launched(wanted, SLICES))
    trial_id, joint = tune.next()
    path = tune.save(trial_id, 1, 2)
    tune.report(trial_id, 2, last=True)
    (Path(path) / "checkpoint.pt").write_text("half")
    again = Tune(tmp_path, wanted, launched(wanted, SLICES))
    _, job = again.next()
    assert (job.config, job.resume) == (joint.config, None)
    (said,) = again.search.remarks
    assert said.startswith("trial r0 is trained again: the checkpoint")


def test_an_older_checkpoint_beside_an_inherited_one_that_is_damaged_is_taken(tmp_path):
    *_, job, checkpoint = two_epochs_and_a_checkpoint(tmp_path)
    second = Tune(tmp_path, space())
    second.next()  # it is interrupted before it has a checkpoint of its own
    (Path(checkpoint) / "checkpoint.pt").write_text("half")
    third = Tune(tmp_path, space())
    _, next_job = third.next()
    assert next_job.resume == str(Path(job.folder) / "epoch-00001")


def test_what_is_about_to_begin_when_a_run_is_left_is_not_left_open(tmp_path, monkeypatch):
    tune = Tune(tmp_path, space())
    monkeypatch.setattr(searcher, "ANSWER_SECONDS", 0.0)
    assert tune.next()[1] is None
    tune.search.interrupt_all()
    assert {record.state for record in tune.study.searched()} <= {State.FAIL}
    assert {record.closed for record in tune.study.searched()} <= {"interrupted"}
