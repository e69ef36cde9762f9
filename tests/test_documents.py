"""Documents say what their commands say: the tables of docs/paper.md come out of the results that lie beside it."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import noise, peer, training
from recon.stored import read_json
from search.report.compare import Comparison
from search.report.tables import legend, tables, write
from search.results.folder import read_results
from search.results.noise.grid import summary
from search.results.noise.words import short
from spaces.reading import load_space

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def comparison():
    return Comparison(read_results(DOCS / "paper"))


def test_the_papers_document_holds_the_tables_of_its_results_and_finds_nothing_that_is_not_in_them(comparison):
    text = (DOCS / "paper.md").read_text(encoding="utf-8")
    made = tables(comparison, ["I2V10 naive"])
    for title, frame in made.items():
        assert write({title: frame}, "markdown").strip() in text, title
    assert all(paragraph in text for paragraph in legend(comparison))
    findings = " ".join(text.split("## Tables")[0].split())
    intervals = re.findall(r"[+-]0\.\d{4} \[[+-]0\.\d{4}, [+-]0\.\d{4}\]", findings)
    assert len(intervals) > 30
    shown = write(made, "markdown")
    assert [one for one in intervals if one not in shown] == []


def test_the_papers_document_has_stl_of_the_abundant_task_above_the_wavelet(comparison):
    cell = comparison.cell(comparison.baseline("stl"), max(comparison.counts), "PDw", "ssim")
    assert cell.against["l1-wavelet"].low > 0


def test_every_configuration_of_the_small_study_was_tested_at_every_n_and_with_every_seed(comparison):
    for row in comparison.rows:
        if row.kind in ("mtl", "transfer", "stl", "stl-steps", "joint-stl", "joint-tuned"):
            cells = [comparison.cell(row, count, comparison.scarce, "ssim") for count in comparison.counts]
            assert [cell.seeds for cell in cells if cell] == [len(comparison.seeds)] * len(comparison.counts), row.name


def test_the_peers_learning_rate_was_the_best_on_validation_of_those_tried():
    """Trials of the peer are named by a digest of their configuration, so the names tell the rate."""
    rates = read_json(DOCS / "paper" / "peer-rates.json")["validation_ssim"]
    assert len([score for score in rates.values() if score is not None]) >= 2
    best = float(max(rates, key=lambda rate: rates[rate] or 0))
    space = peer.longer(load_space("paper-small.yaml").on({"PDw": 32, "PDw-FS": 32}), 48)
    expected = peer.jobs(space, DOCS, best, [16, 32], space.grid_seeds(), True)
    table = read_results(DOCS / "paper").table
    assert set(table.loc[table["kind"] == "fastmri", "trial"]) == {job.name for job in expected}


def test_the_table_of_what_a_trial_says_is_that_of_its_stored_trainings():
    lines = [json.loads(line) for line in (DOCS / "noise.jsonl").read_text(encoding="utf-8").splitlines()]
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    for where, table in noise.tables(lines).items():
        for row in summary(table).to_dict("records"):
            numbers = (short(row["layout"]), short(row["residual"]), f"{row['F']:.1f}")
            assert f"| {where} | {row['value']} | {numbers[0]} | {numbers[1]} | {numbers[2]} (" in text


def test_the_table_of_the_trainings_choices_is_that_of_its_stored_trainings():
    lines = [json.loads(line) for line in (DOCS / "training.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = training.summary(pd.DataFrame(lines)).to_dict("records")
    assert {row["seeds"] for row in rows} == {3}
    section = (DOCS / "benchmarks.md").read_text(encoding="utf-8").split("### The recipe before")[0]
    for row in rows:
        cells = [f"{row['PDw-FS 10']:.4f}", f"{row['PDw 32']:.4f}"]
        cells += [row.get(f"{name} minus base", "–") for name in ("PDw-FS 10", "PDw 32")]
        assert f"| {' | '.join(cells)} |" in section, row["variant"]


@pytest.mark.parametrize("name", ["training-snr40", "training-80"])
def test_the_sense_steps_at_other_noise_and_size_are_those_of_their_stored_trainings(name):
    lines = [json.loads(line) for line in (DOCS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    for row in training.summary(pd.DataFrame(lines)).to_dict("records"):
        if row["variant"] != "base":
            assert f"| {row['PDw-FS 10 minus base']} | {row['PDw 28 minus base']} |" in text, row["variant"]
