"""What the tests of maps call: in a module that other processes import in no time."""

import os
import time
from pathlib import Path

from threadpoolctl import threadpool_info


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


def blas_threads(_: int) -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def tell_and_wait(folder: str) -> None:
    told = Path(folder) / str(os.getpid())
    told.write_text("")
    try:
        time.sleep(60)
    finally:
        told.rename(f"{told}-clean")
