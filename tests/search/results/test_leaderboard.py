"""The leaderboard of a study that was really launched and confirmed, with a trainer that takes milliseconds."""

import io
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from rich.console import Console

from recon.errors import InputError
from recon.evaluation.definitions import DEFINITIONS
from search.results.leaderboard import ENOUGH, Selection, columns, confirmed, leaderboard
from search.results.text import Format, objects, render, rich_table, write
from search.run.launch import launch
from search.study.open import create_study, open_study
from search.study.record import State
from tests.search import fakes
from tests.search.boards import confirmed_study, opened
from tests.search.conftest import facts, space

TASKS = ("PDw", "PDw-FS")
PROMISED = (
    *("rank", "trial", "kind", "layout", "weighting", "scarce_slices", "seed", "state", "epochs"),
    *("ssim", "ssim/PDw", "ssim/PDw-FS", "gain", "gain/PDw", "gain/PDw-FS", "gpu_seconds", "parameters", "checkpoint"),
)


@pytest.fixture(scope="module")
def study(local_ray, tmp_path_factory):
    return opened(confirmed_study(tmp_path_factory))


@pytest.fixture(scope="module")
def everything(study):
    return leaderboard(study, Selection(everything=True))


def test_the_promised_columns_stand_there_in_the_promised_order(everything):
    assert [name for name in everything.columns if name in PROMISED] == list(PROMISED)
    assert list(everything.columns) == columns(TASKS)


def test_every_trial_has_one_row_with_what_its_record_says(study, everything):
    records = {record.name: record for record in study.records()}
    assert sorted(everything["trial"]) == sorted(records)
    for row in objects(everything):
        record = records[row["trial"]]
        assert [row[name] for name in ("kind", "stage", "layout", "weighting", "scarce_slices", "seed", "epochs")] == [
            *(record.kind, record.stage, record.layout, record.weighting, record.scarce_slices, record.seed),
            record.epochs,
        ]
        assert row["state"] == record.state
        assert (row["checkpoint"], row["node"]) == (record.checkpoint, record.node)
        assert row["ssim"] == record.metrics.get("ssim")
        for task in TASKS:
            for name in (f"ssim/{task}", f"psnr/{task}", f"nrmse/{task}", f"weight/{task}"):
                assert row[name] == record.metrics.get(name)


def test_stopped_and_failed_trials_stand_there_on_request_only(study, everything):
    states = set(everything["state"])
    assert {State.COMPLETE, State.PRUNED, State.FAIL} <= states
    finished = leaderboard(study)
    assert set(finished["state"]) == {State.COMPLETE}
    assert len(finished) == (everything["state"] == State.COMPLETE).sum() < len(everything)
    (failed,) = objects(everything[everything["state"] == State.FAIL])
    assert (failed["layout"], failed["rank"], failed["epochs"]) == ("Y4", None, 1)
    assert failed["error"] == "gain is nan after epoch 2"
    stopped = everything[everything["state"] == State.PRUNED]
    assert stopped["rank"].isna().all()
    assert stopped["ssim"].notna().all()
    assert (stopped["epochs"] < 4).all()


def test_a_gain_is_the_metric_minus_the_mean_stl_at_the_same_epoch_or_at_its_end(study, everything):
    records = {record.name: record for record in study.records()}
    stls = [record for record in records.values() if record.kind == "stl" and record.state is State.COMPLETE]
    seen = set()
    for row in objects(everything):
        record = records[row["trial"]]
        expected = {}
        for task in record.tasks:
            mine = [one for one in stls if one.tasks == (task,) and one.slices[task] == record.slices[task]]
            assert len({one.seed for one in mine}) == len(mine) > 1
            epoch = 4 if record.kind == "transfer" else record.epochs
            values = pd.Series([one.history[epoch][f"ssim/{task}"] for one in mine])
            expected[task] = record.metrics[f"ssim/{task}"] - values.mean(), values.sem()
        for task in TASKS:
            gain, error = row[f"gain/{task}"], row[f"gain_se/{task}"]
            if task not in expected:
                assert (gain, error) == (None, None)
            else:
                assert gain == pytest.approx(expected[task][0])
                assert error == (None if row["kind"] == "stl" else pytest.approx(expected[task][1]))
        assert row["gain"] == pytest.approx(sum(gain for gain, _ in expected.values()) / len(expected))
        if row["kind"] != "stl":
            errors = sum(error**2 for _, error in expected.values()) ** 0.5 / len(expected)
            assert row["gain_se"] == pytest.approx(errors)
        seen.add((row["kind"], row["scarce_slices"], row["stage"], row["epochs"]))
    assert {("mtl", 12, "search", 4), ("mtl", 24, "search", 4)} <= seen, "both N were looked at"
    assert any(kind == "mtl" and epochs < 4 for kind, _, _, epochs in seen), "and an epoch before the last"


