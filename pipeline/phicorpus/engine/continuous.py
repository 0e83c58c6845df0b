"""The engine: continuous batching over text, images and sound, on one loaded model.

One thread does it all, step after step: it takes new requests, schedules, encodes media, runs the
decoder, chooses tokens, and answers. Another only watches that no step hangs.
"""

from __future__ import annotations

import atexit
import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch

from phicorpus.config import EngineConfig
from phicorpus.engine.cuda_graphs import Graph
from phicorpus.engine.encoder_cache import EncoderCache
from phicorpus.engine.engine import BusyTime, Completion, EngineStats, Request
from phicorpus.engine.frontend import Frontend
from phicorpus.engine.kv_cache import PagePool
from phicorpus.engine.model_runner import ModelRunner
from phicorpus.engine.recovery import (
    MIN_HANG_S,
    Recovery,
    StallTimer,
    is_device_lost,
    lost_device_message,
)
from phicorpus.engine.registry import ENGINES
from phicorpus.engine.sampling import Sampler
from phicorpus.engine.scheduler import Scheduler
from phicorpus.engine.sequence import Sequence
from phicorpus.errors import InferError
from phicorpus.models.model import Model

log = logging.getLogger(__name__)

_WATCH_S = 0.1
_STOP_TIMEOUT_S = 90.0

Part = Literal["decoder", "encoder"]
_NOTHING_DONE: dict[Part, str] = {"decoder": "no step", "encoder": "no batch of media"}


