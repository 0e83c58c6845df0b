"""The hook at the start of vLLM's processes (`vllm.general_plugins`). No vLLM, no torch.

vLLM's core outlives a parent that is killed, with all its memory: the actor that replaces a dead
one would find the GPU taken.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

_POLL_S = 1.0


def end_with_parent() -> None:
    """End this process soon after the one that started it; in any other process, do nothing."""
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return
    threading.Thread(
        target=_watch, args=(parent.pid,), name="phicorpus-orphan", daemon=True
    ).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)