def test_ranked_are_finished_networks_of_all_tasks_by_the_objective(study):
    board = leaderboard(study)
    whole = board[["ssim/PDw", "ssim/PDw-FS"]].notna().all(axis=1)
    ranked = board[board["rank"].notna()]
    assert whole[board["rank"].notna()].all()
    assert not whole[board["rank"].isna()].any()
    assert list(ranked["rank"]) == list(range(1, len(ranked) + 1))
    assert ranked["gain"].is_monotonic_decreasing
    assert set(board[board["rank"].isna()]["kind"]) == {"stl", "transfer"}
    assert ranked.index.tolist() == board.index[: len(ranked)].tolist(), "those without a rank stand below"


def test_a_rank_of_each_task_stands_beside_the_rank(study):
    """As scipy ranks the shares of the objective, the mean of gains."""
    for ranked in (leaderboard(study).dropna(subset="rank"), confirmed(study).dropna(subset="rank")):
        for task in TASKS:
            expected = scipy.stats.rankdata(-ranked[f"gain/{task}"], method="min")
            assert ranked[f"rank/{task}"].tolist() == expected.tolist()
        assert (ranked["rank/PDw"] != ranked["rank/PDw-FS"]).any(), "luck differs by task"
    for board in (leaderboard(study), confirmed(study)):
        assert board.loc[board["rank"].isna(), ["rank/PDw", "rank/PDw-FS"]].isna().all(axis=None)


def test_z_scores_are_over_the_complete_multi_task_trials_of_the_same_n(study, everything):
    for board in (everything, confirmed(study)):
        ranked = board.dropna(subset="rank")
        for count in (12, 24):
            here = ranked[ranked["scarce_slices"] == count]
            assert here.loc[here["kind"] != "mtl", "z"].isna().all()
            alike = here[here["kind"] == "mtl"]
            for task in TASKS:
                found = alike[f"z/{task}"].to_numpy()
                if len(alike) < ENOUGH:
                    assert np.isnan(found).all()
                    continue
                assert found == pytest.approx(scipy.stats.zscore(alike[f"ssim/{task}"].to_numpy(), ddof=1))
            pd.testing.assert_series_equal(here["z"], (here["z/PDw"] + here["z/PDw-FS"]) / 2, check_names=False)
        assert board.loc[board["rank"].isna(), "z"].isna().all()
    assert everything["z"].notna().sum() > 4
    chosen = leaderboard(study, Selection(kind="mtl", top=3))
    pd.testing.assert_series_equal(chosen["z"], everything.loc[chosen.index, "z"])


def test_ranks_are_by_the_objective_whatever_orders_the_rows(study):
    by_objective = leaderboard(study).set_index("trial")
    for name in ("ssim/PDw-FS", "nrmse/PDw", "rank/PDw", "z"):
        board = leaderboard(study, Selection(sort=name)).set_index("trial")
        assert board["rank"].dropna().to_dict() == by_objective["rank"].dropna().to_dict()