class ContinuousEngine:
    """The `Engine` protocol by continuous batching.

    The model's decoder belongs to the engine until `close`, which gives it back as it was.

    Args:
        model: Loaded, on its device.
        config: Sizes and limits.
        attention: As `model.attention` of a job's config.
        graphs: Makes CUDA graphs; None: CUDA's own where they can be used.
        min_hang_s: No pass shorter than this is taken for a hang, however short `deadline_s` is.

    Raises:
        ConfigError: the attention that is asked for does not run here.
    """

    capabilities = ENGINES["continuous"].capabilities

    def __init__(
        self,
        model: Model,
        config: EngineConfig,
        *,
        attention: str = "auto",
        graphs: Callable[[], Graph] | None = None,
        min_hang_s: float = MIN_HANG_S,
    ) -> None:
        self._frontend = Frontend(
            model,
            config,
            stats=EngineStats(extra={"restarts": 0, "steps": 0}),
            enqueue=self._enqueue,
            cancel=self._cancel,
        )
        self._pool = PagePool(config.kv_cache_tokens // config.page_size)
        self._encoder = EncoderCache(
            model.encode, num_rows=config.feature_rows, batch=config.encode_batch
        )
        self._scheduler = Scheduler(
            self._pool,
            self._encoder,
            page_size=config.page_size,
            max_requests=config.max_requests,
            batch_tokens=config.max_batch_tokens,
            begin=self._frontend.begin_attempt,
        )
        self._runner = ModelRunner(model, config, attention=attention, graphs=graphs)
        self._sampler = Sampler(model.banned_ids, model.decoder.device)
        self._recovery = Recovery(config)
        self._arrived: deque[Sequence] = deque()
        self._wake = threading.Event()
        self._has_cancelled = False
        self._closing: str | None = None
        self._busy = BusyTime()
        self._part: Part = "decoder"  # that computes, or did
        self._is_computing = False
        self._num_moves = 0  # parts begun and ended
        self._longest_s = max(config.deadline_s, min_hang_s)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="phicorpus-engine", daemon=True)
        self._thread.start()
        self._watchdog = threading.Thread(target=self._watch, name="phicorpus-watch", daemon=True)
        self._watchdog.start()
        atexit.register(self.close)

    async def submit(self, request: Request) -> Completion:
        """Answer one request; see `Engine.submit`. From any event loop, of any thread."""
        return await self._frontend.submit(request)

    def cancel(self, request_id: str) -> bool:
        """End requests with what they have; see `Engine.cancel`."""
        return self._frontend.cancel(request_id)

    def stats(self) -> EngineStats:
        """Return counters and gauges."""
        stats = self._frontend.stats()
        scheduler = self._scheduler
        stats.prefill_tokens = scheduler.num_prefilled
        stats.media_encoded = self._encoder.num_encoded
        stats.media_reused = max(0, scheduler.num_media - self._encoder.num_encoded)
        stats.extra |= {"kv_pages": self._pool.num_held, "feature_rows": self._encoder.num_held}
        if not self._frontend.has_ended:
            stats.num_running = len(scheduler.running)
            stats.num_waiting = len(self._arrived) + scheduler.num_waiting
        stats.busy_s, stats.loaded_s = self._busy.seconds()
        return stats

    def describe(self) -> dict[str, str]:
        """Return in words what it runs on; see `Engine.describe`."""
        return {"engine": "continuous", **self._runner.describe()}

    def close(self) -> None:
        """End the threads, answer open requests with EngineDied, and give the decoder back."""
        atexit.unregister(self.close)
        self._stop("the engine is closed")
        if threading.current_thread() is not self._thread:
            self._thread.join(_STOP_TIMEOUT_S)
            self._watchdog.join(_STOP_TIMEOUT_S)
        if self._thread.is_alive():
            log.error(
                "the engine ended with a thread that does not", extra={"reason": self._closing}
            )

    # --- any thread -------------------------------------------------------------------------------

    def _enqueue(self, sequence: Sequence) -> None:
        self._arrived.append(sequence)
        self._wake.set()

    def _cancel(self, sequence: Sequence) -> None:
        """End a sequence early: at its next token if it runs, else now."""
        if sequence.attempt is not None:
            sequence.attempt.cancel()
        else:
            self._frontend.complete(sequence)
        self._has_cancelled = True
        self._wake.set()

    def _stop(self, reason: str) -> None:
        self._closing = self._closing or reason
        self._wake.set()

    # --- the engine's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._closing is None:
                self._receive()
                try:
                    self._step()
                except Exception as error:  # noqa: BLE001 a decoder may raise anything
                    traceback.clear_frames(error.__traceback__)  # they hold the step's memory
                    self._recover(error)
        finally:
            self._over.set()
            self._frontend.end(self._closing or "the engine's thread failed; the log says why")
            self._scheduler.stop_all()
            self._runner.release()

    def _receive(self) -> None:
        """Take what has arrived; wait for it where there is nothing to do."""
        if not self._scheduler.running and not self._scheduler.num_waiting:
            self._wake.wait()
        self._wake.clear()
        while self._arrived:
            self._scheduler.add(self._arrived[0])
            self._arrived.popleft()  # behind `add`, so that it is counted all the time
        if self._has_cancelled:
            self._has_cancelled = False
            for sequence in self._scheduler.remove_over():
                self._frontend.complete(sequence)

    def _step(self) -> None:
        """Schedule, encode, compute, choose tokens, and answer what is over."""
        batch = self._scheduler.schedule()
        has_encoded = self._encoder.has_pending
        if has_encoded:
            self._encode()
            batch = self._scheduler.schedule()  # with those that waited for it
        if self._closing is not None:
            return
        if batch:
            self._decode(batch)
        elif not has_encoded and self._scheduler.num_waiting:
            raise RuntimeError("no request that waits can be scheduled")

    def _encode(self) -> None:
        """Encode the next batch of media; the requests of those that fail get an error."""
        with self._computing("encoder"):
            media = self._encoder.encode_next()
        failed = [medium for medium in media if medium.error is not None]
        for medium in failed:
            if medium.error is not None and is_device_lost(medium.error):
                self._stop(lost_device_message(medium.error))
                return
        for sequence, medium in self._scheduler.remove_failed(failed):
            why = f"{sequence.request.request_id}: cannot encode: {medium.error!r}"
            self._frontend.fail(sequence, InferError(why))

    def _decode(self, batch: list[Sequence]) -> None:
        """Compute a step's tokens; those that are asked for one get the next."""
        asked = [
            (sequence, sequence.attempt)
            for sequence in batch
            if sequence.is_asked and sequence.attempt is not None
        ]
        with self._computing("decoder"):
            scores = self._runner.forward(batch)
            states = [attempt.sampling for _, attempt in asked]
            scores, logprobs = self._sampler.choose(scores, states)
            # In one copy to the host; float32 holds every token id.
            tokens, logprobs = torch.stack((scores.argmax(-1).float(), logprobs)).tolist()
        self._scheduler.advance(batch)
        with self._frontend.counting() as stats:
            stats.extra["steps"] += 1
        for (sequence, attempt), token, logprob in zip(asked, tokens, logprobs, strict=True):
            sequence.last_id = int(token)
            if attempt.on_token(sequence.last_id, logprob):
                self._recovery.on_completion()
                if attempt.failure is not None:  # such as nan, which would be everybody's
                    self._scheduler.forget(sequence)
                self._scheduler.release(sequence)
                self._frontend.complete(sequence)

    def _recover(self, error: Exception) -> None:
        """Drop the step that failed, and run again the sequences that it had."""
        if is_device_lost(error):
            self._stop(lost_device_message(error))
            return
        next_step = self._recovery.after(error)
        name = repr(error)
        fields = {"error": name, "next": next_step, "batch_tokens": self._recovery.batch_tokens}
        log.warning("a step failed", extra=fields)
        stopped = self._scheduler.stop_all()
        if next_step == "give up" and not self._runs_a_probe():
            self._stop(f"the decoder failed again and again: {name}")
            return
        again: list[Sequence] = []
        for sequence in stopped:
            if sequence.is_over:
                self._frontend.complete(sequence)
            elif next_step == "smaller":
                sequence.num_attempts -= 1  # this one does not count against it
                if sequence.num_attempts:
                    self._scheduler.add(sequence, suspect=True)  # as it was
                else:
                    again.append(sequence)
            elif sequence.num_attempts == 1:
                self._scheduler.add(sequence, suspect=True)
            else:
                why = f"{sequence.request.request_id}: the decoder failed on it twice: {name}"
                self._frontend.fail(sequence, InferError(why))
                self._recovery.on_failed_alone()
        self._scheduler.add_first(again)
        self._scheduler.batch_tokens = self._recovery.batch_tokens
        with self._frontend.counting() as stats:
            stats.extra["restarts"] += 1

    def _runs_a_probe(self) -> bool:
        """Check that the decoder computes a token of its own: then the requests are to blame."""
        probe = self._frontend.probe()
        pages = self._pool.take([], 1)
        if pages is None:
            return False
        probe.pages, probe.num_new = np.array(pages, np.int64), 1
        try:
            with self._computing("decoder"):
                is_right = bool(self._runner.forward([probe]).isfinite().any())
        except Exception as error:  # noqa: BLE001 a decoder may raise anything
            traceback.clear_frames(error.__traceback__)
            return False
        finally:
            self._pool.release(pages)
        self._recovery.on_completion()
        return is_right

    @contextmanager
    def _computing(self, part: Part) -> Iterator[None]:
        """Count as busy, and let the watchdog see what computes."""
        self._part = part
        self._num_moves += 1
        self._is_computing = True
        try:
            with self._busy:
                yield
        finally:
            self._is_computing = False
            self._num_moves += 1

    # --- the watchdog's thread --------------------------------------------------------------------

    def _watch(self) -> None:
        """End the engine when a pass of the decoder or the encoder does not end."""
        timer = StallTimer()
        while not self._over.wait(_WATCH_S):
            stalled_s = timer.stalled_s(self._num_moves, busy=self._is_computing)
            if stalled_s > self._longest_s:
                done = _NOTHING_DONE[self._part]
                self._stop(f"the {self._part} hangs: {done} in {self._longest_s:g} s")
                self._frontend.end(self._closing or "")
                return
