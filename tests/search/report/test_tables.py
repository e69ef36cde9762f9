"""Tables in the paper's form, whole in every form they are written in."""

import numpy as np
import pandas as pd
import pytest

from recon.errors import InputError
from recon.evaluation.definitions import TRUTH_IS
from search.report.compare import Comparison, Difference
from search.report.tables import difference_text, latex, legend, tables, write
from search.results.folder import read_results
from tests.search.report.made import CEILING, LONGER, PEER, SPLIT, WAVELET, compare, made, store, study_table


@pytest.fixture
def table():
    return study_table()


def test_the_papers_three_tables(table):
    found = tables(compare(table))
    assert list(found) == [
        "Table 1: PDw-FS: STL, MTL and transfer",
        "Table 2: SSIM of PDw-FS",
        "Table 2, minus STL: SSIM of PDw-FS",
        "Table 2, minus Transfer: SSIM of PDw-FS",
        "Table 3: SSIM of PDw",
        "Table 3, minus STL: SSIM of PDw",
    ]
    first, second, _, _, third, _ = found.values()
    assert first["slices"].tolist() == ["N = 12", "N = 30"]
    assert first["pSNR STL"].tolist() == ["28.48 ± 0.00 ▽", "29.20 ± 0.00 ▽"]
    # By validation, though the other is better on the test.
    assert first["MTL is"].tolist() == ["I2V10 naive", "I2V10 naive"]
    assert second["network"].tolist() == ["Zero-filled", "STL", "Transfer", "I2V10 naive", "I2Y10 dwa"]
    assert second.loc[4, "N = 30"] == ""
    # Every slice of the split network lies above STL's by .038 and below transfer's by .002.
    assert second.loc[3, "N = 12"].endswith(" ▲ ▽")
    assert second.loc[4, "N = 12"].endswith(" ▲ △")
    assert third["network"].tolist() == ["Zero-filled", "STL", "I2V10 naive", "I2Y10 dwa"]
    assert third.loc[2, "N = 12"].endswith(" ▼")
    assert "▼" not in third.loc[1, "N = 12"]


def test_the_ceiling_stands_beside_the_zero_filled_image_and_enters_no_comparison(table):
    comparison = compare(pd.concat([*(made(CEILING, task, 0.99, seeds=(None,)) for task in ("PDw", "PDw-FS")), table]))
    found, without = tables(comparison), tables(compare(table))
    assert list(found) == list(without)
    for title, frame in found.items():
        if title in ("Table 2: SSIM of PDw-FS", "Table 3: SSIM of PDw"):
            assert frame["network"].tolist()[:3] == ["Zero-filled", "Noise-free truth", "STL"]
            assert frame.loc[1, ["N = 12", "N = 30"]].str.fullmatch(r"\d\.\d{4}").all(), "no error, no mark"
            frame = frame.drop(index=1).reset_index(drop=True)
        pd.testing.assert_frame_equal(frame, without[title])
    assert TRUTH_IS in legend(comparison)
    assert TRUTH_IS not in legend(compare(table))
    assert TRUTH_IS in write(found, "markdown", legend(comparison))


def test_the_ceiling_of_one_task_alone_is_a_row_of_its_table(table):
    found = tables(compare(pd.concat([table, made(CEILING, "PDw", 0.99, seeds=(None,))])))
    assert "Noise-free truth" in found["Table 3: SSIM of PDw"]["network"].tolist()
    assert "Noise-free truth" not in found["Table 2: SSIM of PDw-FS"]["network"].tolist()


def test_paired_differences_stand_with_their_intervals(table):
    more = [made(PEER, "PDw-FS", 0.745, 12), made(LONGER, "PDw-FS", 0.76, 30)]
    found = tables(compare(pd.concat([table, *more])))
    from_stl = found["Table 2, minus STL: SSIM of PDw-FS"].set_index("network")
    # Equal on every slice, so the interval is the mean.
    assert from_stl.loc["I2V10 naive", "N = 12"] == "+0.0380 [+0.0380, +0.0380] ▲"
    assert "STL" not in from_stl.index
    assert "Zero-filled" not in from_stl.index
    assert from_stl.loc["I2Y10 dwa", "N = 30"] == ""
    from_transfer = found["Table 2, minus Transfer: SSIM of PDw-FS"].set_index("network")
    assert from_transfer.loc["I2V10 naive", "N = 12"] == "-0.0020 [-0.0020, -0.0020] ▼"
    from_longer = found["Table 2, minus STL, equal steps: SSIM of PDw-FS"].set_index("network")
    assert from_longer.loc["I2V10 naive"].tolist() == ["", "-0.0100 [-0.0100, -0.0100] ▼"]
    assert "Table 3, minus STL, equal steps: SSIM of PDw" not in found
    wavelet = tables(compare(pd.concat([table, made(WAVELET, "PDw", 0.85, seeds=(None,))])))
    from_wavelet = wavelet["Table 3, minus ℓ1-wavelet: SSIM of PDw"].set_index("network")
    assert list(from_wavelet.index) == ["STL", "I2V10 naive", "I2Y10 dwa"]
    assert from_wavelet.loc["STL", "N = 12"] == "+0.0505 [+0.0441, +0.0569] ▲"
    from_peer = found["Table 2, minus fastMRI VarNet, STL: SSIM of PDw-FS"].set_index("network")
    assert from_peer.loc["I2V10 naive"].tolist() == ["+0.0050 [+0.0050, +0.0050] ▲", ""]


