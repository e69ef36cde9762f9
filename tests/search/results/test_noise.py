"""Noise: estimates hold on tables whose parts are known, and a verdict names what was planted and nothing else."""

import json
import math
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from recon.errors import InputError
from recon.network.layout import Layout
from search import cli
from search.results.noise import effects, grid, groups, words
from search.results.noise.study import seeds_table, trials_table
from tests.search.boards import confirmed_study, opened

SIX = ("I12", "I2V10", "V12", "I6V6", "I2Y10", "V6I6")


def table(values, names=None, task="A", epoch=5):
    """Rows of (layouts, seeds) values of one task and epoch."""
    names = names or [f"I{row + 1}V{len(values) - row}" for row in range(len(values))]
    return pd.DataFrame(
        [
            {"layout": name, "seed": seed, "epoch": epoch, "task": task, "value": value}
            for name, row in zip(names, np.asarray(values, dtype=float), strict=True)
            for seed, value in enumerate(row)
        ]
    )


def drawn(rng, layouts, seeds, layout=0.0, seed=0.0, residual=1.0):
    return (
        layout * rng.standard_normal((layouts, 1))
        + seed * rng.standard_normal((1, seeds))
        + residual * rng.standard_normal((layouts, seeds))
    )


def test_components_of_a_table_that_was_worked_out_by_hand():
    # Means 2, 4, 6 of layouts and 3, 5 of seeds; residuals are ±1/2, ±0, ±1/2: mean squares 8, 6 and 1/2.
    parts = grid.components(np.array([[1.5, 2.5], [3.0, 5.0], [4.5, 7.5]]))
    assert parts.f == pytest.approx(8 / 0.5)
    assert parts.residual == pytest.approx(math.sqrt(0.5))
    assert parts.spread == pytest.approx(2.0)
    assert parts.layout == pytest.approx(math.sqrt((8 - 0.5) / 2))
    assert parts.seed == pytest.approx(math.sqrt((6 - 0.5) / 3))
    assert parts.p == pytest.approx(1 / (1 + 16))  # F on 2 and 2 degrees of freedom exceeds x by 1 / (1 + x)


def test_two_layouts_are_compared_as_a_paired_t_test_compares_them():
    values = drawn(np.random.default_rng(0), 2, 7, 0.5, 3.0)
    theirs = scipy.stats.ttest_rel(values[0], values[1])
    ours = grid.components(values)
    gap = groups.difference(values, [0], [1])
    assert ours.f == pytest.approx(theirs.statistic**2)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert gap.estimate / gap.error == pytest.approx(theirs.statistic)
    assert gap.sure == (theirs.pvalue < 0.05)


def test_with_seeds_taken_out_the_mean_squares_are_those_of_a_one_way_analysis():
    values = drawn(np.random.default_rng(1), 5, 4, 1.0, 2.0)
    theirs = scipy.stats.f_oneway(*(values - values.mean(axis=0)))
    # Taking out four seeds' means costs three degrees of freedom of the fifteen within layouts.
    assert grid.components(values).f == pytest.approx(theirs.statistic * 12 / 15)


def test_components_are_recovered_on_average():
    rng = np.random.default_rng(2)
    found = [grid.components(drawn(rng, 6, 3, 3.0, 5.0, 1.2)) for _ in range(2000)]
    assert np.mean([one.residual**2 for one in found]) == pytest.approx(1.2**2, rel=0.05)
    assert np.mean([one.layout**2 for one in found]) == pytest.approx(3.0**2, rel=0.06)
    assert np.mean([one.seed**2 for one in found]) == pytest.approx(5.0**2, rel=0.1)
    assert np.mean([one.p < 0.05 for one in found]) > 0.95
    silent = [grid.components(drawn(rng, 6, 3, 0.0, 5.0)).p for _ in range(2000)]
    assert np.mean(np.array(silent) < 0.05) == pytest.approx(0.05, abs=0.015)


