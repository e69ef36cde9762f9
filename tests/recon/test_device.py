"""The memory of a process that trains again and again."""

import os
import sys
import threading
from pathlib import Path

import pytest

from recon.device import release_memory

MB = 1_000_000


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_what_a_thread_has_freed_returns_to_the_system():
    kept = []

    def work():
        blocks = [bytes(3000) for _ in range(60_000)]
        kept.append(blocks[-1])  # at the end of the arena, so that the C library cannot give back what lies before it

    before = resident()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    grown = resident() - before
    if grown < 100 * MB:
        pytest.skip("this C library gives freed memory back by itself")
    release_memory()
    assert resident() - before < 30 * MB


def test_garbage_that_refers_to_itself_is_collected():
    class Held:
        pass

    gone = threading.Event()
    one = Held()
    one.itself = one
    one.flag = type("Flag", (), {"__del__": lambda self: gone.set()})()
    del one
    release_memory()
    assert gone.is_set()
