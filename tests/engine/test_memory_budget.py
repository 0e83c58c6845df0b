"""The memory of a GPU that changes hands, with a clock and a GPU of its own."""

from __future__ import annotations

import logging

import pytest

from phicorpus.engine.memory_budget import awaited_free

GB = 10**9


class Gpu:
    """A GPU of 80 GB whose last replica needs so long to end."""

    def __init__(self, *, ends_after_s: float, others: int = 0) -> None:
        self.now_s = 100.0
        self._ends_at_s = self.now_s + ends_after_s
        self._others = others

    def read(self) -> tuple[int, int]:
        held = 0 if self.now_s >= self._ends_at_s else 70 * GB
        return 80 * GB - held - self._others, 80 * GB

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def awaited(self, share: float) -> tuple[int, float]:
        """Bytes that are free in the end, and the seconds until then."""
        free, total = awaited_free(share, self.read, clock=self.clock, sleep=self.sleep)
        assert total == 80 * GB
        return free, self.now_s - 100.0


def test_memory_that_is_there_is_not_waited_for() -> None:
    assert Gpu(ends_after_s=0).awaited(1.0) == (80 * GB, 0.0)


def test_memory_that_an_ending_replica_holds_is_waited_for() -> None:
    free, waited_s = Gpu(ends_after_s=7.5).awaited(1.0)

    assert (free, waited_s) == (80 * GB, 8.0)


def test_a_part_that_is_free_is_taken_at_once() -> None:
    assert Gpu(ends_after_s=1e6).awaited(0.125) == (10 * GB, 0.0)


def test_the_context_of_this_process_and_small_programs_are_not_waited_for() -> None:
    assert Gpu(ends_after_s=0, others=6 * GB).awaited(1.0) == (74 * GB, 0.0)


def test_memory_that_another_program_keeps_is_waited_for_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "phicorpus"):
        free, waited_s = Gpu(ends_after_s=1e6).awaited(1.0)

    assert (free, waited_s) == (10 * GB, 60.0)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "WARNING"]
    assert vars(caplog.records[1])["free_gb"] == 10.0
