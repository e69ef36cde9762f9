"""Layouts: which blocks are shared (I), multi-head (Y) or split (V), as a string such as ``I2V10``.

``recon.network.unrolled`` says what each kind of block means for the network.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from recon.errors import InputError

KINDS = "IYV"
_RUN = re.compile(r"([A-Za-z])(\d*)")


@dataclass(frozen=True)
class Layout:
    """The kind of every block, in order.

    ``str`` gives the short form (``I2V10``), which names the architecture everywhere. ``kinds`` is the long form.
    """

    kinds: str

    def __post_init__(self) -> None:
        if not self.kinds:
            raise InputError("a layout needs at least one block, such as I2V10")
        for position, kind in enumerate(self.kinds, start=1):
            if kind not in KINDS:
                raise InputError(
                    f"layout {self.kinds!r}: block {position} is {kind!r}, but a block is I (shared), "
                    "Y (multi-head) or V (split)"
                )

    @classmethod
    def parse(cls, text: str, blocks: int | None = None) -> Layout:
        """Read a layout in long, short or mixed form, in either case; ``blocks`` is the required number of blocks.

        Raises InputError that names the character at fault.

        >>> str(Layout.parse("IIVVVVVVVVVV"))
        'I2V10'
        >>> Layout.parse("I2V10").kinds
        'IIVVVVVVVVVV'
        """
        kinds = ""
        position = 0
        while position < len(text):
            run = _RUN.match(text.upper(), position)
            if run is None or run[1] not in KINDS:
                raise InputError(
                    f"layout {text!r}: character {position + 1} is {text[position]!r}, where I (shared), "
                    "Y (multi-head) or V (split) should stand, each with an optional count"
                )
            count = int(run[2]) if run[2] else 1
            if not 1 <= count <= 1000:
                raise InputError(f"layout {text!r}: the count at character {position + 2} is {run[2]}, not in 1..1000")
            kinds += run[1] * count
            position = run.end()
        if not kinds:
            raise InputError("the layout is empty; a layout looks like I2V10")
        if blocks is not None and len(kinds) != blocks:
            raise InputError(f"layout {text!r} has {len(kinds)} blocks, where {blocks} are wanted")
        return cls(kinds)

    def __str__(self) -> str:
        runs = ((kind, len(list(group))) for kind, group in itertools.groupby(self.kinds))
        return "".join(kind if count == 1 else f"{kind}{count}" for kind, count in runs)

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def changes(self) -> int:
        """How often the kind changes from one block to the next."""
        return sum(a != b for a, b in itertools.pairwise(self.kinds))
