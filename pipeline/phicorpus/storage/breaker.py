"""Places that do not answer: how long, and how often, one still waits for them.

An asset that stalls costs `fetch.max_attempts` times `fetch.timeout_s`. Of one asset that is right;
of a host that is down every asset would cost as much. So each place has a budget of second
attempts, which its answers fill up again, and one that has not answered for long is given less
time. Every asset is still asked for once: none fails for what happened to another.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

MAX_IN_VAIN: Final = 8
"""Waits in a row for nothing, after which a place is down until it answers."""
SHORT_WAIT_S: Final = 5.0
_MOST_RETRIES: Final = 16.0
_PER_ANSWER: Final = 0.5


@dataclass(slots=True)
class Breaker:
    """What one place, a host or a bucket, may cost; shared by the threads of a process."""

    _retries: float = _MOST_RETRIES
    _in_vain: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self) -> None:
        """Note that the place gave something, be it an error."""
        with self._lock:
            self._in_vain = 0
            self._retries = min(_MOST_RETRIES, self._retries + _PER_ANSWER)

    def stalled(self) -> None:
        """Note that a wait, or a connection, was in vain."""
        with self._lock:
            self._in_vain += 1
            self._retries = max(0.0, self._retries - 1)

    @property
    def is_down(self) -> bool:
        """Return whether the place has not answered for long."""
        return self._in_vain >= MAX_IN_VAIN

    @property
    def allows_retry(self) -> bool:
        """Return whether a wait that was in vain may be tried again."""
        return not self.is_down and self._retries >= 1

    def wait_s(self, timeout_s: float) -> float:
        """Return how long to wait for an answer."""
        return min(timeout_s, SHORT_WAIT_S) if self.is_down else timeout_s


class Breakers:
    """The breakers of all places that a process reads from."""

    def __init__(self) -> None:
        self._of: defaultdict[str, Breaker] = defaultdict(Breaker)
        self._lock = threading.Lock()

    def of(self, place: str) -> Breaker:
        """Return a place's breaker."""
        with self._lock:
            return self._of[place]
