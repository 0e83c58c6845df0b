"""A store that tries again: what is transient is waited out, what is ambiguous is settled.

Of the output alone; assets are tried again where they are read. No layer below does: the clients
ask once, where they can be told to. An operation has a deadline for all of its attempts together,
and a run has a budget of second attempts.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

from tenacity import (
    RetryCallState,
    Retrying,
    wait_random_exponential,
)

from phicorpus.errors import StoreBusy
from phicorpus.storage.protocols import Mendable, Store

log = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS: Final = 5
"""Of one operation; a client sends a request twice whose kept connection was closed meanwhile."""
TIMEOUT_S: Final = 180.0
"""Of one operation, as `output_store.timeout_s` says where nothing else is said."""
REQUESTS_IN_TIME: Final = 5
"""So many requests that get no answer fit into an operation's time."""
_FIRST_WAIT_S: Final = 0.25
_LONGEST_WAIT_S: Final = 20.0
_LONGEST_LISTING_S: Final = 3600.0
_SILENCE_S: Final = 15.0
# As in the AWS SDKs' standard mode: docs.aws.amazon.com/sdkref, retry behavior
_BUDGET: Final = 500
_PER_RETRY: Final = 5


@dataclass(slots=True)
class Budget:
    """How many second attempts a run has left: each takes five, each success gives some back."""

    left: int = _BUDGET
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> bool:
        """Take what one more attempt costs; False: there is not enough."""
        with self._lock:
            if self.left < _PER_RETRY:
                return False
            self.left -= _PER_RETRY
            return True

    def give_back(self, num_attempts: int) -> None:
        """Note a success, at the first attempt or at a later one."""
        with self._lock:
            self.left = min(_BUDGET, self.left + (_PER_RETRY if num_attempts > 1 else 1))

    def __reduce__(self) -> tuple[type[Budget], tuple[int]]:
        """Go to another process without the lock, which stays in this one."""
        return Budget, (self.left,)


class SteadyStore:
    """Another store, each operation tried several times with growing, random pauses.

    A creation that is refused because the file is there is settled by reading the file: a request
    whose answer was lost on the way may have been our own, in this attempt or inside a client.
    """

    def __init__(
        self,
        store: Store,
        *,
        attempts: int = ATTEMPTS,
        first_wait_s: float = _FIRST_WAIT_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Keep the store.

        Args:
            store: Each call of it is one attempt.
            attempts: Of one operation.
            first_wait_s: Before the second attempt, on average half of it.
            timeout_s: For one operation, all attempts together.
        """
        self._store = store
        self._attempts = attempts
        self._first_wait_s = first_wait_s
        self._timeout_s = timeout_s
        self._budget = Budget()

    def __str__(self) -> str:
        return str(self._store)

    def create(self, path: str, data: bytes) -> bool:
        """See `Store.create`; True also if the file that is there holds these very bytes."""
        clock = _Clock(self._timeout_s)
        what = f"write {self}/{path}"
        if self._retry(lambda: self._store.create(path, data), what, clock):
            return True
        return self._retry(lambda: self._store.read(path), f"read {self}/{path}", clock) == data

    def read(self, path: str) -> bytes:
        """See `Store.read`."""
        clock = _Clock(self._timeout_s)
        return self._retry(lambda: self._store.read(path), f"read {self}/{path}", clock)

    def remove(self, path: str) -> None:
        """See `Mendable.remove`."""
        clock = _Clock(self._timeout_s)
        store = cast("Mendable", self._store)
        self._retry(lambda: store.remove(path), f"remove {self}/{path}", clock)

    def list_leftovers(self) -> Iterator[str]:
        """See `Mendable.list_leftovers`."""
        clock = _ListingClock(self._timeout_s)
        what = f"list {self}"
        store = cast("Mendable", self._store)
        yield from self._retry(lambda: list(store.list_leftovers()), what, clock)

    def list_files(self, folder: str) -> Iterator[str]:
        """See `Store.list_files`; complete, or an error.

        A listing takes as long as there are files; its time is that from a request which failed.
        """
        clock = _ListingClock(self._timeout_s)
        what = f"list {self}/{folder}"
        yield from self._retry(lambda: list(self._store.list_files(folder)), what, clock)

    def _retry(self, ask: Callable[[], T], what: str, clock: _Clock) -> T:
        retrying = Retrying(
            stop=lambda state: state.attempt_number >= self._attempts or clock.is_over(state),
            wait=wait_random_exponential(multiplier=self._first_wait_s, max=_LONGEST_WAIT_S),
            retry=self._is_worth_it,
            before_sleep=_warn,
            reraise=True,
        )
        for attempt in retrying:
            with attempt:
                return self._count_success(
                    attempt.retry_state, lambda: _ask_within(ask, what, clock)
                )
        raise AssertionError  # reraise: the loop returns or raises

    def _count_success(self, state: RetryCallState, ask: Callable[[], T]) -> T:
        answer = ask()
        self._budget.give_back(state.attempt_number)
        return answer

    def _is_worth_it(self, state: RetryCallState) -> bool:
        """Decide whether a failure may pass, and the run's budget has another attempt."""
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, StoreBusy):
            return False
        if self._budget.take():
            return True
        log.error("the run's budget of retries is spent", extra={"why": str(error)})
        return False


class _Clock:
    """The time of one operation, all attempts and pauses together."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._end_s = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Return how long an attempt that begins now may take."""
        return max(0.0, self._end_s - time.monotonic())

    def is_over(self, state: RetryCallState) -> bool:
        """Return whether the next attempt would begin too late."""
        return time.monotonic() + state.upcoming_sleep >= self._end_s


class _ListingClock(_Clock):
    """The time of a listing, which begins with the first request that fails."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self._began_s = time.monotonic()
        self._failed = False

    def left_s(self) -> float:
        return _LONGEST_LISTING_S - (time.monotonic() - self._began_s)

    def is_over(self, state: RetryCallState) -> bool:
        if not self._failed:
            self._failed = True
            longest_s = self.timeout_s / REQUESTS_IN_TIME
            waited_s = min(time.monotonic() - self._began_s, longest_s)
            self._end_s = time.monotonic() - waited_s + self.timeout_s - longest_s
        return super().is_over(state)


def _ask_within(ask: Callable[[], T], what: str, clock: _Clock) -> T:
    """Ask in a thread, which is left behind when it hangs; warn of a long silence.

    Raises:
        StoreBusy: there was no answer in the time that is left.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    threading.Thread(target=_answer, args=(ask, answers), daemon=True, name="ask store").start()
    left_s = clock.left_s()
    try:
        answer, error = answers.get(timeout=min(_SILENCE_S, left_s))
    except queue.Empty:
        if left_s > _SILENCE_S:
            log.warning("the store does not answer", extra={"doing": what})
        try:
            answer, error = answers.get(timeout=max(0.0, left_s - _SILENCE_S))
        except queue.Empty:
            raise StoreBusy(
                f"cannot {what}: no answer within output_store.timeout_s = {clock.timeout_s:g} s"
            ) from None
    if error is not None:
        raise error
    return answer


def _answer(
    ask: Callable[[], T], answers: queue.SimpleQueue[tuple[Any, BaseException | None]]
) -> None:
    try:
        answers.put((ask(), None))
    except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for it
        answers.put((None, error))


def _warn(state: RetryCallState) -> None:
    why = state.outcome.exception() if state.outcome else None
    log.warning("the store is busy", extra={"attempt": state.attempt_number, "why": str(why)})