def test_so_many_seeds_tell_two_layouts_apart_in_four_of_five_tries():
    count = grid.seeds_needed(1.0, 1.0, layouts=2)
    rng = np.random.default_rng(3)

    def power(seeds):
        pairs = rng.standard_normal((4000, 2, seeds)) + np.array([1.0, 0.0])[:, None]
        return np.mean(scipy.stats.ttest_rel(pairs[:, 0], pairs[:, 1], axis=1).pvalue < 0.05)

    assert power(count) == pytest.approx(0.8, abs=0.04)
    assert power(count - 2) < 0.8
    # With many layouts the residual is well known, and the number is the normal one: 2 (1.96 + .84)² = 15.7.
    assert grid.seeds_needed(1.0, 1.0, layouts=1000) == 16
    assert grid.seeds_needed(0.1, 1.0, layouts=1000) == 1570
    assert grid.seeds_needed(0.0, 1.0) is None
    assert grid.seeds_needed(1.0, 0.0) == 2


def test_a_run_is_ranked_against_the_other_seeds_alone():
    values = np.array([[1.0, 3.0, 2.0], [2.0, 1.0, 3.0], [3.0, 2.0, 1.0]])
    wanted = [
        scipy.stats.kendalltau([1, 2, 3], [2.5, 2.0, 1.5]).statistic,
        scipy.stats.kendalltau([3, 1, 2], [1.5, 2.5, 2.0]).statistic,
        scipy.stats.kendalltau([2, 3, 1], [2.0, 1.5, 2.5]).statistic,
    ]
    assert grid.rank_correlation(values, values) == pytest.approx(np.mean(wanted)) == pytest.approx(-1)
    # What all trainings of a seed share changes nothing.
    assert grid.rank_correlation(values + np.array([0, 5, 9]), values) == pytest.approx(-1)


def test_the_summary_has_the_mean_and_each_task_and_tau_by_epoch():
    rng = np.random.default_rng(4)
    end = drawn(rng, 6, 3, 3.0, 1.0, 0.1)
    early = drawn(rng, 6, 3)
    rows = [table(early, epoch=2), table(end), table(-early, task="B", epoch=2), table(-end + 0.5 * early, task="B")]
    found = grid.summary(pd.concat(rows)).set_index("value")
    assert list(found.index) == ["mean of tasks", "A", "B"]
    assert found.loc["A", "tau"] == found.loc["A", "tau_by_epoch"][5] > 0.8
    assert found.loc["A", "tau_by_epoch"][2] == pytest.approx(grid.rank_correlation(early, end))
    assert found.loc["A", "F"] == pytest.approx(grid.components(end).f)
    assert found.loc["mean of tasks", "residual"] == pytest.approx(0.25 * grid.components(early).residual)
    assert found.loc["A", "seeds_needed"] == 2


def test_rows_of_one_training_are_averaged_over_their_slices():
    one = table([[1, 2], [3, 5]])
    by_slice = pd.concat([one.assign(value=one["value"] - 1), one.assign(value=one["value"] + 1)])
    np.testing.assert_allclose(grid.grid(by_slice).end, [[1, 2], [3, 5]])


def test_what_lacks_trainings_is_left_out_and_named():
    whole = table(drawn(np.random.default_rng(5), 4, 3), ["I4", "V4", "Y4", "I2V2"])
    lacking = whole[~((whole["layout"] == "V4") & (whole["seed"] > 0))]
    found = grid.grid(lacking)
    assert found.names == ("I4", "Y4", "I2V2")
    assert found.dropped == ("V4",)
    assert "Left out, for some of their trainings are missing: V4." in groups.verdict(lacking)
    broken = whole.assign(value=whole["value"].where(whole["seed"] != 2))
    assert grid.grid(broken).seeds == (0, 1)
    with pytest.raises(InputError, match="there is 1 seed"):
        grid.grid(whole[whole["seed"] == 0])
    with pytest.raises(InputError, match="there is 1 layout"):
        grid.grid(whole[whole["layout"] == "V4"])


