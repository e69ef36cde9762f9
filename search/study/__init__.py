"""A study as it is stored: storages, records, slices, gains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recon.door import door

if TYPE_CHECKING:
    from recon.version import code_version as code_version
    from search.study.open import create_study as create_study
    from search.study.open import open_study as open_study

_HOMES = {"code_version": "recon.version", "create_study": "search.study.open", "open_study": "search.study.open"}

__all__ = ["code_version", "create_study", "open_study"]

__getattr__, __dir__ = door(__name__, _HOMES)
