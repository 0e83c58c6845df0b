"""Busy time: a union of what threads do, never more than the time that passed."""

import threading
import time

import pytest

from phicorpus.engine.engine import BusyTime


def test_two_threads_that_compute_at_once_count_once() -> None:
    busy = BusyTime()
    inside = threading.Barrier(2)

    def compute() -> None:
        with busy:
            inside.wait()
            time.sleep(0.1)

    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    busy_s, loaded_s = busy.seconds()
    assert 0.1 <= busy_s <= loaded_s


def test_what_is_under_way_counts_and_what_failed_is_over() -> None:
    busy = BusyTime()

    def fail() -> None:
        with busy:
            time.sleep(0.01)
            assert busy.seconds()[0] >= 0.01
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()

    before = busy.seconds()
    time.sleep(0.01)
    after = busy.seconds()
    assert after[0] == before[0]
    assert after[1] >= before[1] + 0.01