def test_weights_are_shown_where_a_weighting_moves_them(study):
    board = leaderboard(study)
    heads = {}
    for weighting in ("naive", "dwa"):
        text = render(board[board["weighting"] == weighting], Format.markdown)
        heads[weighting] = [cell.strip() for cell in text.splitlines()[0].strip("|").split("|")]
    assert [name for name in heads["dwa"] if name not in heads["naive"]] == ["weight/PDw", "weight/PDw-FS"]
    first = [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")]
    assert dict(zip(heads["dwa"], first, strict=True))["weight/PDw-FS"] == "1.1"


def test_rows_are_sorted_by_any_column_best_first(study):
    rising_ones = (("nrmse/PDw", True), ("rank/PDw", True))
    for name, rising in (("ssim/PDw-FS", False), ("psnr/PDw", False), ("z", False), *rising_ones):
        ranked = leaderboard(study, Selection(sort=name)).dropna(subset="rank")
        values = ranked[name].dropna()  # too few networks of an N have no z
        assert len(values) > 3
        assert values.is_monotonic_increasing if rising else values.is_monotonic_decreasing
    pd.testing.assert_frame_equal(leaderboard(study, Selection(sort="rank")), leaderboard(study))


@pytest.mark.parametrize(
    ("choice", "column", "values"),
    [
        (Selection(kind="stl"), "kind", {"stl"}),
        (Selection(stage="confirm"), "stage", {"confirm"}),
        (Selection(weighting="dwa"), "weighting", {"dwa"}),
        (Selection(scarce_slices=24), "scarce_slices", {24}),
        (Selection(layout="I2V2"), "layout", {"I2V2"}),
        (Selection(layout="I4*", kind="stl"), "layout", {"I4"}),
    ],
)
def test_filters_keep_what_was_asked_for_and_nothing_else(study, choice, column, values):
    kept, whole = leaderboard(study, choice), leaderboard(study)
    assert set(kept[column]) == values
    expected = whole[whole[column].isin(values)]
    if choice.kind is not None:
        expected = expected[expected["kind"] == choice.kind]
    assert set(kept["trial"]) == set(expected["trial"])


def test_only_the_first_rows(study):
    pd.testing.assert_frame_equal(leaderboard(study, Selection(top=2)), leaderboard(study).head(2))


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        (Selection(sort="colour"), r"--sort 'colour' is no column; the columns are rank, .*ssim/PDw"),
        (
            Selection(kind="wheel"),
            r"no trial has kind 'wheel'; the study has .*joint-stl",
        ),
        (Selection(weighting="uncertainty"), r"no trial has weighting 'uncertainty'; the study has "),
        (Selection(scarce_slices=99), r"no trial has scarce_slices 99; the study has "),
        (Selection(layout="Q*"), r"no trial has a layout that matches 'Q\*'"),
    ],
)
@pytest.mark.parametrize("table", [leaderboard, confirmed])
def test_a_column_or_value_that_is_not_there_is_named(study, table, choice, sentence):
    with pytest.raises(InputError, match=sentence):
        table(study, choice)


def test_json_is_a_list_of_objects_in_which_what_is_missing_is_null(everything):
    def refuse(name: str):
        raise AssertionError(f"{name} is not JSON")

    found = json.loads(render(everything, Format.json), parse_constant=refuse)
    assert [row["trial"] for row in found] == list(everything["trial"])
    assert all(list(row) == columns(TASKS) for row in found)
    stl = next(row for row in found if row["kind"] == "stl" and row["seed"] == 0 and row["scarce_slices"] is None)
    assert [stl[name] for name in ("rank", "weighting", "ssim/PDw-FS", "gain/PDw-FS", "error")] == [None] * 5
    assert isinstance(stl["parameters"], int)
    assert isinstance(stl["ssim/PDw"], float)


def test_values_that_are_not_finite_are_null_in_json():
    frame = pd.DataFrame({"a": [math.inf, math.nan, 1.5], "b": [None, "x", "y"]})
    assert objects(frame) == [{"a": None, "b": None}, {"a": None, "b": "x"}, {"a": 1.5, "b": "y"}]


def test_csv_and_parquet_hold_every_value(everything, tmp_path):
    write(everything, Format.csv, tmp_path / "board.csv")
    write(everything, Format.parquet, tmp_path / "board.parquet")
    plain = everything.reset_index(drop=True)
    assert objects(pd.read_parquet(tmp_path / "board.parquet")) == objects(plain)
    read = pd.read_csv(tmp_path / "board.csv", dtype={"trial": str, "layout": str})
    assert list(read.columns) == list(plain.columns)
    for a, b in zip(objects(read), objects(plain), strict=True):
        assert a == b


def test_the_markdown_table_reads_back(everything):
    text = render(everything, Format.markdown)
    head, rule, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    assert set(rule) == {"---"}
    assert head[:11] == [
        *("rank", "rank/PDw", "rank/PDw-FS", "trial", "kind", "layout", "weighting", "N", "seed", "state", "epochs")
    ]
    for cells, row in zip(rows, objects(everything), strict=True):
        found = dict(zip(head, cells, strict=True))
        assert found["trial"] == row["trial"]
        assert found["rank"] == (str(row["rank"]) if row["rank"] else "–")
        assert found["ssim"] == f"{row['ssim']:.4f}"
        assert float(found["gain"]) == pytest.approx(row["gain"], abs=5.1e-5)


