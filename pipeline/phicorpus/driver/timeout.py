"""Watch the driver itself: when nothing comes from any worker for too long, end the run.

Watchdogs inside the workers end a stage that hangs. Only this ends a driver that waits for a
cluster that does not start, an actor that is placed nowhere, or replies that never come.
"""

from __future__ import annotations

import _thread
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from phicorpus.errors import WorkersLost

log = logging.getLogger(__name__)

_POLLS_PER_TIMEOUT = 20
_LONGEST_POLL_S = 5.0
GRACE_S = 30.0
"""For the main thread to notice that it was interrupted."""

Pulse = Callable[[], int | None]
"""A number that grows while workers are at work; None where it cannot be asked just now."""


class DriverWatch:
    """Measures how long nothing has come from any worker.

    Args:
        timeout_s: After so long without a sign the run is over.
        on_hang: Called from the watch's thread if the main thread does not end by itself; gets the
            reason.
    """

    def __init__(self, timeout_s: float, on_hang: Callable[[str], None]) -> None:
        self._timeout_s = timeout_s
        self._on_hang = on_hang
        self._last_s = time.monotonic()
        self._waits_for = "the job to begin"
        self._pulse: Pulse | None = None
        self._asks = threading.Lock()
        self._is_over = threading.Event()
        self._reason: str | None = None

    def waits_for(self, what: str) -> None:
        """Note what the driver waits for from now on; that is a sign of life, too."""
        self._waits_for = what
        self.alive()

    def alive(self) -> None:
        """Note that something came from a worker."""
        self._last_s = time.monotonic()

    @contextmanager
    def asking(self, pulse: Pulse) -> Iterator[None]:
        """Ask the workers in this block, so that what they begin counts before they reply.

        None is asked after it: Ray would start a cluster of its own to ask.
        """
        self._pulse = pulse
        try:
            yield
        finally:
            self._pulse = None
            if self._asks.acquire(timeout=GRACE_S):  # one that is being asked
                self._asks.release()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch this block, which has to run in the main thread to be interrupted.

        Raises:
            WorkersLost: nothing came for too long; says what the driver waited for.
        """
        interruptible = threading.current_thread() is threading.main_thread()
        thread = threading.Thread(
            target=self._watch, args=(interruptible,), name="driver-watch", daemon=True
        )
        self.alive()
        thread.start()
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            if self._reason is None:
                raise
            raise WorkersLost(self._reason) from error
        finally:
            self._is_over.set()

    def _watch(self, interruptible: bool) -> None:
        beat: int | None = None
        poll_s = min(_LONGEST_POLL_S, self._timeout_s / _POLLS_PER_TIMEOUT)
        while not self._is_over.wait(poll_s):
            with self._asks:
                pulse = self._pulse
                now = pulse() if pulse is not None else None
            if now is not None and now != beat:
                beat = now
                self.alive()
            if time.monotonic() - self._last_s > self._timeout_s:
                break
        else:
            return
        self._reason = (
            f"nothing came from any worker for {self._timeout_s:g} s "
            f"(cluster.driver_timeout_s) while the driver waited for {self._waits_for}"
        )
        log.error("the driver waits in vain", extra={"why": self._reason})
        if interruptible:
            _thread.interrupt_main()
            if not self._is_over.wait(GRACE_S):
                self._on_hang(self._reason)
