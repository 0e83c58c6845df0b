"""The watch over a driver: what it asks, until when, and how it ends a run that waits in vain."""

from __future__ import annotations

import threading

import pytest

from phicorpus.driver.timeout import DriverWatch
from phicorpus.errors import WorkersLost


class Workers:
    """Workers that are asked for a sign of life, and never give another."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.asked = threading.Event()
        self.may_answer = threading.Event()

    def signs(self) -> int:
        self.num_asked += 1
        self.asked.set()
        self.may_answer.wait(60)
        return 1


def wait_in_vain() -> None:
    """Wait until interrupted, as Ray does: now and then, Python looks for signals."""
    while True:
        threading.Event().wait(0.02)


def test_a_driver_to_which_nothing_comes_is_ended_with_what_it_waited_for() -> None:
    watch = DriverWatch(0.2, on_hang=pytest.fail)
    watch.waits_for("Ray to start")

    reason = r"nothing came from any worker for 0\.2 s .* while the driver waited for Ray to start"
    with pytest.raises(WorkersLost, match=reason), watch.watching():
        wait_in_vain()


def test_no_worker_is_asked_after_the_workers_have_ended() -> None:
    workers = Workers()
    watch = DriverWatch(0.2, on_hang=pytest.fail)
    num_asked: list[int] = []

    def drive() -> None:
        with watch.asking(workers.signs):
            assert workers.asked.wait(60)
            threading.Timer(0.05, workers.may_answer.set).start()
        assert workers.may_answer.is_set()  # the one that was being asked has answered
        num_asked.append(workers.num_asked)
        wait_in_vain()

    with pytest.raises(WorkersLost), watch.watching():
        drive()

    assert num_asked == [workers.num_asked]