@pytest.mark.parametrize("form", [Format.table, Format.markdown])
def test_tables_for_people_name_the_definition_of_their_numbers(everything, form):
    assert DEFINITIONS["paper"] in render(everything, form)


def test_a_table_for_a_terminal_shows_every_row_and_marks_losses(study):
    board = leaderboard(study)
    out = io.StringIO()
    Console(file=out, width=300, force_terminal=True, color_system="standard").print(rich_table(board, "[one]"))
    text = out.getvalue()
    assert "[one]" in text, "a name is no markup"
    for trial in board["trial"]:
        assert f" {trial} " in text
    losses = [f"{gain:.4f}" for gain in board["gain"] if gain < 0]
    assert losses
    for loss in losses:
        assert re.search(rf"\x1b\[31m\s*{loss}", text)
    best = f"{board['ssim/PDw'].max():.4f}"
    assert re.search(rf"\x1b\[1m\s*{best}", text)


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200, 260])
def test_a_narrow_terminal_gets_fewer_columns_but_whole_ones(study, width):
    board = leaderboard(study)
    out = io.StringIO()
    Console(file=out, width=width).print(rich_table(board, "one", width))
    lines = out.getvalue().splitlines()
    rule = next(number for number, line in enumerate(lines) if "───" in line)
    head = lines[rule - 1].split()
    assert {"rank", "trial", "layout", "weighting", "ssim", "gain"} <= set(head)
    assert "…" not in "".join(lines[: rule + len(board) + 1])
    first = dict(zip(head, lines[rule + 1].split(), strict=True))
    assert (first["trial"], first["gain"]) == (board.iloc[0]["trial"], f"{board.iloc[0]['gain']:+.4f}")
    assert ("for want of room without" in out.getvalue()) == (width < 260)


def test_the_plain_table_is_aligned(everything):
    head, *rest = render(everything, Format.table).split("\n\n")[0].splitlines()
    start = head.index("kind")
    kinds = [line[start:].split()[0] for line in rest]
    assert kinds == list(everything["kind"])


def test_parquet_needs_a_file(everything):
    with pytest.raises(InputError, match="--format parquet is binary: say where it goes with --out FILE"):
        write(everything, Format.parquet, None)


def test_a_study_without_trials_is_an_empty_table_with_its_columns(tmp_path):
    create_study("new", None, tmp_path).search.set_user_attr("space", space().model_dump(mode="json"))
    new = open_study("new", None, tmp_path)
    board = leaderboard(new)
    assert board.empty
    assert list(board.columns) == columns(TASKS)
    assert json.loads(render(board, Format.json)) == []
    with pytest.raises(InputError, match="study 'new' has no confirmed trial yet; run splitpoint confirm new"):
        confirmed(new)


@pytest.fixture(scope="module")
def by_pandas(study):
    """The confirmed trials and all baselines as pandas reads them from the records, and their gains from the mean STL,
    with its error."""
    lines = []
    records = study.referenced()
    for record in records:
        line = {"kind": record.kind, "layout": record.layout, "weighting": record.weighting, "n": record.scarce_slices}
        line |= {"tasks": record.tasks, "seed": record.seed, "trial": record.name, "ssim": record.metrics["ssim"]}
        errors = []
        for task in record.tasks:
            stl = pd.Series(
                [
                    one.metrics[f"ssim/{task}"]
                    for one in records
                    if (one.kind, one.tasks) == ("stl", (task,)) and one.slices[task] == record.slices[task]
                ]
            )
            line[f"ssim/{task}"] = record.metrics[f"ssim/{task}"]
            line[f"gain/{task}"] = line[f"ssim/{task}"] - stl.mean()
            line[f"of stl/{task}"] = stl.sem() if record.kind != "stl" else math.nan
            errors.append(line[f"of stl/{task}"])
        line["gain"] = sum(line[f"gain/{task}"] for task in record.tasks) / len(record.tasks)
        line["of stl"] = sum(error**2 for error in errors) ** 0.5 / len(errors)
        lines.append(line)
    return pd.DataFrame(lines)


