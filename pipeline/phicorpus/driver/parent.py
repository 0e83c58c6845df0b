"""What a driver tells the parent process that watches over it; see `phicorpus.driver.supervisor`.

A library in the driver owns its end: Ray's C++ ends the process when the cluster is lost, and its
handlers take signals for themselves. So the driver says which run it has begun, whether the run's
record is closed, and with which exit code it means to end; what it did not say, the parent does.
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
    """The parent of this process, or nobody."""

    def __init__(self) -> None:
        self._told: int | None = None

    def connect(self) -> None:
        """Talk to the parent that the environment names, if one does, and end when it ends.

        What this process starts must not take itself for a watched driver: the name is taken out.
        """
        numbers = os.environ.pop(VARIABLE, None)
        if numbers is None:
            return
        self._told, life = map(int, numbers.split(","))
        os.set_inheritable(self._told, False)
        os.set_inheritable(life, False)
        _end_with_parent(life)

    @property
    def is_there(self) -> bool:
        """Whether somebody watches."""
        return self._told is not None

    def run_begins(
        self, output: str, options: Mapping[str, Any], fields: Mapping[str, Any]
    ) -> None:
        """Say which run's record has to be closed, and where it is."""
        self._tell({"output": output, "options": dict(options), "fields": dict(fields)})

    def run_is_recorded(self) -> None:
        """Say that the run's record is closed."""
        self._tell({"recorded": True})

    def exits(self, code: int) -> None:
        """Say with which exit code this process ends by its own will."""
        self._tell({"exit": code})

    def _tell(self, message: Mapping[str, Any]) -> None:
        if self._told is None:
            return
        line = (json.dumps(message, default=str) + "\n").encode()
        with contextlib.suppress(BrokenPipeError):
            while line:
                line = line[os.write(self._told, line) :]


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
