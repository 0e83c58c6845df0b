"""Busy time: a union of what threads do, never more than the time that passed."""

import threading

import pytest

from phicorpus.engine.engine import BusyTime


class Clock:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_two_threads_that_compute_at_once_count_once() -> None:
    clock = Clock()
    busy = BusyTime(clock)
    inside, over = threading.Barrier(3), threading.Barrier(3)

    def compute() -> None:
        with busy:
            inside.wait(60)
            over.wait(60)

    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(60)
    clock.now_s += 0.1
    over.wait(60)
    for thread in threads:
        thread.join()
    clock.now_s += 1.0

    assert busy.seconds() == pytest.approx((0.1, 1.1))


def test_what_is_under_way_counts_and_what_failed_is_over() -> None:
    clock = Clock()
    busy = BusyTime(clock)

    def fail() -> None:
        with busy:
            clock.now_s += 0.01
            assert busy.seconds()[0] == pytest.approx(0.01)
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()

    before = busy.seconds()
    clock.now_s += 0.01
    after = busy.seconds()
    assert after[0] == before[0]
    assert after[1] == pytest.approx(before[1] + 0.01)


def test_by_the_real_clock_it_is_never_busy_for_longer_than_it_is_there() -> None:
    busy = BusyTime()
    with busy:
        busy_s, loaded_s = busy.seconds()
        assert 0 <= busy_s <= loaded_s
