"""What vLLM's processes run at their start ends them with the process that started them."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from phicorpus.engine.vllm.plugin import end_with_parent

pytestmark = pytest.mark.slow

PARENT = """
import multiprocessing, time
from phicorpus.engine.vllm.plugin import end_with_parent
def child():
    end_with_parent()
    print(multiprocessing.current_process().pid, flush=True)
    time.sleep(60)
multiprocessing.get_context("fork").Process(target=child).start()
time.sleep(60)
"""


def test_a_process_ends_soon_after_its_parent_was_killed() -> None:
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(1.5)
        assert child.is_running()

        os.kill(parent.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs([child], timeout=10)

    assert not alive or child.status() == psutil.STATUS_ZOMBIE


def test_a_process_that_nobody_started_is_left_alone() -> None:
    before = threading.active_count()

    end_with_parent()

    assert threading.active_count() == before
