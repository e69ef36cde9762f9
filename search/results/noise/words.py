"""Numbers and lists in the words of a verdict."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd


def short(number: float, digits: int = 4) -> str:
    """A number below one as a paper has it: .0043."""
    text = f"{number:.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def amount(estimate: float, error: float | None = None) -> str:
    """«+.0043 ± .0005»; with as many digits as the error needs, at least four."""
    digits = 4 if not error else min(8, max(4, math.ceil(-math.log10(error))))
    text = short(abs(estimate), digits)
    text = ("−" if estimate < 0 else "+") + text
    return text if error is None else f"{text} ± {short(error, digits)}"


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """``summary`` as people read it: rounded, τ by epoch in one cell."""
    out = table.copy()
    for name in ("layout", "spread", "seed_effect", "residual"):
        out[name] = [short(value) for value in table[name]]
    out["F"] = [f"{value:.1f}" for value in table["F"]]
    out["p"] = ["<.001" if value < 0.001 else short(value, 3) for value in table["p"]]
    out["tau"] = [short(value, 2) for value in table["tau"]]
    out["tau_by_epoch"] = [
        " ".join(f"{epoch}:{short(value, 2)}" for epoch, value in one.items()) for one in table["tau_by_epoch"]
    ]
    return out


def plain(value: Any) -> Any:
    """As JSON has it: what is missing or not finite is None, keys are text."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, pd.DataFrame):
        return [plain(row) for row in value.to_dict("records")]
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value


def dumped(value: Any) -> str:
    """One line of JSON."""
    return json.dumps(plain(value), allow_nan=False)


def joined(parts: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """All parts, one behind the other."""
    return tuple(itertools.chain.from_iterable(parts))


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: ``A``, ``A and B``, ``A, B and C``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Floats to four digits, as people read them."""
    floats = table.select_dtypes("float").columns
    return table.assign(**{name: [short(value) for value in table[name]] for name in floats})
