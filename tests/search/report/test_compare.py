"""Cells are what a hand would calculate, and intervals hold what they claim."""

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from recon.errors import InputError
from search.report.compare import SIX, Row, difference
from search.report.tables import tables
from tests.search.report.made import (
    HEAD,
    LONGER,
    MOVED,
    OWN,
    PEER,
    SPLIT,
    STL,
    TRANSFER,
    WAVELET,
    ZERO,
    compare,
    made,
    study_table,
)


@pytest.fixture
def table():
    return study_table()


def test_a_cell_is_the_mean_over_slices_then_seeds_with_the_seeds_standard_error(table):
    found = compare(table).cell(SPLIT, 12, "PDw-FS", "ssim")
    assert found.mean == pytest.approx(0.75 + OWN.mean() + 0.0005)
    assert found.error == pytest.approx(stats.sem([0.75, 0.751]))
    assert found.seeds == 2
    assert found.against["stl"].mean == pytest.approx(0.75 - 0.712)
    assert found.against["transfer"].mean == pytest.approx(0.75 - 0.752)
    assert compare(table).cell(HEAD, 30, "PDw-FS", "ssim") is None
    alone = compare(table[table["seed"] == 0]).cell(SPLIT, 12, "PDw-FS", "ssim")
    assert np.isnan(alone.error)


def test_networks_that_differ_in_searched_hyperparameters_are_rows_of_their_own(table):
    slow, fast = (replace(SPLIT, hyperparameters=f"learning_rate={rate}") for rate in ("0.001", "0.01"))
    more = [made(row, "PDw-FS", base, 12).assign(hyperparameters=row.hyperparameters)
            for row, base in ((slow, 0.6), (fast, 0.9))]  # fmt: skip
    comparison = compare(pd.concat([table, *more]))
    means = {row: comparison.cell(row, 12, "PDw-FS", "ssim").mean - OWN.mean() for row in (SPLIT, slow, fast)}
    assert list(means.values()) == pytest.approx([0.7505, 0.6005, 0.9005])
    assert fast.name == "I2V10 naive (learning_rate=0.01)"


def test_a_network_of_fewer_seeds_does_not_stand_for_mtl(table):
    lucky = made(Row("mtl", "V12", "naive", "random"), "PDw-FS", 0.9, 12, seeds=(0,), validation=0.99)
    assert compare(pd.concat([table, lucky])).best(12) == SPLIT


def test_a_network_that_never_saw_the_scarce_task_serves_every_n(table):
    comparison = compare(table)
    first, second = (comparison.cell(SPLIT, n, "PDw", "ssim").against["stl"].mean for n in (12, 30))
    assert first == pytest.approx(second) == pytest.approx(-0.02)


def test_only_seeds_that_both_have_are_compared(table):
    found = compare(pd.concat([table, made(SPLIT, "PDw-FS", 0.95, 12, seeds=(5,))])).cell(SPLIT, 12, "PDw-FS", "ssim")
    assert found.seeds == 3
    assert found.against["stl"].mean == pytest.approx(0.75 - 0.712)


def test_the_zero_filled_image_has_a_mean_at_every_n_and_is_compared_with_nothing(table):
    for n in (12, 30):
        found = compare(table).cell(ZERO, n, "PDw-FS", "ssim")
        assert found.mean == pytest.approx(0.4 + OWN.mean())
        assert np.isnan(found.error)
        assert found.against == {}


def test_every_network_is_compared_with_the_wavelet_which_has_no_seed_and_is_compared_with_nothing(table):
    more = pd.concat([table, *(made(WAVELET, task, 0.72, seeds=(None,)) for task in ("PDw", "PDw-FS"))])
    comparison = compare(more)
    for n in (12, 30):
        # Its seeds' networks lie .0005 above their base on the mean.
        assert comparison.cell(SPLIT, n, "PDw-FS", "ssim").against["l1-wavelet"].mean == pytest.approx(0.0305)
        assert comparison.cell(WAVELET, n, "PDw-FS", "ssim").against == {}


def test_peers_are_compared_with_as_stl_is(table):
    more = pd.concat([table, made(PEER, "PDw-FS", 0.69, 12), made(PEER, "PDw", 0.91)])
    comparison = compare(more)
    assert comparison.peers == ["fastmri"]
    assert comparison.cell(SPLIT, 12, "PDw-FS", "ssim").against["fastmri"].mean == pytest.approx(0.06)
    assert comparison.cell(SPLIT, 30, "PDw", "ssim").against["fastmri"].mean == pytest.approx(-0.03)
    assert "fastmri" not in comparison.cell(SPLIT, 30, "PDw-FS", "ssim").against
    assert comparison.cell(PEER, 12, "PDw-FS", "ssim").against["stl"].mean == pytest.approx(-0.022)


