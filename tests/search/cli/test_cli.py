"""The command line: a user's mistake is one line and exit code 2, and standard output is for machines."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from sqlalchemy.exc import OperationalError

from recon.training.checkpoint import load_network
from recon.training.loop import TrainingError
from search import cli
from search.cli import testing
from search.cli.app import COMMANDS as LISTED
from search.errors import SearchError, Terminated
from search.results.leaderboard import Selection, leaderboard
from search.results.text import objects
from search.study.open import create_study
from tests.conftest import without_truth
from tests.search.boards import confirmed_study, opened
from tests.search.conftest import SPACE

pytestmark = pytest.mark.usefixtures("plain_environment")
ROOT = Path(__file__).parents[3]
COMMANDS = (
    "simulate", "prepare", "inspect", "train", "launch", "status", "confirm", "studies", "leaderboard", "noise",
    "export", "report", "test", "reconstruct", "clean",
)  # fmt: skip
TINY = ("--channels", "2", "--pools", "1", "--epochs", "1", "--batch-size", "6", "--acceleration", "3")


@pytest.fixture(scope="module")
def runs(local_ray, tmp_path_factory):
    return confirmed_study(tmp_path_factory)


def in_a_process(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "search.cli", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["leaderboard", "nix"], "there is no study file .*nix/study.db"),
        (["confirm", "nix"], "there is no study file .*nix/study.db"),
        (["export", "nix"], "there is no study file .*nix/study.db"),
        (["leaderboard", "a/b"], "'a/b' cannot name a study"),
        (["leaderboard", "nix", "--storage", "nonsense"], "--storage .* is not a URL"),
        (["leaderboard", "nix", "--format", "xml"], "--format: 'xml' is not one of 'table', 'csv', "),
        (["leaderboard", "nix", "--kind", "wheel"], "--kind: 'wheel' is not one of 'mtl', "),
        (["leaderboard", "nix", "--top", "0"], "--top must be .* 1; found '0'"),
        (["train", "DATA", "--out", "x", "--layout", "I2Q"], "--layout: layout 'I2Q': character 3 is 'Q'"),
        (["train", "DATA", "--out", "x", "--layout", ""], "--layout: the layout is empty"),
        (
            ["train", "nowhere", "--out", "x"],
            "nowhere is not a folder; give the folder that `splitpoint prepare` wrote",
        ),
        (["train", "DATA", "--out", "x", "--slices", "PDw"], "--slices 'PDw' is not TASK=N, such as PDw-FS=32"),
        (["train", "DATA", "--out", "x", "--slices", "PDw=few"], "--slices 'PDw=few' is not TASK=N"),
        (["train", "DATA", "--out", "x", "--slices", "PDw=999"], "slices of PDw: 999 asked, but .* has 1 to 12"),
        (
            ["train", "DATA", "--out", "x", "--slices", "T2w=3"],
            "slices names the task 'T2w', which is not among PDw, PDw-FS",
        ),
        (["train", "DATA", "--out", "x", "--task", "T2w"], "there is no task 'T2w' in .*; it holds PDw, PDw-FS"),
        (["train", "DATA", "--out", "x", "--epochs", "many"], "--epochs must be a whole number; found 'many'"),
        (["train", "DATA", "--out", "x", "--epochs", "0"], "--epochs must be .* 1; found 0"),
        (["train", "DATA", "--out", "x", "--weighting", "best"], "--weighting: 'best' is not one of 'naive', "),
        (
            ["train", "DATA", "--out", "x", "--acceleration", "0.5"],
            "--acceleration: an acceleration is at least 1, found 0.5",
        ),
        (["train", "DATA", "--out", "x", "--device", "tpu"], "device 'tpu' is not known; give auto, cpu"),
        (["train", "DATA", "--out", "x", "--init", "nowhere"], "nowhere holds no checkpoint: checkpoint.pt is missing"),
        (["train", "DATA"], "Missing option '--out'; see splitpoint train --help"),
        (["train", "DATA", "--out", "x", "--wheels", "4"], "No such option: --wheels.*; see splitpoint train --help"),
        (["launch", "space.yaml", "--data", "DATA", "--study", "s"], "there is no space space.yaml"),
        (
            ["launch", "SPACE", "--data", "DATA", "--study", "s"],
            r"space\.yml: trails is an unknown key; did you mean trials",
        ),
        (["launch", "SPACE", "--data", "DATA", "--study", "s", "--trials", "0"], "--trials must be .* 1; found '0'"),
        (["test", "nowhere", "--data", "DATA"], "nowhere is no bundle: model.safetensors is missing"),
        (["inspect", "nowhere"], "nowhere is not a folder"),
        (["prepare", "raw", "--out", "p", "--task", "PDw"], "--task 'PDw' is not NAME=GLOB"),
        (
            ["prepare", "raw", "--out", "p", "--calibration", "half"],
            "--calibration: 'half' is not one of 'full', 'mask'",
        ),
        (["prepare", "raw", "--out", "p", "--axes", "coils lines"], "--axes: axes are slices, coils, rows, columns"),
        (["test"], "give a bundle, or a study with --study"),
        (["report", "nowhere"], "give --tables"),
        (["reconstruct", "nowhere", "raw", "--out", "o"], "nowhere is no bundle: model.safetensors is missing"),
        (["prepare", "raw", "--out", "p", "--calibration-width", "2"], "--calibration-width must be .* 8; found 2"),
        (["simulate", "raw", "--matrix", "33", "--workers", "1"], "matrix is 33, where an even number from 32"),
        (["simulate", "raw", "--contrast", "T1", "--workers", "1"], "contrasts is T1, where some of PDw, PDw-FS, T2w"),
        (["frobnicate"], "No such command 'frobnicate'; see splitpoint --help"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(splitpoint, prepared, tmp_path, arguments, sentence):
    (tmp_path / "space.yml").write_text(SPACE + "trails: 3\n")
    there = {"DATA": str(prepared), "SPACE": str(tmp_path / "space.yml")}
    code, out, err = splitpoint(*(there.get(one, one) for one in arguments))
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("splitpoint: ")
    assert re.search(sentence, line), line
    assert not (tmp_path / "x").exists()


def test_simulating_into_a_folder_of_other_settings_is_refused_and_a_contrast_can_be_added(splitpoint, tmp_path):
    command = (
        "simulate",
        tmp_path / "raw",
        "--train",
        "1",
        "--val",
        "0",
        "--test",
        "0",
        "--matrix",
        "32",
        "--slices",
        "1",
        "--coils",
        "2",
        "--workers",
        "1",
    )
    assert splitpoint(*command)[0] == 0
    assert splitpoint(*command, "--contrast", "T2w")[0] == 0
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.h5")}
    assert sorted(path.stem for path in files) == [f"knee0000_{one}_FBK" for one in ("CORPDFS", "CORPD", "CORT2")]
    code, _, err = splitpoint(*command, "--seed", "1", "--snr", "20")
    assert code == 2
    assert "of snr=30.0 in place of 20.0, seed=0 in place of 1; give another folder" in err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.h5")} == files


def test_a_process_says_it_in_one_line_without_colour_wrapping_or_traceback(tmp_path):
    long = tmp_path / ("a rather long name of a folder " * 5).strip() / "[bold]:smile:"
    done = in_a_process("leaderboard", "nix", "--runs-dir", long, COLUMNS="40", TERM="xterm-256color")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert str(long) in done.stderr, "neither wrapped nor taken for markup"
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr


def test_help_answers_in_a_process_and_lists_the_commands_in_the_order_of_their_use():
    done = in_a_process()
    assert done.returncode == 0
    assert done.stdout == in_a_process("--help").stdout
    commands = done.stdout.split("Commands:")[1].strip().splitlines()
    assert tuple(line.split()[0] for line in commands) == COMMANDS
    assert not any(line.endswith("...") for line in commands), "a line says all that it has to say"
    assert done.stderr == ""


def test_the_list_of_commands_says_of_each_what_its_own_help_begins_with(splitpoint):
    for command, listed in LISTED.items():
        code, out, _ = splitpoint(command, "--help")
        assert code == 0
        assert listed.summary in " ".join(out.split())


def test_a_command_that_is_none_names_the_nearest(splitpoint):
    code, out, err = splitpoint("lanch")
    assert (code, out, err) == (
        2,
        "",
        "splitpoint: No such command 'lanch', the nearest is launch; see splitpoint --help\n",
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_shows_an_example_that_would_be_accepted(splitpoint, command):
    code, out, _ = splitpoint(command, "--help")
    assert code == 0
    example = " ".join(re.search(r"Example: (splitpoint .*?)\n\n", out, re.DOTALL)[1].split())
    assert example.startswith(f"splitpoint {command} ")
    for option in re.findall(r"--[a-z-]+", example):
        assert re.search(rf"^ +{option}\b", out, re.MULTILINE), option


def test_a_wrong_value_for_a_study_that_is_there_is_one_line_too(splitpoint, runs):
    for more, sentence in (
        (["--sort", "colour"], "--sort 'colour' is no column; the columns are rank, rank/PDw, rank/PDw-FS, trial, "),
        (["--weighting", "uncertainty"], "no trial has weighting 'uncertainty'; the study has "),
        (["--n", "99"], "no trial has scarce_slices 99; the study has "),
        (["--layout", "Q*"], r"no trial has a layout that matches 'Q\*'"),
        (["--format", "parquet"], "--format parquet is binary: say where it goes with --out FILE"),
        (["--confirmed", "--stage", "search"], "--stage search does not go with --confirmed"),
    ):
        code, out, err = splitpoint("leaderboard", "one", "--runs-dir", runs, *more)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert re.match(f"splitpoint: {sentence}", err)
    stopped = leaderboard(opened(runs), Selection(everything=True)).query("state == 'pruned'").iloc[0]["trial"]
    code, out, err = splitpoint("export", "one", "--runs-dir", runs, "--trial", stopped)
    assert (code, out) == (2, "")
    assert err == f"splitpoint: trial {stopped} of study 'one' is pruned, and only a complete one is exported\n"


def test_json_goes_to_stdout_and_nothing_else_does(splitpoint, runs):
    code, out, err = splitpoint("leaderboard", "one", "--runs-dir", runs, "--format", "json", "--all")
    assert (code, err) == (0, "")
    expected = leaderboard(opened(runs), Selection(everything=True))
    assert json.loads(out) == json.loads(json.dumps(objects(expected)))
    assert {row["state"] for row in json.loads(out)} == {"complete", "pruned", "fail"}


def test_looking_at_a_study_or_at_data_imports_no_torch_and_no_ray(runs, prepared, tmp_path):
    # Where data know their truth, inspect measures its SSIM, which takes torch.
    acquired = without_truth(prepared, tmp_path / "acquired")
    program = "import sys; from search import cli\ntry: cli.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    for arguments in (
        ("leaderboard", "one", "--runs-dir", runs),
        ("leaderboard", "one", "--runs-dir", runs, "--confirmed", "--format", "json"),
        ("inspect", acquired, "--out", tmp_path / "sheet.png"),
    ):
        command = [sys.executable, "-c", program, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout
        modules = set(done.stderr.splitlines()[-1].split())
        assert "search.results.text" in modules
        assert not modules & {"torch", "ray", "sigpy", "numba"}


def test_a_process_finds_the_study_by_the_environment(runs):
    done = in_a_process("leaderboard", "one", "--format", "json", "--top", "3", SPLITPOINT_RUNS=str(runs))
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["rank"] for row in json.loads(done.stdout)] == [1, 2, 3]


@pytest.mark.parametrize("form", ["csv", "json", "markdown", "table", "parquet"])
def test_every_format_is_written_to_a_file_and_stdout_stays_empty(splitpoint, runs, tmp_path, form):
    path = tmp_path / "deep" / f"board.{form}"
    assert splitpoint("leaderboard", "one", "--runs-dir", runs, "--format", form, "--out", path) == (0, "", "")
    if form == "parquet":
        assert len(pd.read_parquet(path)) == len(leaderboard(opened(runs)))
    else:
        assert splitpoint("leaderboard", "one", "--runs-dir", runs, "--format", form)[1] == path.read_text()


def test_options_choose_rows_as_their_names_say(splitpoint, runs):
    options = ["--kind", "mtl", "--stage", "search", "--n", "12", "--sort", "ssim/PDw", "--top", "2"]
    _, out, _ = splitpoint("leaderboard", "one", "--runs-dir", runs, "--format", "json", *options)
    choice = Selection(kind="mtl", stage="search", scarce_slices=12, sort="ssim/PDw", top=2)
    assert json.loads(out) == json.loads(json.dumps(objects(leaderboard(opened(runs), choice))))
    _, out, _ = splitpoint("leaderboard", "one", "--runs-dir", runs, "--format", "json", "--confirmed")
    assert all(
        row["seeds"] == (2 if row["kind"] == "mtl" else 3) for row in json.loads(out) if row["scarce_slices"] == 12
    )


def test_export_and_test_say_on_stdout_what_a_script_needs(splitpoint, runs, prepared, tmp_path):
    code, out, err = splitpoint("export", "one", "--runs-dir", runs, "--out", tmp_path / "bundle")
    assert (code, out) == (0, f"{tmp_path}/bundle\n")
    assert "is the best of 2 confirmed configurations" in err
    code, out, err = splitpoint("test", tmp_path / "bundle", "--data", prepared, "--no-classical")
    assert code == 0
    head, *rows = [line.split() for line in out.splitlines()]
    assert head == ["task", "method", "volumes", "slices", "ssim_mean", "ssim_std", "psnr_mean", "nrmse_mean"]
    methods = (["zero-filled"], ["noise-free", "truth"], ["network"])
    assert [row[: 1 + len(m)] for row, m in zip(rows, 2 * methods, strict=True)] == [
        [task, *m] for task in ("PDw", "PDw-FS") for m in methods
    ]
    assert "The noise-free truth is no reconstruction" in err
    assert f"pictures: {tmp_path}/test/PDw.png  {tmp_path}/test/PDw-FS.png" in err
    code, out, err = splitpoint("export", "one", "--runs-dir", runs, "--out", ROOT / "docs")
    assert (code, out) == (2, "")
    assert "docs exists and is no bundle" in err


def test_reconstruct_writes_a_file_a_volume_and_names_the_broken_ones(splitpoint, runs, raw, tmp_path):
    splitpoint("export", "one", "--runs-dir", runs, "--out", tmp_path / "bundle")
    shutil.copytree(raw / "test", tmp_path / "raw")
    (whole, other) = sorted((tmp_path / "raw").iterdir())
    code, out, err = splitpoint("reconstruct", tmp_path / "bundle", tmp_path / "raw", "--out", tmp_path / "made")
    assert (code, out) == (0, "".join(f"{tmp_path}/made/{one.name}\n" for one in (whole, other)))
    with h5py.File(tmp_path / "made" / whole.name) as file:
        assert file["reconstruction"].shape == (4, 32, 32)
    other.write_bytes(other.read_bytes()[:1000])
    code, out, err = splitpoint("reconstruct", tmp_path / "bundle", tmp_path / "raw", "--out", tmp_path / "again")
    assert (code, out) == (1, f"{tmp_path}/again/{whole.name}\n")
    assert f"{other} is broken or of a format that is not known here" in err
    assert err.strip().endswith("1 of 2 volumes were left out")
    code, out, err = splitpoint("reconstruct", tmp_path / "bundle", other, "--out", tmp_path / "one.h5")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "one.h5").exists()
    code, _, err = splitpoint("reconstruct", tmp_path / "bundle", tmp_path / "raw", "--out", tmp_path / "one.h5")
    assert (code, err.count("\n")) == (2, 1)
    assert "is one file, and there are 2 to reconstruct" in err


def test_reconstruct_writes_other_formats_by_option_or_ending(splitpoint, runs, raw, tmp_path):
    splitpoint("export", "one", "--runs-dir", runs, "--out", tmp_path / "bundle")
    files = sorted((raw / "test").iterdir())
    command = ("reconstruct", tmp_path / "bundle")
    code, out, _ = splitpoint(*command, raw / "test", "--out", tmp_path / "made", "--format", "nifti")
    assert (code, out) == (0, "".join(f"{tmp_path}/made/{one.stem}.nii.gz\n" for one in files))
    assert nibabel.load(tmp_path / "made" / f"{files[0].stem}.nii.gz").shape == (32, 32, 4)
    code, out, _ = splitpoint(*command, files[0], "--out", tmp_path / "sheet.png")
    assert (code, out) == (0, f"{tmp_path}/sheet.png\n")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    for wrong in (["--out", tmp_path / "a.dcm"], ["--out", tmp_path / "a.png", "--format", "nifti"]):
        code, out, err = splitpoint(*command, files[0], *wrong)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "ends like" in err


def test_prepare_shows_what_is_wrong_with_a_file(splitpoint, local_ray, raw, tmp_path):
    shutil.copytree(raw / "train", tmp_path / "raw")
    first, second, *_ = sorted((tmp_path / "raw").iterdir())
    (tmp_path / "raw" / "zz.h5").write_bytes(first.read_bytes())
    (tmp_path / "raw" / "zzz.h5").write_bytes(first.read_bytes()[:-4096])
    with h5py.File(second, "r+") as file:
        file["kspace"][1] = 0
        file["kspace"][2:] = np.nan
    code, out, err = splitpoint("prepare", tmp_path / "raw", "--out", tmp_path / "p", "--calibration-width", "16")
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert f"error: {second}: slice 1: it holds nothing but zeros" in lines
    assert f"error: {second}: slice 2: it holds samples that are not finite (1 more like this)" in lines
    assert [line for line in lines if line.startswith(f"error: {tmp_path}/raw/zzz.h5: it is broken or of a format")]
    assert f"warning: {tmp_path}/raw/zz.h5: it holds the same samples as {first.name}; only that one is taken" in lines
    assert f"all 6 findings: {tmp_path}/p/problems.csv" in lines
    assert "6 volumes prepared, 0 kept, 1 listed twice, 1 left out, and 3 slices of the others" in lines[-1]
    written = pd.read_csv(tmp_path / "p" / "problems.csv")
    assert written["severity"].tolist() == ["error"] * 4 + ["warning"] * 2
    assert written["slice"].tolist()[:3] == [1, 2, 3]


@pytest.mark.parametrize("command", ["train", "test", "reconstruct"])
def test_networks_compute_with_one_thread_unless_more_are_asked_for(splitpoint, tmp_path, command):
    nowhere = tmp_path / "nowhere"
    files = {"train": (), "test": ("--data", nowhere), "reconstruct": (nowhere,)}[command]
    before = torch.get_num_threads()
    try:
        for options, expected in (((), 1), (("--threads", 2), 2)):
            torch.set_num_threads(3)
            assert splitpoint(command, nowhere, *files, "--out", tmp_path / "out", *options)[0] == 2
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_a_training_ends_in_a_checkpoint_and_the_same_command_finds_it_done(splitpoint, prepared, tmp_path):
    command = ("train", prepared, "--layout", "IV", "--out", tmp_path / "one", "--slices", "PDw-FS=4", *TINY)
    code, out, err = splitpoint(*command)
    assert (code, out) == (0, f"{tmp_path}/one/checkpoint\n")
    plan, epoch = err.splitlines()
    assert re.fullmatch(r"cpu: [\d,]+ parameters, training slices PDw 12, PDw-FS 4; 1 epochs of \d+ steps", plan)
    assert epoch.startswith("epoch 1/1  loss ")
    assert "  weight/PDw " in epoch
    _, config = load_network(Path(out.strip()))
    assert (config.network.layout, config.slices, config.masks.val.accelerations) == ("IV", {"PDw-FS": 4}, (3.0,))
    code, again, err = splitpoint(*command)
    assert (code, again) == (0, out)
    assert err == f"{tmp_path}/one/checkpoint has 1 of 1 epochs; nothing is left to do\n"
    code, _, err = splitpoint(*command, "--learning-rate", "1")
    assert (code, err.count("\n")) == (2, 1)
    assert "learning_rate is 0.0002 in it, where 1.0 is asked for" in err


def test_inspect_puts_the_table_on_stdout(splitpoint, prepared, tmp_path):
    code, out, err = splitpoint("inspect", prepared, "--out", tmp_path / "sheet.png", "--slices", "1")
    assert code == 0
    head, *rows = out.splitlines()
    assert head.split()[:2] == ["task", "split"]
    assert len(rows) == 6
    assert str(tmp_path / "sheet.png") in err
    assert (tmp_path / "sheet.png").is_file()
    space = ("--space", ROOT / "spaces" / "quickstart.yaml")
    _, of_the_space, _ = splitpoint("inspect", prepared, "--out", tmp_path / "sheet.png", "--slices", "1", *space)
    assert [line.split()[:10] for line in of_the_space.splitlines()] == [line.split()[:10] for line in out.splitlines()]
    assert of_the_space != out


def test_a_training_that_cannot_go_on_is_one_line_and_exit_code_1(splitpoint, prepared, tmp_path, monkeypatch):
    def diverge(*_: object, **__: object):
        raise TrainingError("the loss of PDw is nan in epoch 1, step 2")

    monkeypatch.setattr("recon.training.loop.train", diverge)
    code, out, err = splitpoint("train", prepared, "--out", tmp_path / "one", *TINY)
    assert (code, out) == (1, "")
    assert err == "splitpoint: the loss of PDw is nan in epoch 1, step 2\n"


def test_a_folder_that_cannot_be_written_is_named_in_one_line(splitpoint, runs, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, out, err = splitpoint("export", "one", "--runs-dir", runs, "--out", tmp_path / "file" / "bundle")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(tmp_path / "file") in err


def test_an_error_of_ours_is_not_hidden(monkeypatch):
    def broken(*_: object, **__: object):
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr("search.study.open.open_study", broken)
    monkeypatch.setattr(sys, "argv", ["splitpoint", "export", "one"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize(
    ("arguments", "place", "more"),
    [
        (["confirm", "one"], "search.run.confirm.confirm", "; the same command goes on from here"),
        (["leaderboard", "one"], "search.study.open.open_study", ""),
    ],
)
@pytest.mark.parametrize(("signal", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_ctrl_c_and_sigterm_are_one_line_and_exit_codes_of_their_own(
    splitpoint, monkeypatch, arguments, place, more, signal, code
):
    def interrupt(*_: object, **__: object):
        raise signal

    monkeypatch.setattr(place, interrupt)
    assert splitpoint(*arguments) == (code, "", f"splitpoint: interrupted{more}\n")


def test_a_search_that_had_to_end_is_one_line_and_exit_code_1(splitpoint, monkeypatch):
    def end(*_: object, **__: object):
        raise SearchError("Ray's raylet on this machine is dead")

    monkeypatch.setattr("search.run.confirm.confirm", end)
    assert splitpoint("confirm", "one") == (1, "", "splitpoint: Ray's raylet on this machine is dead\n")


def test_a_final_test_says_how_far_the_network_lies_from_the_wavelet():
    rng = np.random.default_rng(0)
    keys = [(f"v{volume}", number) for volume in range(12) for number in range(3)]
    rows = [
        {"task": task, "volume": volume, "slice": number, "method": method, "definition": definition, "ssim": value}
        for task, gap in (("PDw", 0.03), ("PDw-FS", 0.0))
        for volume, number in keys
        for definition, scale in (("paper", 1.0), ("volume", 9.0))
        for base in [rng.normal(0.7, 0.05)]
        for method, value in (
            ("zero-filled", 0.1),
            ("l1-wavelet", scale * base),
            ("network", scale * (base + gap + rng.normal(0, 0.01))),
        )
    ]
    lines = list(testing.against_classical(pd.DataFrame(rows)))
    found = [
        re.fullmatch(r"(PDw\S*): network minus l1-wavelet (\S+) \[(\S+), (\S+)\], 95 % .* volumes", line)
        for line in lines
    ]
    assert [match[1] for match in found] == ["PDw", "PDw-FS"]
    (mean, low, high), (_, below, above) = ([float(match[place]) for place in (2, 3, 4)] for match in found)
    assert low < mean < high
    assert low > 0.02
    assert below < 0 < above
    without = pd.DataFrame(rows).query("method != 'l1-wavelet'")
    assert list(testing.against_classical(without)) == []


def test_a_storage_that_fails_while_it_is_read_is_one_sentence_without_the_password(splitpoint, monkeypatch, tmp_path):
    def fail(*arguments: object) -> None:
        inner = OSError(5, "Input/output error")
        raise OperationalError("SELECT secret", {}, inner) from inner

    create_study("one", None, tmp_path)
    monkeypatch.setattr("search.study.open.optuna.get_all_study_names", fail)
    code, out, err = splitpoint("leaderboard", "one", "--runs-dir", tmp_path)
    assert (code, out) == (1, "")
    assert err == "splitpoint: the study's storage failed: Input/output error\n"
