"""Signals: Ctrl-C ends a run at once, SIGTERM when running trials have written what they can write in time."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass

import pytest

from search.errors import Terminated
from search.run.leaving import Signals


@dataclass
class Running:
    heard: float
    gap: float | None


def received(number: int, grace: float = 60.0) -> Signals:
    with Signals(grace) as signals:
        signals.patient = True
        os.kill(os.getpid(), number)
        end = time.monotonic() + 5
        while not signals.leaving and time.monotonic() < end:
            time.sleep(0.01)
    assert signals.leaving
    return signals


def test_ctrl_c_ends_a_run_at_once_whatever_runs():
    signals = received(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signals.look([Running(time.monotonic(), 0.1)])


def test_after_sigterm_a_run_waits_for_trials_that_report_in_time():
    signals = received(signal.SIGTERM)
    signals.look([Running(time.monotonic(), 1.0)])
    signals.look([Running(time.monotonic(), None)])
    with pytest.raises(Terminated):
        signals.look([])


def test_after_sigterm_a_run_does_not_wait_for_reports_that_come_too_late():
    signals = received(signal.SIGTERM)
    with pytest.raises(Terminated):
        signals.look([Running(time.monotonic(), 3600.0)])


def test_after_sigterm_a_run_ends_when_its_time_is_up():
    signals = received(signal.SIGTERM, grace=0.0)
    with pytest.raises(Terminated):
        signals.look([Running(time.monotonic(), None)])


@pytest.mark.parametrize(("second", "raised"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_second_signal_does_not_wait(second, raised):
    def twice() -> None:
        for number in (signal.SIGTERM, second):
            os.kill(os.getpid(), number)
            time.sleep(0.5)

    with Signals(60.0) as signals:
        signals.patient = True
        with pytest.raises(raised):
            twice()


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_before_the_first_trial_a_signal_ends_a_run_at_once(number, raised):
    def once() -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    with Signals(60.0), pytest.raises(raised):
        once()


def test_without_a_signal_nothing_happens_and_the_handlers_are_given_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Signals() as signals:
        assert signal.getsignal(signal.SIGTERM) != before[0]
        signals.look([])
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert not signals.leaving


def test_outside_the_main_thread_the_handlers_stay_as_they_are():
    found = []

    def elsewhere() -> None:
        with Signals():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [before]
