"""Splitpoint: where a multi-task MR reconstruction network should split.

The front door: what most users need, under one name. Names are resolved when they are first used, so that
``import splitpoint`` loads neither torch nor Ray. ``recon``, ``spaces`` and ``search`` behind it have doors of their
own.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from recon.door import door

if TYPE_CHECKING:
    from recon.bundle import Bundle as Bundle
    from recon.bundle import load as load
    from recon.config import TrainConfig as TrainConfig
    from recon.data.options import PrepareOptions as PrepareOptions
    from recon.data.prepare import prepare as prepare
    from recon.data.prepared import PreparedData as PreparedData
    from recon.data.prepared import PreparedData as open_data
    from recon.errors import InputError as InputError
    from recon.evaluation.final_test import final_test as final_test
    from recon.network.layout import Layout as Layout
    from recon.simulate import simulate as simulate
    from recon.training.loop import train as train
    from search.results.export import export as export
    from search.results.leaderboard import confirmed as confirmed
    from search.results.leaderboard import leaderboard as leaderboard
    from search.run.confirm import confirm as confirm
    from search.run.launch import launch as launch
    from search.study.open import open_study as open_study
    from search.study.open import studies as studies
    from spaces.reading import load_space as load_space
    from spaces.space import Space as Space

__version__ = importlib.metadata.version("splitpoint")

_HOMES = {
    "Bundle": "recon.bundle",
    "InputError": "recon.errors",
    "Layout": "recon.network.layout",
    "PrepareOptions": "recon.data.options",
    "PreparedData": "recon.data.prepared",
    "Space": "spaces.space",
    "TrainConfig": "recon.config",
    "confirm": "search.run.confirm",
    "confirmed": "search.results.leaderboard",
    "export": "search.results.export",
    "final_test": "recon.evaluation.final_test",
    "launch": "search.run.launch",
    "leaderboard": "search.results.leaderboard",
    "load": "recon.bundle",
    "load_space": "spaces.reading",
    "open_data": "recon.data.prepared:PreparedData",
    "open_study": "search.study.open",
    "prepare": "recon.data.prepare",
    "simulate": "recon.simulate",
    "studies": "search.study.open",
    "train": "recon.training.loop",
}

__all__ = [
    "Bundle",
    "InputError",
    "Layout",
    "PrepareOptions",
    "PreparedData",
    "Space",
    "TrainConfig",
    "__version__",
    "confirm",
    "confirmed",
    "export",
    "final_test",
    "launch",
    "leaderboard",
    "load",
    "load_space",
    "open_data",
    "open_study",
    "prepare",
    "simulate",
    "studies",
    "train",
]

__getattr__, __dir__ = door(__name__, _HOMES)
