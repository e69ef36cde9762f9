"""The noise benchmark trains as a space trains, goes on where it was left, and shows what its lines hold."""

import json
import sys

import pytest

from benchmarks import noise
from recon.data.prepared import PreparedData
from recon.training.loop import train
from search.results.noise.grid import summary
from tests.search.conftest import space

SPACE = """
tasks: [PDw, PDw-FS]
scarce: {task: PDw-FS, slices: [2]}
unroll: {blocks: 2, channels: 2, pools: 1, consistency: accelerated}
layouts: {kind: list, choices: [I2, V2]}
training: {batch_size: 4, learning_rate: 3.0e-3}
start: {init: joint, epochs: 1}
fidelity: {epochs: 2, rungs: [1]}
trials: 2
"""


@pytest.fixture
def command(prepared, tmp_path, monkeypatch, capsys):
    """Run the benchmark on two layouts: -> (its output, what it said on the way)."""
    (tmp_path / "space.yaml").write_text(SPACE)

    def run(*more: object) -> tuple[str, str]:
        given = [tmp_path / "space.yaml", "--data", prepared, "--out", tmp_path / "noise.jsonl", "--layouts", "I2,V2"]
        arguments = [*given, "--seeds", 2, "--workers", 1, *more]
        monkeypatch.setattr(sys, "argv", ["noise", *map(str, arguments)])
        noise.main()
        return capsys.readouterr()

    return run


def test_two_layouts_and_two_seeds_are_trained_measured_and_gone_on_with(
    command, prepared, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "noise.jsonl"
    found, said = command("--json", "--fresh", prepared)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["kind"], line["layout"]) for line in lines] == [("start", "I2")] * 2 + [
        ("trial", "I2"),
        ("trial", "V2"),
    ] * 2
    facts = json.loads(found)
    assert set(facts["cpu_seconds"]) == {"start", "trial"}
    assert [(row["on"], row["value"]) for row in facts["rows"]] == [
        (on, value) for on in ("validation", "fresh") for value in ("mean of tasks", "PDw", "PDw-FS")
    ]
    assert set(facts["rows"][0]["tau_by_epoch"]) == {"1", "2"}
    assert set(facts["rows"][3]["tau_by_epoch"]) == {"2"}

    # What a line holds is what such a training gives.
    data, line = PreparedData(prepared), lines[-1]
    config = noise.TrainConfig.model_validate(line["config"])
    start = next((tmp_path / "noise.starts").glob("joint-seed1-*"))
    again = {}
    train(config, data, init=start, device="cpu", report=lambda epoch: again.update({epoch.epoch: epoch.metrics}))
    assert line["epochs"]["2"]["ssim"] == pytest.approx(again[2]["ssim"], abs=1e-6)
    by_slice = line["slices"]["val"]["PDw"]["ssim"]
    assert len(by_slice) == len(data.subset("PDw", split="val"))
    assert sum(by_slice) / len(by_slice) == pytest.approx(again[2]["ssim/PDw"], abs=1e-5)
    assert len(line["slices"]["fresh"]["PDw"]["ssim"]) == len(data.subset("PDw")) + len(by_slice)

    # The same again trains nothing; a line that is lost is trained again, from the start that is there.
    _, said = command("--fresh", prepared)
    assert said == ""
    out.write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    printed, said = command("--fresh", prepared)
    assert said == "1 of 1: trial V2, seed 1\n"
    assert json.loads(out.read_text().splitlines()[-1])["epochs"] == line["epochs"]
    assert "on fresh" in printed
    assert "CPU s a trial" in printed

    # Without data: what is there, and a sentence where that is nothing.
    monkeypatch.setattr(sys, "argv", ["noise", "--out", str(out)])
    noise.main()
    assert capsys.readouterr().out == printed
    monkeypatch.setattr(sys, "argv", ["noise", "--out", str(tmp_path / "nothing.jsonl")])
    with pytest.raises(SystemExit) as ended:
        noise.main()
    assert ended.value.code == 2
    assert "nothing.jsonl holds no trainings yet; give a space and --data" in capsys.readouterr().err


def test_a_start_says_what_is_trained_first(prepared, tmp_path):
    wanted = space(
        unroll={"blocks": 2, "channels": 2, "pools": 1},
        layouts={"kind": "list", "choices": ["I2"]},
        try_first=[],
        scarce={"task": "PDw-FS", "slices": [2]},
        fidelity={"epochs": 3, "rungs": []},
        start={"init": "joint", "epochs": 4, "learning_rate": 1e-4},
    ).on({"PDw": 12, "PDw-FS": 12})

    def both(start):
        return noise.jobs(wanted, prepared, ["I2", "V2"], 2, start, tmp_path, None)

    starts, trials = both("random")
    assert (starts, [job["init"] for job in trials]) == ([], [None] * 4)
    assert {job["config"]["epochs"] for job in trials} == {3 + 4}
    starts, trials = both("joint")
    assert [job["config"]["epochs"] for job in starts] == [4, 4]
    assert {job["config"]["epochs"] for job in trials} == {3}
    assert {job["config"]["learning_rate"] for job in trials} == {1e-4}
    assert [job["init"] for job in trials] == [job["checkpoint"] for job in starts for _ in range(2)]
    starts, trials = both("transfer")
    assert [job["config"]["tasks"] for job in starts] == [["PDw"], ["PDw"]]
    assert len({noise.identity(job) for job in trials}) == 4


def test_the_table_counts_a_failed_training_as_missing():
    config = {"tasks": ["A"], "epochs": 1}
    lines = [
        {
            "kind": "trial",
            "layout": layout,
            "seed": seed,
            "config": config,
            "epochs": {"1": {"ssim/A": seed + place}},
            "slices": {},
        }
        for place, layout in enumerate(("I2", "V2", "Y2"))
        for seed in range(2)
    ]
    lines[-1] |= {"epochs": {}, "error": "the loss of A is nan in epoch 1, step 1"}
    found = noise.tables(lines)
    assert list(found) == ["validation"]
    assert summary(found["validation"])["layouts"].tolist() == [2]
