"""How long an engine computed, of the time since it was loaded."""

from __future__ import annotations

import threading
import time


class BusyTime:
    """Seconds in which at least one of an engine's threads computed: two at once count once.

    Used as a context manager by whoever computes, from any thread; costs about a microsecond.

    Example:
        >>> busy = BusyTime()
        >>> with busy, busy:
        ...     inside = busy.seconds()
        >>> busy.seconds()[0] <= busy.seconds()[1], inside[0] <= busy.seconds()[0]
        (True, True)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of the next three
        self._inside = 0
        self._since = 0.0
        self._past_s = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._since = time.monotonic()
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._past_s += time.monotonic() - self._since

    def seconds(self) -> tuple[float, float]:
        """Give (busy, since it was made), what is under way included; the first is never more."""
        with self._lock:
            now = time.monotonic()
            under_way_s = now - self._since if self._inside else 0.0
            return self._past_s + under_way_s, now - self._began
