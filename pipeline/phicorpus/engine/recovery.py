"""Recovery of the decoding loop: when it hangs, and how to go on after it died."""

from __future__ import annotations

import re
import time
from typing import Literal

import torch

from phicorpus.config import EngineConfig

MAX_FAILURES_IN_ROW = 4  # of the decoding loop, without a completion between
LEAST_BATCH_TOKENS = 64
MIN_HANG_S = 120.0  # one pass of a large model on a CPU may take a minute, a first one on a GPU too

_ALLOCATOR = re.compile(r"out of memory|not enough memory|can't allocate memory", re.IGNORECASE)

NextStep = Literal["smaller", "alone", "give up"]


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error means that the device's or the machine's memory was used up.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("index out of range"))
        (True, False)
    """
    # torch.OutOfMemoryError is a RuntimeError, as is what the CPU's allocator raises.
    is_allocator = isinstance(error, RuntimeError) and _ALLOCATOR.search(str(error)) is not None
    return is_allocator or isinstance(error, MemoryError)


def is_device_lost(error: BaseException | None) -> bool:
    """Return whether an error means that the device is lost to this process.

    After an illegal access, an assert in a kernel or a fault of the hardware CUDA gives nothing but
    the same error: no request caused it, nor those that follow. Only another process recovers.

    Example:
        >>> is_device_lost(torch.AcceleratorError("CUDA error: device-side assert triggered"))
        True
        >>> is_device_lost(torch.OutOfMemoryError("CUDA out of memory."))
        False
    """
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def lost_device_message(error: BaseException) -> str:
    """Return the message of the EngineDied that all requests get after it."""
    return f"the device failed, for this process for good: {error!r}"


class Recovery:
    """Decides how the requests that were running go on after the loop died.

    - smaller: the memory was used up. All run again, as before, with half the tokens per pass.
    - alone: each runs again once, alone; one that kills the loop twice fails. Also where memory was
      used up and the passes cannot be made smaller.
    - give up: the loop fails again and again, with any request.

    Args:
        config: `max_batch_tokens` is the first batch size, and is restored when one request is
            found that does not fit alone.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.batch_tokens = config.max_batch_tokens
        self._most = config.max_batch_tokens
        self._in_row = 0

    def after(self, error: BaseException | None) -> NextStep:
        """Choose how to go on after a failure of the loop."""
        if is_out_of_memory(error) and self.batch_tokens > LEAST_BATCH_TOKENS:
            self.batch_tokens = max(LEAST_BATCH_TOKENS, self.batch_tokens // 2)
            return "smaller"
        self._in_row += 1
        return "alone" if self._in_row <= MAX_FAILURES_IN_ROW else "give up"

    def on_completion(self) -> None:
        """Note that a request was answered: the failures are no longer in a row."""
        self._in_row = 0

    def on_failed_alone(self) -> None:
        """Restore the full batch size: the request that did not fit has failed."""
        self.batch_tokens = self._most


class StallTimer:
    """Measures for how long a count has not changed while there was work."""

    def __init__(self) -> None:
        self._last, self._since = 0, time.monotonic()

    def stalled_s(self, count: int, *, busy: bool) -> float:
        """Return the seconds since the count last changed or there was no work; poll it."""
        if count != self._last or not busy:
            self._last, self._since = count, time.monotonic()
        return time.monotonic() - self._since