def test_differences_from_any_row_stand_below_the_others_and_an_unknown_row_is_told(table):
    usual, more = tables(compare(table)), tables(compare(table), ["I2Y10 dwa", "STL"])
    assert list(usual) == [title for title in more if "minus I2Y10 dwa" not in title]
    found = more["Table 2, minus I2Y10 dwa: SSIM of PDw-FS"].set_index("network")
    assert found.loc["I2V10 naive"].tolist() == ["-0.0500 [-0.0500, -0.0500] ▼", ""]
    assert "I2Y10 dwa" not in found.index
    with pytest.raises(InputError, match=r"there is no row 'I3'; the rows are Zero-filled, STL, Transfer, I2V10 naive"):
        tables(compare(table), ["I3"])


def test_negative_transfer_is_marked_where_the_interval_lies_below_zero():
    assert difference_text(Difference(-0.01, -0.02, -0.001), "ssim") == "-0.0100 [-0.0200, -0.0010] ▼"
    assert difference_text(Difference(-0.01, -0.02, 0.001), "ssim") == "-0.0100 [-0.0200, +0.0010]"
    assert difference_text(Difference(-0.01, np.nan, np.nan), "ssim") == "-0.0100"
    assert difference_text(Difference(-0.00001, -0.01, 0.01), "ssim") == "+0.0000 [-0.0100, +0.0100]"


def test_the_legend_says_what_the_numbers_are(table):
    text = " ".join(legend(compare(pd.concat([table, made(SPLIT, "PDw-FS", 0.75, 50, seeds=(0,))]))))
    for part in (
        "standard error over seeds (0, 1)",
        "fewer seeds: I2V10 naive on PDw-FS (N = 50: 1)",
        "95% interval over seeds and test volumes",
        "PDw-FS 6 volumes, 18 slices",
        "equispaced-fraction, R 6, centre 0.07, seed 0",
        "Epochs: multi-task 120, STL 120",
        "SSIM with a uniform 7x7 window",
        "Study made_up; data abc123; code 0.1.0 (123+).",
    ):
        assert part in text


def test_with_one_seed_the_legend_says_that_intervals_are_over_volumes_alone(table):
    text = " ".join(legend(compare(table[table["seed"].fillna(0) == 0])))
    assert "95% interval over test volumes, Student's: it says nothing of other seeds" in text


def test_each_form_holds_every_cell(table):
    comparison = compare(table)
    found = tables(comparison)
    notes = legend(comparison)
    cells = [text for frame in found.values() for text in frame.astype(str).to_numpy().ravel() if text]
    markdown, text, tex = (write(found, form, notes) for form in ("markdown", "text", "latex"))
    assert all(one in markdown for one in [*cells, *notes])
    assert all(one in text for one in [*cells, *notes])
    assert all(latex(one) in tex for one in [*cells, *notes])
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == len(found)
    assert tex.startswith(r"% needs \usepackage{amssymb}")
    assert r"\renewcommand{\thetable}{2, minus STL}" in tex
    assert r"\caption{SSIM of PDw-FS}" in tex
    assert tex.isascii()
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")
    assert tex.count("$") % 2 == 0


def test_latex_escapes_what_it_would_read_as_commands():
    assert latex(r"a_b & 5% {x} #1 $ ^ ~ \y") == (
        r"a\_b \& 5\% \{x\} \#1 \$ \textasciicircum{} \textasciitilde{} \textbackslash{}y"
    )
    assert latex("-0.0100 [-0.0200, +0.0010] ▼") == r"$-0.0100$ [$-0.0200$, $+0.0010$] $\blacktriangledown$"
    assert latex("0.75 ± 0.01") == r"0.75 $\pm$ 0.01"


def test_tables_come_from_the_stored_slices_alone(table, tmp_path):
    again = tables(Comparison(read_results(store(table, tmp_path, images=False))))
    for (title, frame), (other, expected) in zip(again.items(), tables(compare(table)).items(), strict=True):
        assert title == other
        pd.testing.assert_frame_equal(frame, expected)
