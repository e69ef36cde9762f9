"""What the tests of maps call: in a module that other processes import in no time."""

import os
import time
from pathlib import Path


def square(number: int) -> int:
    return number * number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ZeroDivisionError("three")
    return number


def who(number: int) -> tuple[int, str | None]:
    time.sleep(0.05)
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")


def die_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).write_text("")
        os._exit(1)
    return "alive"
