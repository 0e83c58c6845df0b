"""Encodes media on a thread beside the decoding, batched over all that wait."""

from __future__ import annotations

import logging
import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from phicorpus.engine.encoder_cache import Features
from phicorpus.engine.engine import BusyTime
from phicorpus.engine.recovery import StallTimer
from phicorpus.models.model import Canvas, Slot

_CROP_PIXELS = 448 * 448  # of CLIP's 336 and SigLIP's 448 the larger; a canvas is cut into such

log = logging.getLogger(__name__)

Work = tuple[Slot, Features]


class EncoderThread:
    """Encodes slots in batches, on its own thread, and on a GPU on its own stream.

    Args:
        encode: `Model.encode`.
        write: Stores rows of shape (n, hidden) from an absolute row on.
        done: Called from the thread for each slot, with None or with what went wrong.
        batch: Crops and clips encoded at once.
        device: Where the encoders are.
        busy: Counts the time of the encoding, until the rows are written.
    """

    def __init__(
        self,
        *,
        encode: Callable[[Sequence[Slot]], list[torch.Tensor]],
        write: Callable[[int, torch.Tensor], None],
        done: Callable[[Features, Exception | None], None],
        batch: int,
        device: torch.device,
        busy: BusyTime,
    ) -> None:
        self._encode = encode
        self._write = write
        self._done = done
        self._batch = batch
        self._device = device
        self._busy = busy
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._left: Work | None = None
        self._stall = StallTimer()
        self._num_put = 0  # written by `put`; the next two by the thread
        self._num_done = 0
        self._num_moves = 0  # batches begun and ended
        self._thread = threading.Thread(target=self._run, name="phicorpus-encode", daemon=True)
        self._thread.start()

    def put(self, slot: Slot, features: Features) -> None:
        """Queue a slot; its rows go to the place that `features` names."""
        self._num_put += 1
        self._queue.put((slot, features))

    @property
    def is_busy(self) -> bool:
        """True while media are queued or being encoded."""
        return self._num_done < self._num_put

    def stalled_s(self) -> float:
        """Return the seconds since a batch last began or ended, or there was no work; poll it."""
        return self._stall.stalled_s(self._num_moves, busy=self.is_busy)

    def close(self, *, timeout_s: float) -> bool:
        """End the thread after the batch under way; False if it does not end in time."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with _own_stream(self._device):
            while works := self._next_batch():
                self._answer(works)

    def _answer(self, works: Sequence[Work]) -> None:
        error = self._try(works)
        if error is None or len(works) == 1:
            errors = [error] * len(works)
        else:  # find the one that fails
            errors = [self._try([work]) for work in works]
        for (_, features), error in zip(works, errors, strict=True):
            self._num_done += 1
            self._done(features, error)

    def _next_batch(self) -> list[Work]:
        """Wait for work, then take what is there, up to the batch size; empty: it is over."""
        works: list[Work] = []
        size = 0
        work = self._left or self._queue.get()
        self._left = None
        while work is not None:
            size += num_crops(work[0])
            if works and size > self._batch:
                self._left = work
                break
            works.append(work)
            try:
                work = self._queue.get_nowait()
            except queue.Empty:
                break
        else:
            return []
        return works

    def _try(self, works: Sequence[Work]) -> Exception | None:
        """Encode works together; return what went wrong."""
        self._num_moves += 1
        try:
            with self._busy:
                with torch.no_grad():
                    outputs = self._encode([slot for slot, _ in works])
                for (slot, features), rows in zip(works, outputs, strict=True):
                    _check(slot, rows)
                    self._write(features.start, rows)
        except Exception as error:  # noqa: BLE001 an encoder may raise anything: its requests fail
            traceback.clear_frames(error.__traceback__)  # they hold the batch's memory
            return error
        finally:
            self._num_moves += 1
        return None


def _own_stream(device: torch.device) -> AbstractContextManager[object]:
    """Compute beside the default stream, on a GPU.

    The decoding loop sends each step's inputs on the default stream, where they would wait for all
    that is being encoded.
    """
    if device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.default_stream(device))  # it may still be at the weights
    return torch.cuda.stream(stream)


def _check(slot: Slot, rows: torch.Tensor) -> None:
    if rows.shape[0] != slot.num_rows:
        raise ValueError(f"the encoder gave {rows.shape[0]} rows, announced were {slot.num_rows}")


def num_crops(slot: Slot) -> int:
    """Count the crops or clips of a slot in a batch."""
    if not isinstance(slot.media, Canvas):
        return 1
    height, width, _ = slot.media.pixels.shape
    return max(1, round(height * width / _CROP_PIXELS))
