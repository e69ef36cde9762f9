"""A running search says which hosts are lost, come back and join."""

import threading
import time
from collections.abc import Callable

import pytest

from search.run import hostwatch
from search.run.hosts import HostFacts
from search.run.hostwatch import HostWatch
from tests.search.run import bench as benches


def node(id: str, address: str, alive: bool = True, cpus: float = 2) -> dict:
    return {
        "NodeID": id,
        "NodeManagerAddress": address,
        "NodeManagerHostname": f"name-{address}",
        "Alive": alive,
        "Resources": {"CPU": cpus},
    }


def facts(id: str, address: str, **changes) -> HostFacts:  # noqa: ANN003
    given = {"cpus": 2, "gpus": 0, "room": True}
    return HostFacts(id, address, f"name-{address}", **{**given, **changes})


FIRST = [facts("a", "10.0.0.1"), facts("b", "10.0.0.2"), facts("c", "10.0.0.3")]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


class Told:
    """Ray's answers, as a test gives them."""

    def __init__(self) -> None:
        self.nodes = [node(one.node, one.address) for one in FIRST]
        self.looked = []
        self.fault = None
        self.asked = 0

    def answer(self) -> list[dict]:
        self.asked += 1
        return self.nodes

    def again(self, ids) -> list[HostFacts]:
        self.looked += ids
        there = {one["NodeID"]: one for one in self.nodes}
        return [facts(id, there[id]["NodeManagerAddress"], fault=self.fault) for id in ids]

    def settle(self) -> None:
        """Wait until two more answers were taken up."""
        enough = self.asked + 2
        until(lambda: self.asked >= enough)


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def watch(told):
    with HostWatch(FIRST, told.again, told.answer, seconds=0.01) as made:
        told.settle()
        assert made.said({}) == []
        yield made


def test_a_lost_host_is_named_with_its_trials_and_once(told, watch):
    told.nodes[1]["Alive"] = False
    told.settle()
    running = {"name-10.0.0.2 (10.0.0.2)": 2, "name-10.0.0.3 (10.0.0.3)": 1}
    assert watch.said(running) == ["host 10.0.0.2 lost, 2 trials go on elsewhere"]
    assert watch.said(running) == []
    told.nodes.pop(2)
    told.settle()
    assert watch.said(running) == ["host 10.0.0.3 lost, 1 trial goes on elsewhere"]


def test_trials_that_lost_their_workers_before_the_host_counts_as_lost_are_told_of_once(told, watch, monkeypatch):
    watch.left("name-10.0.0.3 (10.0.0.3)")
    monkeypatch.setattr(hostwatch, "LATE_SECONDS", 0.5)
    time.sleep(0.6)
    watch.left("name-10.0.0.2 (10.0.0.2)")
    watch.left("name-10.0.0.3 (10.0.0.3)")
    watch.left(None)
    told.nodes[1]["Alive"] = told.nodes[2]["Alive"] = False
    told.settle()
    elsewhere = {"name-10.0.0.1 (10.0.0.1)": 2, "name-10.0.0.2 (10.0.0.2)": 1}
    assert watch.said(elsewhere) == [
        "host 10.0.0.2 lost, 2 trials go on elsewhere",
        "host 10.0.0.3 lost, 1 trial goes on elsewhere",
    ]
    told.nodes += [node("d", "10.0.0.2")]
    told.settle()
    assert watch.said({}) == ["host 10.0.0.2 back"]
    told.nodes.pop()
    told.settle()
    assert watch.said({}) == ["host 10.0.0.2 lost"]


def test_a_host_that_comes_back_is_told_from_a_new_one_and_both_are_looked_at(told, watch):
    told.nodes[1]["Alive"] = False
    told.settle()
    assert watch.said({}) == ["host 10.0.0.2 lost"]
    told.nodes += [node("d", "10.0.0.2"), node("e", "10.0.0.4")]
    told.settle()
    assert watch.said({}) == ["host 10.0.0.2 back", "host 10.0.0.4 joined"]
    until(lambda: sorted(told.looked) == ["d", "e"])
    assert watch.said({}) == []


def test_a_host_whose_ray_started_anew_between_two_answers_was_lost_too(told, watch):
    told.nodes[1] = node("d", "10.0.0.2")
    told.settle()
    assert watch.said({"10.0.0.2": 1}) == ["host 10.0.0.2 lost, 1 trial goes on elsewhere", "host 10.0.0.2 back"]


def test_a_host_that_joins_without_what_a_trial_needs_is_warned_of(told, watch):
    told.fault = "does not see the data /d: pass a path that every host sees"
    told.nodes.append(node("d", "10.0.0.4"))
    told.settle()
    said: list[str] = []
    until(lambda: said.extend(watch.said({})) or len(said) == 2)
    assert said == ["host 10.0.0.4 joined", f"host 10.0.0.4 {told.fault}; trials that begin there will fail"]


def test_trials_wait_where_no_host_with_room_is_left(told):
    first = [facts("a", "10.0.0.1", room=False), *FIRST[1:2]]
    told.nodes = [node("a", "10.0.0.1"), node("b", "10.0.0.2", alive=False)]
    with HostWatch(first, told.again, told.answer, seconds=0.01) as watch:
        told.settle()
        assert watch.said({"10.0.0.2": 1}) == ["host 10.0.0.2 lost, 1 trial waits for a host with room"]


def test_the_driver_never_waits_for_an_answer_and_knows_how_long_there_was_none(told):
    gone = threading.Event()
    with HostWatch(FIRST, told.again, lambda: gone.wait(5) and told.nodes, seconds=0.01) as watch:
        began = time.monotonic()
        assert watch.said({"10.0.0.2": 1}) == []
        assert time.monotonic() - began < 0.1
        time.sleep(0.2)
        assert watch.silent_seconds > 0.15
        gone.set()
        time.sleep(0.1)
        assert watch.silent_seconds < 0.15
        assert [one["address"] for one in watch.hosts] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def lose_one(name: str) -> list[str]:
    """In the driver of a bench: what is said of a real host that dies."""
    import ray

    from search.run import hosts

    known = [hosts._facts(one, None, True) for one in ray.nodes()]
    with HostWatch(known, lambda ids: [], seconds=0.2) as watch:
        benches._remove(name)
        end, said = time.monotonic() + 30, []
        while not said and time.monotonic() < end:
            said = watch.said({known[0].address: 1})
            time.sleep(0.1)
    return [one.replace(known[0].address, "HOST") for one in said]


@pytest.mark.slow
def test_a_real_host_that_dies_is_noticed(tmp_path):
    with benches.hosts(tmp_path, "head", "other") as bench:
        assert bench.call(lose_one, "other") == ["host HOST lost, 1 trial goes on elsewhere"]