def test_the_verdict_names_what_the_better_layouts_share_with_its_error():
    rng = np.random.default_rng(6)
    last = [0.0, 0.0043, 0.0043, 0.0043, 0.0043, 0.0]
    values = 0.7 + np.array(last)[:, None] + drawn(rng, 6, 3, 0.0, 0.01, 0.0006)
    found = groups.groups(values)
    assert [set(group) for group in found] == [{1, 2, 3, 4}, {0, 5}]
    gap = groups.difference(values, found[0], found[1])
    residual = grid.components(values).residual
    assert gap.error == pytest.approx(residual * math.sqrt((1 / 4 + 1 / 2) / 3))
    sentence = groups.verdict(table(values, SIX))
    assert "layouts with private blocks 7–12 (" in sentence
    assert f"score {words.amount(gap.estimate, gap.error)} above" in sentence
    assert "is best cannot be told" in sentence
    letters = groups.group_table(table(values, SIX)).set_index("configuration")["group"]
    assert dict(letters) == dict(zip(SIX, "baaaab", strict=True))


def test_tasks_of_opposite_signs_are_said_where_their_mean_hides_them():
    rng = np.random.default_rng(7)
    last = np.array([0.0, 1.0, 1.0, 1.0, 1.0, 0.0])[:, None]
    rows = [
        table(0.015 * last + drawn(rng, 6, 3, residual=0.001), SIX, "A"),
        table(-0.015 * last + drawn(rng, 6, 3, residual=0.001), SIX, "B"),
    ]
    sentence = groups.verdict(pd.concat(rows))
    assert "the 6 layouts cannot be told apart" in sentence
    assert "In A layouts with private blocks 7–12" in sentence
    assert "; in B layouts with shared blocks 7–12" in sentence


@pytest.mark.parametrize(("layouts", "seeds"), [(2, 3), (6, 3), (12, 2)])
def test_on_noise_alone_groups_are_told_apart_in_no_more_than_one_table_of_twenty(layouts, seeds):
    rng = np.random.default_rng(8)
    told = [len(groups.groups(drawn(rng, layouts, seeds, 0.0, 3.0))) > 1 for _ in range(1000)]
    # Two layouts are one contrast, which has the whole level; binomial error .7 %.
    assert np.mean(told) <= 0.05 + 0.02


# Searched trials


def layouts_of(rng, count, blocks=12):
    """Different layouts of up to three changes, as a search draws them."""
    found = []
    while len(found) < count:
        cuts = sorted(rng.choice(np.arange(1, blocks), rng.integers(0, 4), replace=False).tolist())
        kinds = ""
        for start, end in zip([0, *cuts], [*cuts, blocks], strict=True):
            kinds += str(rng.choice([kind for kind in "IYV" if kind != kinds[-1:]])) * (end - start)
        if str(Layout(kinds)) not in found:
            found.append(str(Layout(kinds)))
    return found


def searched(rng, count=30, effect=0.0043, residual=0.0012, stop=True, common=0.7):
    """Trials whose value at the end has ``effect`` for private blocks 7–12 and at the rung seven tenths of it; half are
    stopped there. Noise at rung and end has a correlation of ``common``."""
    rows, reached = [], []
    for trial, layout in enumerate(layouts_of(rng, count)):
        part = np.mean([kind != "I" for kind in Layout.parse(layout).kinds[6:]])
        first = rng.standard_normal()
        last = common * first + math.sqrt(1 - common**2) * rng.standard_normal()
        row = {"trial": trial, "layout": layout, "weighting": str(rng.choice(["naive", "dwa"]))}
        early = 0.70 + 0.7 * effect * part + residual * first
        rows.append(row | {"epoch": 2, "value": early})
        if not stop or not reached or early >= np.median(reached):
            rows.append(row | {"epoch": 5, "value": 0.71 + effect * part + residual * last})
        reached.append(early)
    return pd.DataFrame(rows)


