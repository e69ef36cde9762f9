"""Maps side by side: all results, errors where they belong, and no more in flight than can run."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

from search.run.parallel import IN_FLIGHT, PAYS_BYTES, file_bytes, processes, ray_map, side_by_side
from tests.search.calls import blas_threads, die_once, fail_at_three, square, who


@pytest.fixture(params=["one process", "processes", "ray"])
def mapped(request):
    if request.param == "ray":
        request.getfixturevalue("local_ray")
        with ray_map() as found:
            yield found
    else:
        with side_by_side(1 if request.param == "one process" else 2) as found:
            yield found


def test_every_item_is_mapped_once_and_what_a_call_raises_is_raised(mapped):
    assert sorted(mapped(square, range(20))) == [number * number for number in range(20)]
    assert list(mapped(square, [])) == []
    with pytest.raises(ZeroDivisionError, match="three"):
        list(mapped(fail_at_three, range(6)))


def test_items_are_taken_as_they_can_be_run(mapped):
    taken = []
    items = (taken.append(number) or number for number in itertools.count())
    results = mapped(square, items)
    next(results)
    assert 1 <= len(taken) <= IN_FLIGHT * 2


def test_processes_are_several_with_one_thread_each(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with side_by_side(2) as mapped:
        found = set(mapped(who, range(8)))
    assert {threads for _, threads in found} == {"1"}
    assert len({pid for pid, _ in found}) == 2
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_a_call_whose_worker_died_is_made_again(kind, request, tmp_path):
    if kind == "ray":
        request.getfixturevalue("local_ray")
    with ray_map(workers=1) if kind == "ray" else side_by_side(2) as mapped:
        assert list(mapped(die_once, [str(tmp_path / "mark")])) == ["alive"]


def test_calls_that_end_their_process_again_and_again_are_an_error():
    with (
        pytest.raises(RuntimeError, match=r"ended 2 times without a word, .* fewer side by side"),
        side_by_side(2, retries=1) as mapped,
    ):
        list(mapped(os._exit, [1]))


def test_one_process_has_one_thread_like_the_others():
    with threadpool_limits(2, user_api="blas"):
        with side_by_side(1) as mapped:
            (threads,) = mapped(blas_threads, [0])
        assert set(threads) == {1}
        assert set(blas_threads(0)) == {2}


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_no_process_outlives_the_one_that_started_it(how, tmp_path):
    code = (
        "import sys\n"
        "from search.run.parallel import side_by_side\n"
        "from tests.search.calls import tell_and_wait\n"
        "if __name__ == '__main__':\n"
        "    with side_by_side(2) as mapped:\n"
        "        list(mapped(tell_and_wait, [sys.argv[1]] * 6))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "told")], env=environment, stderr=subprocess.PIPE, text=True
    )
    (tmp_path / "told").mkdir()
    workers = wait_for(lambda: two_numbers(tmp_path / "told"))
    driver.send_signal(signal.SIGINT if how == "interrupted" else signal.SIGKILL)
    said = driver.communicate(timeout=20)[1]
    assert wait_for(lambda: not any(alive(worker) for worker in workers))
    # A call that is interrupted cleans up; of the calls that waited, none began.
    left = {path.name for path in (tmp_path / "told").iterdir()}
    assert left == ({f"{worker}-clean" for worker in workers} if how == "interrupted" else set(map(str, workers)))
    if how == "interrupted":
        assert said.count("Traceback") == 1, "the driver's own"


def two_numbers(folder):
    found = [int(path.name) for path in folder.glob("[0-9]*")]
    return found if len(found) == 2 else None


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def test_more_processes_only_where_they_pay(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(bytes(1000))
    (tmp_path / "b").write_bytes(bytes(24))
    assert file_bytes([tmp_path / "folder", tmp_path / "b"]) == 1024
    assert processes(None, 1024) == 1
    assert processes(3, 1024) == 3
    assert processes(None, PAYS_BYTES) == os.cpu_count()
    assert processes(1, PAYS_BYTES) == 1
