"""A temporary folder for large files that is removed even if its process was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "phicorpus-vllm-"
_ALIVE = "alive"


class Folder:
    """A folder that lives as long as its process, or until `remove`.

    What a killed process has left is removed by whoever makes the next one: an open lock on a file
    tells those that live.

    Attributes:
        path: Where it is; among the system's temporary files.
    """

    def __init__(self) -> None:
        remove_left_behind()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        new = self.path / "new"
        self._lock = new.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self.path / _ALIVE)  # locked from the first moment that others look at it

    def remove(self) -> None:
        """Delete it with all that is in it; safe to call twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def remove_left_behind() -> None:
    """Delete this user's folders whose processes have ended without it."""
    for alive in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{_ALIVE}"):
        try:
            if alive.parent.is_symlink() or alive.stat().st_uid != os.getuid():
                continue
            with alive.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(alive.parent, ignore_errors=True)
        except OSError:  # its process lives, or another was faster
            continue