def test_with_nothing_stopped_effects_are_least_squares_of_the_last_value():
    trials = searched(np.random.default_rng(9), stop=False)
    end = trials[trials["epoch"] == 5]
    kinds = np.array([list(Layout.parse(layout).kinds) for layout in end["layout"]])
    private = kinds != "I"
    split = ((kinds == "V").mean(axis=1) - (kinds == "Y").mean(axis=1)) / 2
    dwa = end["weighting"] == "dwa"
    design = np.column_stack(
        [private[:, :6].mean(axis=1), private[:, 6:].mean(axis=1), split, 1 - dwa, np.ones(len(end))]
    )
    solved, rest, *_ = np.linalg.lstsq(design, end["value"].to_numpy(), rcond=None)
    variance = rest[0] / (len(end) - 5) * np.linalg.inv(design.T @ design)
    for milestones in ((), (2,)):
        found = effects.effects(trials, milestones)
        assert [one.name for one in found] == [
            "private blocks 1–6 over shared ones",
            "private blocks 7–12 over shared ones",
            "split blocks (V) over multi-head ones (Y)",
            "weighting dwa over naive",
        ]
        wanted = [*solved[:3], -solved[3]]
        np.testing.assert_allclose([one.estimate for one in found], wanted, rtol=1e-6, atol=1e-9)
        errors = np.sqrt(np.diag(variance)[:4])
        # The chain divides by one degree of freedom less at its second stage.
        np.testing.assert_allclose([one.error for one in found], errors, rtol=1e-6 if not milestones else 0.03)
    assert effects.judged_at(trials, (2,)) == 5


def test_effects_at_the_end_are_not_made_smaller_by_those_that_were_stopped():
    chained, complete, covered = [], [], []
    for seed in range(60):
        trials = searched(np.random.default_rng(seed), count=60, effect=0.01, residual=0.004, common=0.9)
        (one,) = (one for one in effects.effects(trials, (2,), 5) if "7–12" in one.name)
        chained.append(one.estimate)
        covered.append(abs(one.estimate - 0.01) < scipy.stats.t.isf(0.025, one.free) * one.error)
        survivors = trials[trials.groupby("trial")["epoch"].transform("max") == 5]
        (other,) = (one for one in effects.effects(survivors[survivors["epoch"] == 5]) if "7–12" in one.name)
        complete.append(other.estimate)
    error = np.std(chained) / math.sqrt(len(chained))
    assert np.mean(chained) == pytest.approx(0.01, abs=3 * error)
    assert np.mean(complete) < 0.01 - 3 * error, "a regression over complete trials finds too little"
    assert np.mean(covered) == pytest.approx(0.95, abs=0.06)


def both(trials):
    return pd.concat([trials.assign(task=grid.MEAN), trials.assign(task="A")])


def test_the_verdict_on_trials_names_the_planted_half_and_where_it_was_judged():
    sentence = effects.trials_verdict(both(searched(np.random.default_rng(10), residual=0.0008)), (2,))
    assert sentence.startswith("Over 30 searched trials of one seed, after epoch 2 of 5, private blocks 7–12 over")
    assert " pay +.00" in sentence
    assert "at the end)" in sentence
    assert "; nothing more is sure (at most, either way: private blocks 1–6 over shared ones .00" in sentence
    whole = effects.trials_verdict(both(searched(np.random.default_rng(10), stop=False, residual=0.0008)), (2,))
    assert whole.startswith("Over 30 searched trials of one seed, private blocks 7–12 over shared ones pay +.00")


def test_two_studies_of_other_trials_name_the_same_blocks():
    sentences = [
        effects.trials_verdict(both(searched(np.random.default_rng(seed), stop=False, residual=0.0008)), (2,))
        for seed in (20, 21, 22)
    ]
    assert all("seed, private blocks 7–12 over shared ones pay +.00" in sentence for sentence in sentences)


def test_on_noise_alone_a_kind_of_block_is_named_in_no_more_than_one_study_of_twenty():
    named = []
    for seed in range(120):
        trials = searched(np.random.default_rng(1000 + seed), count=24, effect=0.0)
        named.append(any(one.sure for one in effects.effects(trials, (2,))))
    assert np.mean(named) <= 0.05 + 0.04  # binomial error 2 %


