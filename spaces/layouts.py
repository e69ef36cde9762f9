"""Which layouts a study may choose, and how a sampler sees them.

Each choice turns a layout into a few named dimensions (``encode``) and back (``decode``), and says whether a layout
belongs to it. Constraints are kept by repair: a layout that a sampler proposes and that breaks one is replaced by the
nearest that does not, so a space in which hardly any proposal is feasible is searched as well as any other. Samplers
themselves live in ``search``.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from recon.config import Config, NetworkConfig
from recon.network.layout import KINDS, Layout

Value = str | int | float


@dataclass(frozen=True)
class Choice:
    """One of a few values, without order."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Integer:
    """A whole number, both ends included."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Real:
    """A real number, both ends included."""

    low: float
    high: float
    log: bool = False


Dimension = Choice | Integer | Real


@dataclass(frozen=True)
class Costs:
    """Parameters of a network as a function of its layout: a common part and a part for each block, by its kind."""

    common: int
    block: Mapping[str, int]

    def of(self, layout: Layout) -> int:
        """Parameters of the network with this layout."""
        return self.common + sum(self.block[kind] for kind in layout.kinds)


def costs(network: NetworkConfig, tasks: tuple[str, ...]) -> Costs:
    """Count parameters by kind, from real networks of one and two blocks (on torch's meta device: nothing is
    allocated)."""
    return _costs(network.model_copy(update={"layout": "I"}), tasks)


@lru_cache(maxsize=64)
def _costs(network: NetworkConfig, tasks: tuple[str, ...]) -> Costs:
    import torch

    from recon.network.unrolled import UnrolledNetwork

    def count(layout: str) -> int:
        with torch.device("meta"):
            built = UnrolledNetwork(network.model_copy(update={"layout": layout}), tasks)
        return sum(parameter.numel() for parameter in built.parameters())

    block = {kind: count(kind * 2) - count(kind) for kind in KINDS}
    return Costs(count("I") - block["I"], block)


class LayoutChoice(Config):
    """Base of the choices below."""

    max_changes: int | None = Field(default=None, ge=0)
    """Largest number of changes of kind from one block to the next.

    None: no limit.
    """
    max_parameters: int | None = Field(default=None, ge=1)
    """Largest number of parameters of the whole network, all tasks together.

    None: no limit.
    """

    @abstractmethod
    def dimensions(self, blocks: int) -> dict[str, Dimension]:
        """What the sampler chooses, by name."""

    @abstractmethod
    def decode(self, params: Mapping[str, Any], blocks: int) -> Layout:
        """The layout that the sampler's choice means."""

    @abstractmethod
    def encode(self, layout: Layout) -> dict[str, Value] | None:
        """The dimensions of a layout; None where the choice does not hold it, whatever its constraints."""

    def misfit(self, layout: Layout, count: Callable[[], Costs]) -> str | None:
        """Why a layout does not belong to the choice, in words that follow «the layout»; None where it does.

        ``count`` gives the costs of the very network that would be built, and is called where parameters count.
        """
        if self.encode(layout) is None:
            return f"is not among those of layouts.kind {self.kind!r}"  # type: ignore[attr-defined]
        if self.max_changes is not None and layout.changes > self.max_changes:
            return f"changes its kind {layout.changes} times, where layouts.max_changes is {self.max_changes}"
        return self.too_large(layout, count)

    def too_large(self, layout: Layout, count: Callable[[], Costs]) -> str | None:
        """As ``misfit``, of ``max_parameters`` alone."""
        if self.max_parameters is not None and (found := count().of(layout)) > self.max_parameters:
            return f"has {found:,} parameters, where layouts.max_parameters is {self.max_parameters:,}"
        return None

    def repair(self, layout: Layout, count: Callable[[], Costs], rng: random.Random) -> Layout | None:
        """The feasible layout nearest to a proposal, itself where it is feasible; None where the choice has none near
        it."""
        return layout if self.misfit(layout, count) is None else None


class FreeLayouts(LayoutChoice):
    """Every block is free: 3^blocks layouts, one dimension a block (``b01``, ``b02`` …)."""

    kind: Literal["free"] = "free"
    """Every block is free."""
    kinds: str = KINDS
    """Kinds that a block may have, such as IV."""

    @field_validator("kinds")
    @classmethod
    def _known(cls, value: str) -> str:
        if not value or len(set(value)) != len(value) or set(value) - set(KINDS):
            raise ValueError(f"kinds are some of {KINDS}, each once, found {value!r}")
        return "".join(kind for kind in KINDS if kind in value)

    def dimensions(self, blocks: int) -> dict[str, Dimension]:
        """One dimension per block."""
        return {_position(block): Choice(tuple(self.kinds)) for block in range(1, blocks + 1)}

    def decode(self, params: Mapping[str, Any], blocks: int) -> Layout:
        """Block by block."""
        return Layout("".join(params[_position(block)] for block in range(1, blocks + 1)))

    def encode(self, layout: Layout) -> dict[str, Value] | None:
        """Block by block; None where a kind is not among those allowed."""
        if set(layout.kinds) - set(self.kinds):
            return None
        return {_position(block): kind for block, kind in enumerate(layout.kinds, start=1)}

    def repair(self, layout: Layout, count: Callable[[], Costs], rng: random.Random) -> Layout | None:
        """The nearest feasible layout in Hamming distance; ties are broken by ``rng``."""
        if self.misfit(layout, count) is None:
            return layout
        changes = len(layout) - 1 if self.max_changes is None else self.max_changes
        if self.max_parameters is None:
            return Layout(_nearest(layout.kinds, self.kinds, changes, {}, 0, rng) or "")
        cost = count()
        cheapest = min(cost.block[kind] for kind in self.kinds)
        spare = self.max_parameters - cost.common - cheapest * len(layout)
        if spare < 0:
            return None
        above = {kind: cost.block[kind] - cheapest for kind in self.kinds}
        nearest = _nearest(layout.kinds, self.kinds, changes, above, spare, rng)
        return None if nearest is None else Layout(nearest)


