"""A process that races for a study: waits for a line, claims, says whether it won, and again.

``python racer.py NAME STORAGE WHO``; each line on stdin is the value that it expects, as JSON.
"""

import json
import sys

import optuna

from search.study.claim import claim
from search.study.storage import open_storage

optuna.logging.set_verbosity(optuna.logging.ERROR)
name, url, who = sys.argv[1:]
storage = open_storage(url)
study = optuna.load_study(study_name=name, storage=storage)
print("ready", flush=True)
for turn, line in enumerate(sys.stdin):
    won = claim(storage, study, json.loads(line), {"who": who, "turn": turn})
    print("won" if won else "lost", flush=True)
