"""The engine: continuous batching over text, images and sound, on one loaded model.

Three threads, which only pass messages: the coordinator (here) holds all state; the encoder turns
media into feature rows; the decoding loop turns token ids into tokens.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from functools import partial

from phicorpus.config import EngineConfig
from phicorpus.engine import attention
from phicorpus.engine.encode_queue import EncodeQueue
from phicorpus.engine.encoder import EncoderThread
from phicorpus.engine.encoder_cache import EncoderCache, Features, VirtualEmbedding, word_embedding
from phicorpus.engine.engine import BusyTime, Completion, EngineStats, Request
from phicorpus.engine.frontend import Frontend
from phicorpus.engine.library_loop import DecodeLoop, SamplingProcessor
from phicorpus.engine.memory import KV_SHARE
from phicorpus.engine.recovery import (
    MIN_HANG_S,
    Recovery,
    StallTimer,
    is_device_lost,
    lost_device_message,
)
from phicorpus.engine.registry import ENGINES
from phicorpus.engine.request_queue import TURN_FACTOR, RequestQueue
from phicorpus.engine.sampling import Sampler
from phicorpus.engine.scheduler import Scheduler
from phicorpus.engine.sequence import Sequence
from phicorpus.models.decoder import describe
from phicorpus.models.model import Model, Regime

log = logging.getLogger(__name__)


_POLL_S = 0.25
_STOP_TIMEOUT_S = 30.0


class ContinuousEngine:
    """The `Engine` protocol by continuous batching.

    The model's decoder belongs to the engine until `close`, which gives it back as it was.

    Args:
        model: Loaded, on its device.
        config: Sizes and limits.
        min_hang_s: No pass shorter than this is taken for a hang, however short `deadline_s` is.
    """

    capabilities = ENGINES["continuous"].capabilities

    def __init__(
        self, model: Model, config: EngineConfig, *, min_hang_s: float = MIN_HANG_S
    ) -> None:
        self._model = model
        self._config = config
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._post = self._inbox.put
        self._frontend = Frontend(
            model,
            config,
            kv_share=KV_SHARE,
            stats=EngineStats(extra={"kv_pages": 0, "feature_rows": 0, "restarts": 0}),
            enqueue=lambda sequence: self._post(partial(self._queue.add, sequence)),
            cancel=lambda sequence: self._post(partial(self._queue.cancel, sequence)),
        )
        self._busy = BusyTime()
        decoder = model.decoder
        self._words = word_embedding(decoder)
        self._attention = decoder.config._attn_implementation or "sdpa"
        rows = config.feature_rows
        self._embedding = VirtualEmbedding(self._words, rows)
        self._processor = SamplingProcessor(Sampler(model.banned_ids, decoder.device))
        self._cache = EncoderCache(
            num_rows=rows,
            first_id=self._words.num_embeddings,
            between_steps=self._between_steps,
        )
        attention.register()
        decoder.set_input_embeddings(self._embedding)
        decoder.set_attn_implementation(attention.NAME)
        self._recovery = Recovery(config)
        self._loop = self._start_loop()
        self._encoder = EncoderThread(
            encode=model.encode,
            write=self._embedding.write,
            done=lambda *medium: self._post(partial(self._on_encoded, *medium)),
            batch=config.encode_batch,
            device=decoder.device,
            busy=self._busy,
        )
        self._queue = RequestQueue(
            self._frontend,
            EncodeQueue(self._cache, self._encoder.put, page_size=config.page_size),
            Scheduler(
                num_pages=self._frontend.limits.num_pages,
                num_rows=config.max_requests,
                turn=TURN_FACTOR * config.max_requests,
            ),
        )
        self._running: dict[str, Sequence] = {}
        self._serials = itertools.count()
        self._rope_regime: Regime | None = None
        self._closing: str | None = None
        self._loop_failed = False
        self._stall = StallTimer()
        self._longest_pass_s = max(config.deadline_s, min_hang_s)
        self._thread = threading.Thread(target=self._run, name="phicorpus-engine", daemon=True)
        self._thread.start()
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
        stats.prefill_tokens = self._embedding.num_tokens - self._processor.num_decoded
        stats.busy_s, stats.loaded_s = self._busy.seconds()
        return stats

    def describe(self) -> Mapping[str, str]:
        """Return what it runs on; see `Engine.describe`."""
        return {"engine": "continuous", **describe(self._model.decoder), "graphs": "none"}

    def close(self) -> None:
        """End all threads, answer open requests with EngineDied, and give the decoder back."""
        atexit.unregister(self.close)
        self._post(partial(self._stop, "the engine is closed"))
        if threading.current_thread() is not self._thread:
            self._thread.join(3 * _STOP_TIMEOUT_S)

    # --- the coordinator's thread -----------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._closing is None:
                self._take_messages()
                for follow_up in (self._check_loop, self._start_sequences):
                    if self._closing is None:
                        follow_up()
        finally:
            self._end(self._closing or "the engine's coordinator failed; the log says why")

    def _take_messages(self) -> None:
        with contextlib.suppress(queue.Empty):
            is_busy = self._running or self._encoder.is_busy
            message = self._inbox.get(timeout=_POLL_S if is_busy else None)
            while True:
                message()
                message = self._inbox.get_nowait()

    def _stop(self, reason: str) -> None:
        self._closing = self._closing or reason

    def _on_encoded(self, features: Features, error: Exception | None) -> None:
        if error is not None and is_device_lost(error):
            self._stop(lost_device_message(error))
        else:
            self._queue.on_encoded(features, error)

    def _on_over(self, name: str, error: str | None) -> None:
        if error is not None:
            self._loop_failed |= name in self._running  # else told late, of a loop replaced since
            return
        sequence = self._running.pop(name, None)
        if sequence is not None:
            self._recovery.on_completion()
            self._queue.finish(sequence)

    def _start_sequences(self) -> None:
        """Start the sequences that may run now in the decoding loop."""
        for sequence in self._queue.schedule():
            request, regime = sequence.request, sequence.rope_regime
            name = f"{next(self._serials)}:{request.request_id}"
            self._running[name] = sequence
            if self._model.regime_length and regime != self._rope_regime:
                self._rope_regime = regime
                self._between_steps(partial(self._model.set_regime, regime))
            first = partial(self._post, partial(self._queue.scheduler.on_first_token, sequence))
            attempt = self._frontend.begin_attempt(sequence, first)
            ids = sequence.token_ids(self._cache.ids)
            self._loop.put(name, ids, request.max_new_tokens, attempt)

    def _between_steps(self, action: Callable[[], None]) -> None:
        try:
            self._loop.between_steps(action)
        except RuntimeError:
            if self._loop.is_alive and self._loop.fatal_error is None:
                raise
            self._loop_failed = True
            action()

    def _check_loop(self) -> None:
        """Replace a loop that died; give up on one that hangs, and on an encoder that hangs."""
        if self._loop_failed or (self._running and not self._loop.is_alive):
            self._recover()
        stalled_s = self._stall.stalled_s(self._embedding.num_tokens, busy=bool(self._running))
        if stalled_s > self._longest_pass_s:
            self._stop(f"the decoder hangs: no step in {self._longest_pass_s:g} s")
        if self._encoder.stalled_s() > self._longest_pass_s:
            self._stop(f"the encoder hangs: no batch of media in {self._longest_pass_s:g} s")

    def _recover(self) -> None:
        """Replace the dead loop, and run again the sequences that it had."""
        error = self._loop.fatal_error
        if error is not None and is_device_lost(error):
            self._stop(lost_device_message(error))
            return
        next_step = self._recovery.after(error)
        name = repr(error)
        fields = {"error": name, "next": next_step, "batch_tokens": self._recovery.batch_tokens}
        log.warning("decoding loop failed", extra=fields)
        if not self._loop.stop(timeout_s=_STOP_TIMEOUT_S):
            self._stop("the decoding loop does not end")
            return
        if next_step == "give up":
            self._stop(f"the decoder failed again and again: {name}")
            return
        scheduler = self._queue.scheduler
        for sequence in reversed(self._running.values()):
            scheduler.release(sequence)
            if sequence.is_over:
                self._queue.drop(sequence)
            elif next_step == "smaller":
                sequence.num_attempts -= 1  # this one does not count against it
                scheduler.add_first(sequence)
            elif sequence.num_attempts == 1:
                scheduler.add(sequence, suspect=True)
            else:
                self._queue.fail(sequence, f"the decoder failed on it twice: {name}")
                self._recovery.on_failed_alone()
        self._running.clear()
        self._loop_failed = False
        self._loop = self._start_loop()
        with self._frontend.counting() as stats:
            stats.extra["restarts"] += 1

    def _start_loop(self) -> DecodeLoop:
        return DecodeLoop(
            self._model.decoder,
            self._processor,
            self._config.model_copy(update={"max_batch_tokens": self._recovery.batch_tokens}),
            lambda name, error: self._post(partial(self._on_over, name, error)),
            self._busy,
        )

    def _end(self, reason: str) -> None:
        self._frontend.end(reason)
        ended = self._encoder.close(timeout_s=_STOP_TIMEOUT_S)
        if self._loop.stop(timeout_s=_STOP_TIMEOUT_S) and ended:
            self._model.decoder.set_attn_implementation(self._attention)
            self._model.decoder.set_input_embeddings(self._words)
        else:
            log.error("engine ended with a thread that does not", extra={"reason": reason})
