"""One training outside of a search: that of a trial, to the last digit, or that of a layout in a space."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recon.data.options import PrepareOptions
from recon.data.prepare import prepare
from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.training.checkpoint import load_checkpoint, load_network
from recon.training.loop import train
from search.run.cluster import Resources
from search.run.launch import launch
from search.run.single import Single, like_trial, of_space
from search.study.open import open_study
from spaces.reading import parse_space
from tests.recon.networks import MASKS

ROOT = Path(__file__).parents[3]
SPACE = """
tasks: [PDw, PDw-FS]
scarce: {task: PDw-FS, slices: [4]}
unroll: {blocks: 2, channels: 2, pools: 1, padding: least}
layouts: {kind: list, choices: [IV, IY]}
weightings: [uncertainty, equal]
training: {batch_size: 3, learning_rate: 3.0e-3, schedule: one-cycle, clip_norm: 1.0, masks: MASKS}
start: {init: INIT, learning_rate: 1.0e-3}
fidelity: {epochs: 2, rungs: []}
try_first: [{layout: IV, weighting: uncertainty}]
baselines: {kinds: [KINDS]}
trials: 1
seed: 3
"""
SEEDED = ("ssim", "psnr", "nrmse", "loss", "weight")
"""What the seed decides of a curve; seconds and memory it does not."""


def space(init: str, kinds: str = ""):
    masks = json.dumps(MASKS.model_dump(mode="json"))
    return parse_space(SPACE.replace("MASKS", masks).replace("INIT", init).replace("KINDS", kinds))


@pytest.fixture(autouse=True)
def one_thread(plain_environment):
    """Computed with one thread, as trials are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def searched(local_ray, prepared, tmp_path_factory):
    """A runs folder with two real searches: «joint», whose trial starts from a trained network, and «drawn»."""
    runs = tmp_path_factory.mktemp("runs")
    for name, wanted in (("joint", space("joint", "stl, transfer")), ("drawn", space("random"))):
        outcome = launch(wanted, prepared, name, runs_dir=runs, resources=Resources(max_concurrent=1))
        assert (outcome.complete, outcome.failed, outcome.blocked) == (1, 0, {})
    return runs


def seeded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.split("/")[0] in SEEDED}


def curve_of(single: Single, out: Path) -> dict[int, dict[str, float]]:
    """The seeded metrics by epoch of a training, its start included where it has to be trained first."""
    data, found = PreparedData(single.data), {}
    init = single.init
    if single.start is not None:
        train(single.start, data, out=out / "start", device="cpu")
        init = out / "start" / "checkpoint"
    train(
        single.config,
        data,
        init=init,
        device="cpu",
        report=lambda epoch: found.update({epoch.epoch: seeded(epoch.metrics)}),
    )
    return found


def curve(record) -> dict[int, dict[str, float]]:
    return {epoch: seeded(metrics) for epoch, metrics in record.history.items()}


def printed_curve(err: str) -> list[str]:
    """The lines of the epochs without their seconds."""
    return re.findall(r"^(epoch .*?)  \d+ s$", err, re.MULTILINE)


@pytest.mark.parametrize("name", ["joint", "drawn"])
def test_a_network_trained_like_a_trial_has_its_curve_to_the_last_digit(searched, name, tmp_path):
    study = open_study(name, None, searched)
    record = study.record("0")
    wanted = curve(record)
    assert len(wanted) == (2 if name == "joint" else record.config.epochs)
    assert {"ssim", "psnr/PDw", "nrmse/PDw-FS", "loss", "loss/PDw", "weight/PDw-FS"} <= set(wanted[1])
    single = like_trial(study, "0")
    assert (single.init is not None, single.start) == (name == "joint", None)
    assert curve_of(single, tmp_path) == wanted


@pytest.fixture
def without_joint(searched):
    """The search «joint» while the checkpoint of its joint network is gone: -> (its study, the joint network)."""
    study = open_study("joint", None, searched)
    (joint,) = (one for one in study.referenced() if one.kind == "joint")
    kept = Path(joint.checkpoint)
    kept.rename(kept.with_name("elsewhere"))
    yield study, joint
    kept.with_name("elsewhere").rename(kept)


def test_a_start_whose_checkpoint_is_gone_is_trained_again_and_the_curve_is_the_same(without_joint, tmp_path):
    study, joint = without_joint
    single = like_trial(study, "0")
    assert (single.init, single.start) == (None, joint.config)
    assert curve_of(single, tmp_path) == curve(study.record("0"))


def test_a_reference_starts_from_what_it_started_from_in_the_study(searched, tmp_path):
    study = open_study("joint", None, searched)
    by_kind = {(one.kind, one.tasks): one for one in study.referenced()}
    transfer, stl = by_kind["transfer", ("PDw-FS",)], by_kind["stl", ("PDw",)]
    single = like_trial(study, transfer.name)
    assert single.init == Path(stl.checkpoint)
    assert curve_of(single, tmp_path) == curve(transfer)
    assert like_trial(study, stl.name) == Single(stl.config, study.data)


