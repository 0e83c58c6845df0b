"""The driver's reports to the parent process that watches it; see `phicorpus.driver.supervisor`.

A library in the driver owns its end: Ray's C++ ends the process when the cluster is lost, and its
handlers take signals for themselves. So the driver reports which run it has begun, when the run's
record is closed, and with which exit code it is about to end; the parent does what is left undone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

VARIABLE = "PHICORPUS_PARENT"
"""In the environment of a watched driver: the numbers of two pipes, to and from the parent."""


class Parent:
    """The parent of this process, if it has one."""

    def __init__(self) -> None:
        self._reports: int | None = None

    def connect(self) -> None:
        """Connect to the parent that the environment names, if any, and end when it ends.

        The variable is removed, as the processes that this one starts are no watched drivers.
        """
        numbers = os.environ.pop(VARIABLE, None)
        if numbers is None:
            return
        self._reports, life = map(int, numbers.split(","))
        os.set_inheritable(self._reports, False)
        os.set_inheritable(life, False)
        _end_with_parent(life)

    @property
    def is_there(self) -> bool:
        """True where a parent watches this process."""
        return self._reports is not None

    def run_begins(
        self, output: str, options: Mapping[str, Any], fields: Mapping[str, Any]
    ) -> None:
        """Report a run whose record has to be closed, and where it is."""
        self._send({"output": output, "options": dict(options), "fields": dict(fields)})

    def run_is_recorded(self) -> None:
        """Report that the run's record is closed."""
        self._send({"recorded": True})

    def exits(self, code: int) -> None:
        """Report the exit code with which this process is about to end."""
        self._send({"exit": code})

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._reports is None:
            return
        line = (json.dumps(message, default=str) + "\n").encode()
        with contextlib.suppress(BrokenPipeError):
            while line:
                line = line[os.write(self._reports, line) :]


def _end_with_parent(life: int) -> None:
    """End this process when the parent does, however that ends."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    threading.Thread(target=_wait_for_end, args=(life,), name="parent", daemon=True).start()


def _wait_for_end(life: int) -> None:
    while os.read(life, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


PARENT = Parent()
"""A process has one parent at most."""
