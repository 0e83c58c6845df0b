"""What workers report to the actor beside the driver."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from phicorpus.workers.crash_log import RemoteCrashLog
from phicorpus.workers.logs import LogLine
from phicorpus.workers.quarantine import Key


class SlowStore:
    """As much of a store as a crash log asks for; it is busy."""

    def list_files(self, _folder: str) -> Sequence[str]:
        return ()

    def create(self, _path: str, _data: bytes) -> bool:
        time.sleep(8)
        return True


@pytest.mark.slow
def test_lines_that_come_too_late_for_one_call_are_those_of_the_next(cluster: str) -> None:
    """A crash is written to a store that may be slow just when a worker has said why it ends."""
    assert cluster
    store: Any = SlowStore()
    crash_log = RemoteCrashLog(store)
    key: Key = ("infer", "u", "a", "0", "ocr")
    line = LogLine(logger="phicorpus", level=logging.INFO, message="it ends", created_s=1e9)
    crash_log.begin([key])
    crash_log.log(line)
    crashed = threading.Thread(target=crash_log.begin, args=([key],))
    crashed.start()
    time.sleep(0.5)  # it is being written

    assert crash_log.lines() == []
    pickle.dumps(crash_log)  # workers that start now get it, too
    crashed.join()

    assert crash_log.lines() == [line]
    assert crash_log.lines() == []
