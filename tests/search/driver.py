"""A driver in a process of its own, to be killed: ``python -m tests.search.driver FOLDER TRIALS``."""

import os
import sys
from pathlib import Path

from search.errors import SearchError, Terminated
from search.run.cluster import Resources
from search.run.launch import launch
from tests.search import fakes
from tests.search.conftest import facts, space

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    try:
        launch(
            space(trials=int(sys.argv[2])),
            facts(folder / "data"),
            "killed",
            storage=os.environ.get("SPLITPOINT_TEST_STORAGE"),
            runs_dir=folder / "runs",
            trainer=fakes.train,
            resources=Resources(max_concurrent=2),
        )
    except SearchError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Terminated:
        sys.exit(143)