@pytest.mark.parametrize("name", ["joint", "drawn"])
def test_a_layout_of_a_space_is_trained_as_the_search_trained_it(searched, prepared, name):
    study = open_study(name, None, searched)
    record = study.record("0")
    single = of_space(study.space, prepared, record.layout)
    assert (single.config, single.data, single.init) == (record.config, prepared.resolve(), None)
    starts = [one.config for one in study.referenced() if one.kind == "joint"]
    assert single.start == (starts[0] if name == "joint" else None)
    other = of_space(study.space, prepared, "IY", "equal", 4, seed=7)
    assert (other.config.network.layout, other.config.weighting.kind, other.config.seed) == ("IY", "equal", 7)
    if other.start is not None:
        assert other.start.seed == 7


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"layout": "I2Q"}, r"^layout 'I2Q': character 3 is 'Q'"),
        ({"layout": "I2V10"}, r"^--layout .*12.* 2"),
        ({"weighting": "dwa"}, r"^--weighting dwa is not among the space's weightings: uncertainty, equal$"),
        ({"scarce_slices": 5}, r"^--n 5 is not among the space's N: 4$"),
    ],
)
def test_what_a_space_does_not_hold_is_one_sentence(prepared, arguments, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        of_space(space("random"), prepared, **{"layout": "IV", **arguments})
    assert "\n" not in str(error.value)


def test_data_without_the_spaces_tasks_are_one_sentence(prepared):
    wanted = space("random").model_copy(update={"tasks": ("PDw", "T2w")})
    with pytest.raises(InputError, match=r"^tasks names 'T2w', of which .* has no training slices; it has PDw \(12\)"):
        of_space(wanted, prepared, "IV")


def test_a_trial_that_is_not_there_is_one_sentence(searched):
    with pytest.raises(InputError, match=r"^study 'joint' has no trial '99'; the leaderboard's column «trial» names"):
        like_trial(open_study("joint", None, searched), "99")


def test_other_data_than_the_trials_are_one_sentence(searched, raw, prepared, tmp_path):
    prepare([raw], tmp_path / "other", PrepareOptions(calibration_width=16, subset_seed=1), reuse=[prepared])
    other, ours = PreparedData(tmp_path / "other").hash, PreparedData(prepared).hash
    said = rf"other has hash {other[:12]}, where trial 0 of study 'joint' was trained on {ours[:12]}$"
    with pytest.raises(InputError, match=said):
        like_trial(open_study("joint", None, searched), "0", tmp_path / "other")


def test_a_trial_whose_start_is_not_complete_is_one_sentence(searched, monkeypatch):
    study = open_study("joint", None, searched)
    monkeypatch.setattr(
        type(study), "referenced", lambda self: [one for one in self._records(self.references) if one.kind != "joint"]
    )
    said = r"^trial 0 starts from joint/n=4/seed=3, which is not complete in study 'joint'$"
    with pytest.raises(InputError, match=said):
        like_trial(study, "0")


# The command line


def test_train_like_prints_the_trials_curve_and_leaves_its_network(splitpoint, searched, tmp_path):
    study = open_study("joint", None, searched)
    record = study.record("0")
    code, out, err = splitpoint("train", "--like", "joint:0", "--runs-dir", searched, "--out", tmp_path / "out")
    assert (code, out) == (0, f"{tmp_path}/out/checkpoint\n"), err
    assert load_checkpoint(Path(out.strip()))[1] == record.config
    names = ("loss", "ssim/PDw", "ssim/PDw-FS", "weight/PDw", "weight/PDw-FS")
    assert printed_curve(err) == [
        f"epoch {epoch}/2  " + "  ".join(f"{name} {metrics[name]:.4f}" for name in names)
        for epoch, metrics in record.history.items()
    ]
    theirs, ours = (load_network(Path(one))[0].state_dict() for one in (record.checkpoint, out.strip()))
    assert all(theirs[name].equal(ours[name]) for name in theirs)


def test_train_of_a_space_trains_the_start_first_and_prints_the_same_curve(splitpoint, searched, prepared, tmp_path):
    record = open_study("joint", None, searched).record("0")
    (tmp_path / "own.yaml").write_text(space("joint").model_dump_json())
    code, out, err = splitpoint(
        "train", prepared, "--space", "own.yaml", "--layout", "IV", "--out", tmp_path / "out", "--device", "cpu"
    )
    assert (code, out) == (0, f"{tmp_path}/out/start/checkpoint\n{tmp_path}/out/checkpoint\n"), err
    assert f"{tmp_path}/out/start: the I2 network that this training starts from\n" in err
    lines = printed_curve(err)
    assert len(lines) == 4, "two epochs of the start, two of the layout"
    assert lines[-1].startswith(f"epoch 2/2  loss {record.metrics['loss']:.4f}  ssim/PDw ")
    assert load_checkpoint(tmp_path / "out" / "checkpoint")[1] == record.config


def test_other_options_change_what_is_trained_like_a_trial(splitpoint, searched, tmp_path):
    record = open_study("drawn", None, searched).record("0")
    code, _, err = splitpoint(
        *("train", "--like", "drawn:0", "--runs-dir", searched, "--out", tmp_path / "out", "--epochs", "1"),
        *("--set", "network.consistency=accelerated"),
    )
    assert code == 0, err
    config = load_checkpoint(tmp_path / "out" / "checkpoint")[1]
    network = record.config.network.model_copy(update={"consistency": "accelerated"})
    assert config == record.config.model_copy(update={"epochs": 1, "network": network, "validate_at": None})


def test_a_file_of_fields_is_trained_and_set_and_options_come_after_it(splitpoint, prepared, tmp_path):
    (tmp_path / "fields.yaml").write_text(
        "network: {layout: IV, channels: 2, pools: 1}\nnetwork.consistency: image\nslices: {PDw: 3, PDw-FS: 3}\n"
        "masks.train.accelerations: [3]\nepochs: 4\nbatch_size: 3\nseed: 5\n"
    )
    code, _, err = splitpoint(
        *("train", prepared, "--config", "fields.yaml", "--out", tmp_path / "out", "--epochs", "1"),
        *("--set", "network.consistency=accelerated", "--set", "validate_at=[1]"),
    )
    assert code == 0, err
    config = load_checkpoint(tmp_path / "out" / "checkpoint")[1]
    assert (config.network.layout, config.network.channels, config.network.consistency) == ("IV", 2, "accelerated")
    assert (config.epochs, config.validate_at, config.batch_size, config.seed) == (1, (1,), 3, 5)
    assert (config.slices, config.masks.train.accelerations) == ({"PDw": 3, "PDw-FS": 3}, (3.0,))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--epochs", "0"], "--epochs must be greater than or equal to 1; found 0"),
        (["--layout", "I2W10"], "--layout: layout 'I2W10': character 3 is 'W'"),
        (["--set", "epochss=3"], "--set epochss is no field of a training; did you mean epochs"),
        (["--set", "epochs"], "--set 'epochs' is not FIELD=VALUE, such as network.consistency=accelerated"),
        (["--set", "epochs=[1"], r"--set 'epochs=\[1': '\[1' is no YAML value"),
        (["--set", "network.consistency=tight"], "--set network.consistency must be 'k-space', 'image' or "),
        (["--like", "first"], "--like 'first' is not STUDY:TRIAL, such as first:12"),
        (["--like", "first:"], "--like 'first:' is not STUDY:TRIAL, such as first:12"),
        (["--like", "first:1", "--space", "quickstart"], "--space and --like exclude each other"),
        (["--n", "4"], "--n goes with --space; --slices TASK=N cuts a task otherwise"),
        (["--config", "none.yaml"], "--config none.yaml cannot be read: "),
        (["--config", "list.yaml"], "--config list.yaml holds list, where fields such as epochs should be"),
        (["--config", "wrong.yaml"], "epochs must be a whole number; found 'many'"),
    ],
)
def test_a_wrong_field_is_one_sentence_that_names_the_option(splitpoint, tmp_path, arguments, sentence):
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "wrong.yaml").write_text("epochs: many")
    code, out, err = splitpoint("train", "nowhere", "--out", tmp_path / "out", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.match(f"splitpoint: {sentence}", err), err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "PREPARED is missing: the folder of the prepared data set"),
        (("DATA", "--space", "quickstart"), "--layout is missing: the layout that a search of the space would train"),
        (("DATA", "--space", "quickstart", "--layout", "IV"), "--layout "),
        (("--like", "joint:99", "--runs-dir", "RUNS"), "study 'joint' has no trial '99'"),
    ],
)
def test_what_is_missing_for_a_training_is_one_sentence(splitpoint, searched, prepared, arguments, sentence):
    there = {"DATA": prepared, "RUNS": searched}
    code, out, err = splitpoint("train", "--out", "out", *(there.get(one, one) for one in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"splitpoint: {sentence}"), err


def test_a_wrong_field_is_said_before_torch_is_imported(tmp_path):
    """In a process, for this one has torch."""
    code = (
        "import sys\nfrom search.cli import main\n"
        "sys.argv = ['splitpoint', 'train', 'nowhere', '--out', 'out', '--epochs', '0']\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    print(ended.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "2 False\n"
    assert re.fullmatch(r"splitpoint: --epochs .* found 0\n", done.stderr)