def _position(block: int) -> str:
    return f"b{block:02d}"


def _nearest(
    wanted: str, kinds: str, changes: int, above: Mapping[str, int], spare: int, rng: random.Random
) -> str | None:
    """The string over ``kinds`` that differs from ``wanted`` in the fewest places, within both budgets.

    Dynamic programming from the last block to the first; a state is (previous kind, changes left, parameters left).
    """

    @cache
    def distance(block: int, previous: str, changes: int, spare: int) -> float:
        if block == len(wanted):
            return 0.0
        return min((cost for cost, *_ in steps(block, previous, changes, spare)), default=float("inf"))

    def steps(block: int, previous: str, changes: int, spare: int) -> list[tuple[float, str, int, int]]:
        found = []
        for kind in kinds:
            left, money = changes - (kind != previous and block > 0), spare - above.get(kind, 0)
            if left >= 0 and money >= 0:
                found.append((distance(block + 1, kind, left, money) + (kind != wanted[block]), kind, left, money))
        return found

    if distance(0, "", changes, spare) == float("inf"):
        return None
    result, previous = "", ""
    for block in range(len(wanted)):
        possible = steps(block, previous, changes, spare)
        best = min(cost for cost, *_ in possible)
        _, previous, changes, spare = rng.choice([step for step in possible if step[0] == best])
        result += previous
    return result


class PrefixLayouts(LayoutChoice):
    """Shared blocks first, then a tail of one kind: the paper's family. Two dimensions, ``shared`` and ``tail``."""

    kind: Literal["prefix"]
    """Shared blocks come first, then a tail of one kind."""
    shared: tuple[int, int] | None = None
    """Smallest and largest number of shared blocks.

    None: from no block to all blocks.
    """
    tails: tuple[Literal["Y", "V"], ...] = Field(default=("Y", "V"), min_length=1)
    """Kinds that the tail may have."""

    @model_validator(mode="after")
    def _ordered(self) -> PrefixLayouts:
        if self.shared is not None and not 0 <= self.shared[0] <= self.shared[1]:
            raise ValueError(f"shared is [fewest, most], found {list(self.shared)}")
        if len(set(self.tails)) != len(self.tails):
            raise ValueError(f"tails names each kind once, found {list(self.tails)}")
        return self

    def _range(self, blocks: int) -> tuple[int, int]:
        return self.shared or (0, blocks)

    def dimensions(self, blocks: int) -> dict[str, Dimension]:
        """The number of shared blocks, and the kind of the rest."""
        return {"shared": Integer(*self._range(blocks)), "tail": Choice(self.tails)}

    def decode(self, params: Mapping[str, Any], blocks: int) -> Layout:
        """Shared blocks, then the tail."""
        shared = int(params["shared"])
        return Layout("I" * shared + str(params["tail"]) * (blocks - shared))

    def encode(self, layout: Layout) -> dict[str, Value] | None:
        """None where it is no shared prefix with a tail of one kind."""
        tail = layout.kinds.lstrip("I")
        shared = len(layout) - len(tail)
        fewest, most = self._range(len(layout))
        if len(set(tail)) > 1 or not fewest <= shared <= most or (tail and tail[0] not in self.tails):
            return None
        return {"shared": shared, "tail": tail[0] if tail else self.tails[0]}


class ListedLayouts(LayoutChoice):
    """Named layouts only; one dimension, ``layout``."""

    kind: Literal["list"]
    """The layouts are named one by one."""
    choices: tuple[str, ...] = Field(min_length=1)
    """Layouts to choose among, such as I2V10."""

    @field_validator("choices")
    @classmethod
    def _parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parsed = tuple(str(Layout.parse(text)) for text in value)
        if len(set(parsed)) != len(parsed):
            raise ValueError(f"choices names each layout once, found {', '.join(parsed)}")
        return parsed

    def dimensions(self, blocks: int) -> dict[str, Dimension]:
        """Which of the list."""
        return {"layout": Choice(self.choices)}

    def decode(self, params: Mapping[str, Any], blocks: int) -> Layout:
        """The named one."""
        return Layout.parse(str(params["layout"]))

    def encode(self, layout: Layout) -> dict[str, Value] | None:
        """None where it is not in the list."""
        return {"layout": str(layout)} if str(layout) in self.choices else None


Layouts = Annotated[FreeLayouts | PrefixLayouts | ListedLayouts, Field(discriminator="kind")]
