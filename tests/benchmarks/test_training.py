"""The benchmark of the training's choices runs what is missing, and that alone."""

import json
import sys

import pytest
import yaml

from benchmarks import training
from tests.search.conftest import space


@pytest.mark.parametrize("fresh", [False, True])
def test_the_same_command_again_trains_nothing_and_prints_the_same(prepared, tmp_path, monkeypatch, capsys, fresh):
    small = space(unroll={"blocks": 2, "channels": 2, "pools": 1}, fidelity={"epochs": 1, "rungs": []}, try_first=[])
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(small.model_dump(mode="json", exclude_unset=True)))
    out = tmp_path / "training.jsonl"
    command = ["training", "--space", tmp_path / "space.yaml", "--data", prepared, "--out", out, "--n", "2"]
    command += ["--seeds", "1", "--workers", "1", "--only", "base", "--only", "batch size 2", "--json"]
    command += ["--fresh", prepared] if fresh else []
    printed = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", [str(part) for part in command])
        training.main()
        printed.append(json.loads(capsys.readouterr().out))
        assert len(out.read_text().splitlines()) == 2 * 2
    assert printed[0] == printed[1]
    assert [row["variant"] for row in printed[0]] == ["base", "batch size 2"]
