"""Signals: the first waits until a unit being published is finished, the second ends at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_SIGINT = 130
EXIT_SIGTERM = 143
EXIT_CODES = {signal.SIGINT: EXIT_SIGINT, signal.SIGTERM: EXIT_SIGTERM}
START_OF_SIGNALS = 128
"""A shell's exit code of a process that a signal ended, less the signal's number."""


class Signals:
    """The handler of Ctrl-C and SIGTERM in this process.

    The first raises KeyboardInterrupt or SystemExit, as soon as nothing is shielded: a unit whose
    rows are all there is committed whole. The second ends the process at once; even then whatever
    is published is whole.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._num_shields = 0
        self._is_installed = False

    @property
    def received(self) -> int | None:
        """The first signal; None: there was none."""
        return self._received

    def install(self) -> None:
        """Handle signals from now on. Call it in the main thread."""
        self._is_installed = True
        for number in EXIT_CODES:
            signal.signal(number, self._on_signal)

    def reclaim(self) -> None:
        """Handle signals again after a library took them for itself, as ray.init does."""
        if self._is_installed:
            self.install()

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Put the first signal off to the end of this block."""
        self._num_shields += 1
        try:
            yield
        finally:
            self._num_shields -= 1
        if self._received is not None and not self._num_shields:
            self._raise(self._received)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._received is not None:
            os._exit(EXIT_CODES[signal.Signals(number)])
        self._received = number
        if not self._num_shields:
            self._raise(number)

    def _raise(self, number: int) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(EXIT_CODES[signal.Signals(number)])


SIGNALS = Signals()
"""Signals belong to the process, and so does their handler."""
