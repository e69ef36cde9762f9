"""Ray Tune and Optuna: launching searches, ranking, confirming, exporting; the command line.

The subpackages; each knows only those behind it: ``cli`` → ``report`` → ``results`` → ``run`` → ``study``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recon.door import door

if TYPE_CHECKING:
    from search.results.export import export as export
    from search.results.leaderboard import confirmed as confirmed
    from search.results.leaderboard import leaderboard as leaderboard
    from search.results.noise.study import study_noise as study_noise
    from search.results.pick import picked as picked
    from search.results.tested import study_test as study_test
    from search.run.confirm import confirm as confirm
    from search.run.launch import launch as launch
    from search.study.open import OpenStudy as OpenStudy
    from search.study.open import open_study as open_study
    from search.study.open import studies as studies
    from search.study.record import Record as Record

_HOMES = {
    "OpenStudy": "search.study.open",
    "Record": "search.study.record",
    "confirm": "search.run.confirm",
    "confirmed": "search.results.leaderboard",
    "export": "search.results.export",
    "launch": "search.run.launch",
    "leaderboard": "search.results.leaderboard",
    "open_study": "search.study.open",
    "picked": "search.results.pick",
    "studies": "search.study.open",
    "study_noise": "search.results.noise.study",
    "study_test": "search.results.tested",
}

__all__ = [
    "OpenStudy",
    "Record",
    "confirm",
    "confirmed",
    "export",
    "launch",
    "leaderboard",
    "open_study",
    "picked",
    "studies",
    "study_noise",
    "study_test",
]

__getattr__, __dir__ = door(__name__, _HOMES)