def test_what_the_trials_cannot_tell_is_no_number():
    trials = searched(np.random.default_rng(11), stop=False)
    only = trials[[set(Layout.parse(layout).kinds[:6]) == {"I"} for layout in trials["layout"]]]
    few = pd.concat([only, trials[trials["layout"].isin(["I12"])]])
    found = {one.name: one for one in effects.effects(few.drop_duplicates().drop(columns="weighting"))}
    assert math.isnan(found["private blocks 1–6 over shared ones"].estimate)
    assert math.isnan(found["private blocks 1–6 over shared ones"].corrected)
    assert not found["private blocks 1–6 over shared ones"].sure
    with pytest.raises(InputError, match="3 searched trials that reached epoch 2 are too few for the 5 coefficients"):
        effects.effects(
            trials[trials["trial"].isin([0, 1, 2])].assign(weighting=["naive", "naive", "dwa", "dwa", "dwa", "dwa"]),
            (2,),
        )


def test_holm_is_as_worked_out_by_hand():
    found = [
        effects.Effect(name, 1.0, 1.0, 9.0, p, p, 9, 9)
        for name, p in zip("abcd", (0.01, 0.04, 0.03, 0.005), strict=True)
    ]
    unknown = effects.Effect("e", math.nan, math.nan, math.nan, math.nan, math.nan, 9, 9)
    corrected = [one.corrected for one in effects._holm([*found, unknown])]
    np.testing.assert_allclose(corrected, [0.03, 0.06, 0.06, 0.02, math.nan])


def test_blocks_of_one_kind_everywhere_stand_together():
    trials = searched(np.random.default_rng(12), stop=False)
    trials = trials[trials["layout"].isin(trials["layout"].unique()[:12])]
    listed = trials.assign(
        layout=[["I12", "I6V6", "V12", "V6I6", "I2V10", "I2Y10"][one % 6] for one in trials["trial"]]
    )
    names = [one.name for one in effects.block_effects(listed)]
    assert names == [f"private blocks {blocks} over shared ones" for blocks in ("1–2", "3–6", "7–12")]


# From a study


@pytest.fixture(scope="module")
def runs(local_ray, tmp_path_factory):
    return confirmed_study(tmp_path_factory)


def test_a_studys_confirmations_and_trials_are_read_as_they_are(runs):
    study = opened(runs)
    over_seeds = seeds_table(study)
    records = [one for one in study.over_seeds() if one.kind == "mtl"]
    assert len(over_seeds) == sum(len(one.history) * len(one.tasks) for one in records)
    assert set(over_seeds["seed"]) == {one.seed for one in records}
    trials = trials_table(study)
    ended = {one.number: one for one in study.searched() if one.state in ("complete", "pruned")}
    assert set(trials["trial"]) == set(ended)
    for row in trials[trials["task"] == grid.MEAN].itertuples():
        assert row.value == pytest.approx(ended[row.trial].values[row.epoch])


def test_the_command_prints_tables_and_a_verdict(runs, monkeypatch, capsys):
    def run(*arguments: object):
        monkeypatch.setattr(sys, "argv", ["splitpoint", "noise", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    code, out, _ = run("one", "--runs-dir", runs, "--format", "json")
    assert code == 0
    found = json.loads(out)
    assert found["verdict"]
    assert set(found) == {"over_seeds", "searched", "judged_after", "missing", "verdict"}
    code, out, _ = run("one", "--runs-dir", runs)
    assert code == 0
    assert out.rstrip().endswith(found["verdict"])
    # Before anything is confirmed, with two trials that ended: one sentence.
    monkeypatch.setattr("search.study.open.OpenStudy.over_seeds", lambda self: [])
    monkeypatch.setattr("search.study.open.OpenStudy.searched", lambda self: [])
    code, _, err = run("one", "--runs-dir", runs)
    assert code == 2
    assert err.startswith("splitpoint: study 'one' says nothing of noise: nothing was trained over seeds yet")
    assert err.count("\n") == 1
