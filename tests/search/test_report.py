"""Tables in the paper's form: cells are what a hand would calculate, and intervals hold what they claim."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from recon.errors import InputError
from search.report import Row, cell, difference, tables, write
from search.tested import COLUMNS, read_table

VOLUMES, SLICES = 6, 3
SPLIT = Row("mtl", "I2V10", "naive", "random")
HEAD = Row("mtl", "I2Y10", "dwa", "random")
STL = Row("stl", "I12", "", "")
TRANSFER = Row("transfer", "I12", "", "")


def made(row, task, base, n=None, seeds=(0, 1), validation=0.5, spread=0.001):
    """Tested slices of one configuration: ``base``, plus what belongs to the slice, plus a little a seed."""
    lines = []
    for seed in seeds:
        for volume in range(VOLUMES):
            for position in range(SLICES):
                own = 0.05 * np.sin(7 * volume + position)
                lines.append(
                    dict.fromkeys(COLUMNS, "")
                    | {"kind": row.kind, "layout": row.layout, "weighting": row.weighting, "init": row.init}
                    | {"trial": "r0", "scarce_slices": n, "seed": seed, "task": task, "volume": f"v{volume}"}
                    | {"slice": position, "ssim": base + own + spread * seed, "psnr": 40 * base, "nrmse": 0.1}
                    | {"validation": validation}
                )
    return pd.DataFrame(lines).astype({"scarce_slices": "Int64", "seed": "Int64"})


@pytest.fixture
def table():
    return pd.concat(
        [
            made(STL, "PDw", 0.90),
            *(made(STL, "PDw-FS", 0.70 + n / 1000, n) for n in (12, 30)),
            *(made(TRANSFER, "PDw-FS", 0.74 + n / 1000, n) for n in (12, 30)),
            *(made(SPLIT, "PDw-FS", 0.75, n, validation=0.6) for n in (12, 30)),
            *(made(SPLIT, "PDw", 0.88, n) for n in (12, 30)),
            made(HEAD, "PDw-FS", 0.80, 12, validation=0.4),
            made(HEAD, "PDw", 0.90, 12),
        ],
        ignore_index=True,
    )


def test_a_cell_is_the_mean_over_slices_then_seeds_with_the_seeds_standard_error(table):
    found = cell(table, SPLIT, 12, "PDw-FS", "ssim")
    own = np.mean([0.05 * np.sin(7 * volume + position) for volume in range(VOLUMES) for position in range(SLICES)])
    assert found.mean == pytest.approx(0.75 + own + 0.0005)
    assert found.error == pytest.approx(stats.sem([0.75, 0.751]))
    assert found.seeds == 2
    assert found.against["stl"].mean == pytest.approx(0.75 - 0.712)
    assert found.against["transfer"].mean == pytest.approx(0.75 - 0.752)
    assert cell(table, HEAD, 30, "PDw-FS", "ssim") is None
    alone = cell(table[table["seed"] == 0], SPLIT, 12, "PDw-FS", "ssim")
    assert np.isnan(alone.error)


def test_a_network_that_never_saw_the_scarce_task_serves_every_n(table):
    first, second = (cell(table, SPLIT, n, "PDw", "ssim").against["stl"].mean for n in (12, 30))
    assert first == pytest.approx(second) == pytest.approx(-0.02)


def test_only_seeds_that_both_have_are_compared(table):
    more = pd.concat([table, made(SPLIT, "PDw-FS", 0.95, 12, seeds=(5,))])
    found = cell(more, SPLIT, 12, "PDw-FS", "ssim")
    assert found.seeds == 3
    assert found.against["stl"].mean == pytest.approx(0.75 - 0.712)


def test_intervals_hold_the_truth_as_often_as_they_claim():
    """Volumes with an effect of their own: the interval over volumes holds, one over slices alone would not."""
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([range(25), range(6)], names=["volume", "slice"])
    held = 0
    for trial in range(300):
        own = np.repeat(rng.normal(0.01, 0.02, 25), 6) + rng.normal(0, 0.005, 150)
        found = difference(pd.Series(own, index), resamples=500, seed=trial)
        assert found.low <= found.mean <= found.high
        held += found.low <= 0.01 <= found.high
    assert 0.90 <= held / 300 <= 0.98


def test_the_interval_is_scipys():
    rng = np.random.default_rng(3)
    values = rng.normal(0.0, 1.0, 40)
    index = pd.MultiIndex.from_arrays([range(40), [0] * 40], names=["volume", "slice"])
    ours = difference(pd.Series(values, index))
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert difference(pd.Series(values, index)) == ours


def test_the_papers_three_tables(table):
    found = tables(table, "PDw-FS", ["PDw"])
    first, second, third = found.values()
    assert list(found) == [
        "Table 1: PDw-FS: STL, MTL and transfer",
        "Table 2: SSIM of PDw-FS",
        "Table 3: SSIM of PDw",
    ]
    assert first["slices"].tolist() == ["N = 12", "N = 30"]
    assert first["pSNR STL"].tolist() == ["28.48 ± 0.00 ▽", "29.20 ± 0.00 ▽"]
    # By validation, though the other is better on the test.
    assert first["MTL is"].tolist() == ["I2V10 naive", "I2V10 naive"]
    assert second["network"].tolist() == ["STL", "Transfer", "I2V10 naive", "I2Y10 dwa"]
    assert second.loc[3, "N = 30"] == ""
    # Every slice of the split network lies above STL's by .038 and below transfer's by .002.
    assert second.loc[2, "N = 12"].endswith(" ▲ ▽")
    assert second.loc[3, "N = 12"].endswith(" ▲ △")
    assert third["network"].tolist() == ["STL", "I2V10 naive", "I2Y10 dwa"]
    assert third.loc[1, "N = 12"].endswith(" ▼")
    assert "▼" not in third.loc[0, "N = 12"]


def test_each_form_holds_every_cell(table):
    found = tables(table, "PDw-FS", ["PDw"])
    cells = [text for frame in found.values() for text in frame.astype(str).to_numpy().ravel() if text]
    markdown, text, latex = (write(found, form) for form in ("markdown", "text", "latex"))
    assert all(one in markdown for one in cells)
    assert all(one in text for one in cells)
    assert latex.count(r"\begin{tabular}") == 3
    assert r"0.7505" in latex or r"$\pm$" in latex
    assert not set("▲▼△▽±") & set(latex)


def test_a_table_without_n_is_refused(table):
    with pytest.raises(InputError, match="has no N to make a table of"):
        tables(table[table["scarce_slices"].isna()], "PDw-FS", ["PDw"])


def test_tables_come_from_the_stored_slices_alone(table, tmp_path):
    path = tmp_path / "trials.csv.gz"
    table[COLUMNS].to_csv(path, index=False, float_format="%.6f", compression="gzip")
    again = tables(read_table(path), "PDw-FS", ["PDw"])
    for (title, frame), (other, expected) in zip(again.items(), tables(table, "PDw-FS", ["PDw"]).items(), strict=True):
        assert title == other
        pd.testing.assert_frame_equal(frame, expected)