def test_rows_stand_from_the_simplest_to_the_transferred(table):
    more = [made(row, "PDw-FS", 0.7, 12) for row in (MOVED, LONGER, PEER)]
    names = [row.name for row in compare(pd.concat([*more, table])).rows]
    assert names == [
        "Zero-filled",
        "STL",
        "STL, equal steps",
        "Transfer",
        "fastMRI VarNet, STL",
        "I2V10 naive",
        "I2Y10 dwa",
        "I2V10 naive, from transfer",
    ]


def test_mtl_is_the_best_on_validation_of_those_that_start_at_random(table):
    more = pd.concat([table, made(MOVED, "PDw-FS", 0.9, 12, validation=0.9)])
    # The other is better on the test.
    assert compare(more).best(12) == SPLIT


def test_mtl_is_the_best_that_starts_from_the_joint_network_where_none_starts_at_random(table):
    joint = [replace(row, init="joint") for row in (SPLIT, HEAD)]
    start = table.assign(init=table["init"].replace("random", "joint"))
    assert compare(start).best(12) == joint[0]
    more = pd.concat([table, made(joint[1], "PDw-FS", 0.9, 12, validation=0.9)])
    assert compare(more).best(12) == SPLIT


def frame(values):
    """(volumes, slices, seeds) as differences are given."""
    volumes, slices, seeds = values.shape
    index = pd.MultiIndex.from_product([range(volumes), range(slices)], names=["volume", "slice"])
    return pd.DataFrame(values.reshape(-1, seeds), index)


@pytest.mark.parametrize(
    ("of_volumes", "of_seeds", "left"), [(1, 0, 1), (1, 0.3, 1), (1, 0.5, 0.5), (0.3, 1, 1), (0, 0, 1)]
)
def test_intervals_hold_the_truth_as_often_as_they_claim_whichever_of_seeds_and_volumes_differ(
    of_volumes, of_seeds, left
):
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        values = (
            0.4
            + of_volumes * rng.normal(size=(20, 1, 1))
            + of_seeds * rng.normal(size=(1, 1, 3))
            + left * rng.normal(size=(20, 2, 3))
        )
        found = difference(frame(values))
        assert found.low <= found.mean <= found.high
        held += found.low <= 0.4 <= found.high
    # With so few seeds Satterthwaite's degrees of freedom are a little off.
    assert 0.91 <= held / 300 <= 0.99


def test_seeds_that_agree_leave_students_interval_over_volumes_and_volumes_that_agree_that_over_seeds():
    values = np.random.default_rng(3).normal(0.3, 1.0, 20)
    for given in (np.repeat(values[:, None, None], 3, axis=2), values[:, None, None]):
        found = difference(frame(given))
        theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    found = difference(frame(np.broadcast_to(values[:3], (20, 2, 3))))
    theirs = stats.ttest_1samp(values[:3], 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_a_volume_of_more_slices_weighs_more():
    """The mean is over slices, and so is its error."""
    rng = np.random.default_rng(1)
    means, counts = rng.normal(size=12), rng.integers(1, 5, 12)
    index = pd.MultiIndex.from_tuples(
        [(volume, one) for volume, count in enumerate(counts) for one in range(count)], names=["volume", "slice"]
    )
    found = difference(pd.DataFrame({0: np.repeat(means, counts)}, index))
    assert found.mean == pytest.approx(np.average(means, weights=counts))
    # The linearised ratio's standard error (Cochran 1977, 2.39) without the finite population's correction.
    error = np.sqrt(np.sum((counts * (means - found.mean)) ** 2) / 11 / 12) / counts.mean()
    assert found.high - found.mean == pytest.approx(stats.t.isf(0.025, 11) * error)


def test_one_volume_gives_no_interval():
    index = pd.MultiIndex.from_arrays([["a"] * 3, range(3)], names=["volume", "slice"])
    found = difference(pd.DataFrame({0: [0.1, 0.2, 0.3]}, index))
    assert found.mean == pytest.approx(0.2)
    assert np.isnan([found.low, found.high]).all()
    assert found.sign == 0


def test_results_without_n_are_refused(table):
    with pytest.raises(InputError, match="'made_up' have no N to compare at: its space names no scarce task"):
        compare(table, scarce=None)
    with pytest.raises(InputError, match="'made_up' have no N to compare at: no network of one was tested"):
        compare(table[table["scarce_slices"].isna()])


def test_a_study_of_the_papers_size_takes_seconds():
    rows = [Row("mtl", *pair, "random") for pair in SIX]
    parts = [made(STL, "PDw", 0.9, seeds=range(5))]
    for n in (32, 107, 253, 497):
        parts += [made(row, task, 0.8, n, seeds=range(5)) for row in rows for task in ("PDw", "PDw-FS")]
        parts += [made(row, "PDw-FS", 0.8, n, seeds=range(5)) for row in (STL, LONGER, TRANSFER)]
    table = pd.concat(parts, ignore_index=True)
    began = time.process_time()
    tables(compare(table))
    assert time.process_time() - began < 10
