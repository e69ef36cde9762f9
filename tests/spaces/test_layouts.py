"""Layout choices: what a sampler sees, and constraints kept by the nearest repair."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon.config import NetworkConfig
from recon.network.layout import Layout
from recon.network.unrolled import UnrolledNetwork
from spaces.layouts import Choice, Costs, FreeLayouts, Integer, ListedLayouts, PrefixLayouts, costs

COSTS = Costs(common=10, block={"I": 100, "Y": 150, "V": 200})
TASKS = ("a", "b")
ALL = ["".join(kinds) for kinds in itertools.product("IYV", repeat=5)]


def count() -> Costs:
    return COSTS


def feasible(choice: FreeLayouts, kinds: str) -> bool:
    layout = Layout(kinds)
    return (
        (choice.max_changes is None or layout.changes <= choice.max_changes)
        and (choice.max_parameters is None or COSTS.of(layout) <= choice.max_parameters)
        and not set(kinds) - set(choice.kinds)
    )


def test_a_free_layout_has_a_dimension_a_block():
    choice = FreeLayouts()
    assert list(choice.dimensions(12)) == [f"b{block:02d}" for block in range(1, 13)]
    assert set(choice.dimensions(12).values()) == {Choice(("I", "Y", "V"))}


@pytest.mark.parametrize(
    ("choice", "layouts"),
    [
        (FreeLayouts(), ALL),
        (FreeLayouts(kinds="IV"), [kinds for kinds in ALL if "Y" not in kinds]),
        (PrefixLayouts(kind="prefix"), {"I" * n + tail * (5 - n) for n in range(6) for tail in "YV"}),
        (PrefixLayouts(kind="prefix", shared=(1, 3), tails=("Y",)), ["IYYYY", "IIYYY", "IIIYY"]),
        (ListedLayouts(kind="list", choices=("I2V3", "Y5")), ["IIVVV", "YYYYY"]),
    ],
)
def test_what_a_choice_encodes_it_decodes_and_it_encodes_nothing_else(choice, layouts):
    for kinds in ALL:
        encoded = choice.encode(Layout(kinds))
        assert (encoded is not None) == (kinds in layouts)
        if encoded is not None:
            assert choice.decode(encoded, 5) == Layout(kinds)
            for name, dimension in choice.dimensions(5).items():
                if isinstance(dimension, Integer):
                    assert dimension.low <= encoded[name] <= dimension.high
                else:
                    assert encoded[name] in dimension.values


@given(
    proposal=st.sampled_from(ALL),
    changes=st.none() | st.integers(0, 4),
    parameters=st.none() | st.integers(480, 1100),
    kinds=st.sampled_from(["IYV", "IV", "YV"]),
)
def test_repair_gives_the_nearest_feasible_layout(proposal, changes, parameters, kinds):
    choice = FreeLayouts(max_changes=changes, max_parameters=parameters, kinds=kinds)
    proposal = "".join(kind if kind in kinds else kinds[0] for kind in proposal)
    repaired = choice.repair(Layout(proposal), count, random.Random(0))
    others = [kinds for kinds in ALL if feasible(choice, kinds)]
    if not others:
        assert repaired is None
        return
    assert repaired is not None
    assert feasible(choice, repaired.kinds)

    def distance(kinds: str) -> int:
        return sum(a != b for a, b in zip(kinds, proposal, strict=True))

    assert distance(repaired.kinds) == min(distance(kinds) for kinds in others)


def test_ties_of_a_repair_are_broken_by_the_given_generator():
    choice = FreeLayouts(max_changes=0)
    found = {str(choice.repair(Layout("IIVVY"), count, random.Random(seed))) for seed in range(20)}
    assert found == {"I5", "V5"}
    assert len({str(choice.repair(Layout("IIVVY"), count, random.Random(3))) for _ in range(5)}) == 1


def test_misfits_are_said_with_the_number_found_and_the_limit():
    choice = FreeLayouts(max_changes=1, max_parameters=900)
    assert choice.misfit(Layout("IVIVI"), count) == "changes its kind 4 times, where layouts.max_changes is 1"
    assert choice.misfit(Layout("VVVVV"), count) == "has 1,010 parameters, where layouts.max_parameters is 900"
    assert choice.misfit(Layout("IIIVV"), count) is None


@pytest.mark.parametrize("layout", ["I4", "V4", "Y4", "IYVI", "V2I2"])
def test_costs_are_those_of_real_networks(layout):
    config = NetworkConfig(layout=layout, channels=3, pools=1)
    real = sum(parameter.numel() for parameter in UnrolledNetwork(config, TASKS).parameters())
    assert costs(config, TASKS).of(Layout.parse(layout)) == real