def test_confirmed_means_and_standard_errors_are_pandas_own(study, by_pandas):
    board = confirmed(study)
    metrics = ["ssim", "gain", *(f"{name}/{task}" for name in ("ssim", "gain") for task in TASKS)]
    groups = by_pandas.groupby(["kind", "tasks", "layout", "weighting", "n"], dropna=False)
    assert len(board) == groups.ngroups
    assert set(board["kind"]) == {"mtl", "stl", "joint-stl", "transfer"}
    for _, group in groups:
        (row,) = [row for row in objects(board) if row["trials"] == " ".join(group["trial"])]
        assert row["seeds"] == len(group) == group["seed"].nunique()
        assert row["seeds"] >= 2 or row["kind"] != "mtl"
        for name in metrics:
            mean, error = group[name].mean(), group[name].sem()
            if name.startswith("gain"):
                error = math.hypot(error, group[name.replace("gain", "of stl")].iloc[0])
            shown = row[name], row[name.replace("ssim", "ssim_se").replace("gain", "gain_se")]
            wanted = [None if pd.isna(one) else pytest.approx(one, abs=1e-12) for one in (mean, error)]
            assert list(shown) == wanted
    whole = board.dropna(subset="rank")
    assert (whole[["ssim_se", "gain_se"]] > 0).all(axis=None)


def test_confirmed_configurations_of_all_tasks_are_ranked_by_the_objective(study):
    board = confirmed(study)
    ranked = board.dropna(subset="rank")
    assert set(ranked["kind"]) == {"mtl", "joint-stl"}
    assert ranked["gain"].is_monotonic_decreasing
    assert list(ranked["rank"]) == list(range(1, len(ranked) + 1))
    single = next(row for row in objects(board) if row["kind"] == "stl")
    assert (single["rank"], single["weighting"]) == (None, None)
    text = render(board, Format.markdown)
    first = objects(board)[0]
    assert f"{first['gain']:+.4f} ± {first['gain_se']:.4f}" in text


def test_the_stage_does_not_go_with_confirmed(study):
    assert len(confirmed(study, Selection(stage="confirm"))) == len(confirmed(study))
    with pytest.raises(InputError, match="--stage search does not go with --confirmed"):
        confirmed(study, Selection(stage="search"))


def test_a_grid_beside_a_search_shares_the_searchs_baselines(local_ray, tmp_path):
    """They were trained with the grid's first seed already, and are not trained again."""

    def launching(**changes: object):
        wanted = space(layouts={"kind": "list", "choices": ["I2V2"]}, weightings=["naive"], **changes)
        return launch(wanted, facts(tmp_path / "data"), "both", runs_dir=tmp_path, trainer=fakes.train)

    few = {"try_first": [{"layout": "I2V2"}], "trials": 1, "baselines": {"kinds": ["stl"]}}
    assert launching(**few).complaint is None
    assert launching(**few, grid={"rows": [{"layout": "I2V2"}], "seeds": 2}).complaint is None
    frame = confirmed(open_study("both", None, tmp_path))
    assert dict(zip(frame["kind"], frame["seeds"], strict=False)) == {"mtl": 2, "stl": 2}
    assert frame["gain"].notna().all()


def test_networks_that_start_from_transfer_are_a_row_of_their_own(local_ray, tmp_path):
    grid = {"rows": [{"layout": "I2V2"}, {"layout": "I2V2", "init": "transfer"}], "seeds": 2}
    wanted = space(trials=0, try_first=[], grid=grid, baselines={"kinds": ["stl", "stl-steps"]})
    outcome = launch(wanted, facts(tmp_path / "data"), "grid", runs_dir=tmp_path, trainer=fakes.train)
    assert outcome.complaint is None
    frame = confirmed(open_study("grid", None, tmp_path), Selection(kind="mtl"))
    assert dict(zip(frame["init"], frame["seeds"], strict=True)) == {"random": 2, "transfer": 2}
    head = render(frame, Format.table).splitlines()[0].split()
    assert "init" in head
    without = confirmed(open_study("grid", None, tmp_path), Selection(kind="stl-steps"))
    assert without["seeds"].tolist() == [2]
    assert "init" not in render(without, Format.table).splitlines()[0].split()


def test_confirmed_has_its_columns_in_the_order_that_it_says(study):
    wanted = [
        "rank",
        *(f"rank/{task}" for task in TASKS),
        "kind",
        "layout",
        "weighting",
        "init",
        "scarce_slices",
        "seeds",
    ]
    for name in ("ssim", "gain"):
        wanted += [name, f"{name}_se", *(one for task in TASKS for one in (f"{name}/{task}", f"{name}_se/{task}"))]
    assert list(confirmed(study).columns) == [*wanted, "z", *(f"z/{task}" for task in TASKS), "trials"]
