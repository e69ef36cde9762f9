"""A Ray cluster that is not there is said at once, in one sentence."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from search.run.cluster import ANSWER_SECONDS
from tests.search.conftest import SPACE

ROOT = Path(__file__).parents[3]
START_SECONDS = 30.0
"""What Python may take to import Ray on a busy machine."""


def test_an_address_where_nothing_listens_is_one_sentence_and_nothing_of_rays_own(prepared, tmp_path):
    (tmp_path / "own.yaml").write_text(SPACE)
    with socket.socket() as taken:  # bound and deaf: nobody else gets the port meanwhile
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        options = ["--data", prepared, "--study", "one", "--runs-dir", "runs", "--address", address]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "search.cli", "launch", "own.yaml", *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        seconds = time.monotonic() - began
    assert (done.returncode, done.stdout) == (2, "")
    joining, sentence = done.stderr.splitlines()
    assert joining == f"one: joining {address}"
    assert re.fullmatch(rf"splitpoint: --address {address}: nothing answers there \(.*refused\)", sentence)
    assert seconds < START_SECONDS + ANSWER_SECONDS, "Ray itself would try for minutes"
