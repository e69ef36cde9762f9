"""The benchmark of memory trains as it says, and measures after each training."""

import json

from benchmarks import memory


def test_each_training_has_a_line_with_its_layout_and_the_memory_that_stays(prepared, monkeypatch, capsys):
    command = ["memory", "--data", str(prepared), "--trainings", "3", "--blocks", "2", "--slices", "2", "--json"]
    monkeypatch.setattr("sys.argv", command)
    memory.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["training"] for row in rows] == [1, 2, 3]
    assert len({row["layout"] for row in rows}) > 1
    assert all(row["resident_mb"] > 50 for row in rows)
