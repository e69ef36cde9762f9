"""Maps side by side: all results, errors where they belong, and no more in flight than can run."""

import itertools
import os

import pytest

from search.run.parallel import IN_FLIGHT, ray_map, side_by_side
from tests.search.calls import die_once, fail_at_three, square, who


@pytest.fixture(params=["one process", "processes", "ray"])
def mapped(request):
    if request.param == "ray":
        request.getfixturevalue("local_ray")
        with ray_map() as found:
            yield found
    else:
        with side_by_side(1 if request.param == "one process" else 2) as found:
            yield found


def test_every_item_is_mapped_once_and_what_a_call_raises_is_raised(mapped):
    assert sorted(mapped(square, range(20))) == [number * number for number in range(20)]
    assert list(mapped(square, [])) == []
    with pytest.raises(ZeroDivisionError, match="three"):
        list(mapped(fail_at_three, range(6)))


def test_items_are_taken_as_they_can_be_run(mapped):
    taken = []
    items = (taken.append(number) or number for number in itertools.count())
    results = mapped(square, items)
    next(results)
    assert 1 <= len(taken) <= IN_FLIGHT * 2


def test_processes_are_several_with_one_thread_each(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with side_by_side(2) as mapped:
        found = set(mapped(who, range(8)))
    assert {threads for _, threads in found} == {"1"}
    assert len({pid for pid, _ in found}) == 2
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_call_whose_worker_died_is_made_again(local_ray, tmp_path):
    with ray_map(workers=1) as mapped:
        assert list(mapped(die_once, [str(tmp_path / "mark")])) == ["alive"]
