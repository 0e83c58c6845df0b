"""The engine: continuous batching over text, images and sound, on one loaded model.

Three threads, which only pass messages: the coordinator (here) holds all state; the encoder turns
media into feature rows; the decoding loop turns token ids into tokens.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from dataclasses import replace
from functools import partial

from pipeline.config import EngineConfig
from pipeline.engine import attention
from pipeline.engine.admission import Admission
from pipeline.engine.capabilities import CONTINUOUS
from pipeline.engine.encoder import EncoderThread
from pipeline.engine.engine import Completion, EngineStats, Regime, Request
from pipeline.engine.features import Features, FeatureTable, VirtualEmbedding, word_embedding
from pipeline.engine.hooks import DecodeLoop, SteeringProcessor
from pipeline.engine.intake import Intake
from pipeline.engine.job import Job
from pipeline.engine.memory import KV_SHARE
from pipeline.engine.reception import Reception
from pipeline.engine.recovery import Pulse, Recovery
from pipeline.engine.sampling import Steering
from pipeline.errors import EngineDied, InferError, RequestRefused
from pipeline.models.model import Model

log = logging.getLogger(__name__)


_POLL_S = 0.25
_STOP_TIMEOUT_S = 30.0
_TURN_FACTOR = 2  # times `max_requests` may overtake the other regime


class ContinuousEngine:
    """The `Engine` protocol by continuous batching.

    The model's decoder belongs to the engine until `close`, which gives it back as it was.

    Args:
        model: Loaded, on its device.
        config: Sizes and limits.
    """

    capabilities = CONTINUOUS

    def __init__(self, model: Model, config: EngineConfig) -> None:
        self._model = model
        self._config = config
        self._reception = Reception(model, config, kv_share=KV_SHARE)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._post = self._inbox.put
        self._lock = threading.Lock()  # of the next three
        self._open: set[Job] = set()  # not answered yet
        self._ended: str | None = None
        self._stats = EngineStats(extra={"kv_pages": 0, "feature_rows": 0, "restarts": 0})
        decoder = model.decoder
        self._words = word_embedding(decoder)
        self._attention = decoder.config._attn_implementation or "sdpa"
        rows = config.feature_rows
        self._embedding = VirtualEmbedding(self._words, rows)
        self._processor = SteeringProcessor(Steering(model.banned_ids, decoder.device))
        self._table = FeatureTable(num_rows=rows, first_id=self._words.num_embeddings)
        attention.register()
        decoder.set_input_embeddings(self._embedding)
        decoder.set_attn_implementation(attention.NAME)
        self._recovery = Recovery(config)
        self._loop = self._start_loop()
        self._encoder = EncoderThread(
            encode=model.encode,
            write=self._embedding.write,
            done=lambda features, error: self._post(partial(self._on_encoded, features, error)),
            batch=config.encode_batch,
        )
        self._intake = Intake(self._table, self._encoder.put, page_size=config.page_size)
        self._admission: Admission[Job] = Admission(
            pages=self._reception.limits.pages,
            rows=config.max_requests,
            turn=_TURN_FACTOR * config.max_requests,
        )
        self._running: dict[str, Job] = {}
        self._serials = itertools.count()
        self._regime: Regime | None = None
        self._closing: str | None = None
        self._loop_failed = False
        self._pulse = Pulse()
        self._thread = threading.Thread(target=self._run, name="phicorpus-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    async def submit(self, request: Request) -> Completion:
        """Answer one request; see `Engine.submit`. From any event loop, of any thread."""
        try:
            job = self._reception.admit(request)
        except RequestRefused:
            with self._lock:
                self._stats.num_requests += 1
                self._stats.num_failed += 1
            raise
        with self._lock:
            if self._ended is not None:
                raise EngineDied(self._ended)
            self._stats.num_requests += 1
            self._open.add(job)
        self._post(partial(self._on_arrival, job))
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            self._post(partial(self._on_cancel, job))
            raise

    def stats(self) -> EngineStats:
        """Counters and gauges."""
        with self._lock:
            stats = replace(self._stats, extra=dict(self._stats.extra))
        stats.prefill_tokens = self._embedding.num_tokens - self._processor.num_decoded
        return stats

    def close(self) -> None:
        """End all threads, answer who waits with EngineDied, and give the decoder back."""
        atexit.unregister(self.close)
        self._post(partial(self._stop, "the engine is closed"))
        if threading.current_thread() is not self._thread:
            self._thread.join(3 * _STOP_TIMEOUT_S)

    # --- the coordinator's thread -----------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._closing is None:
                self._take_messages()
                self._check_loop()
                if self._closing is None:
                    self._advance()
        finally:
            self._end(self._closing or "the engine's coordinator failed; the log says why")

    def _take_messages(self) -> None:
        with contextlib.suppress(queue.Empty):
            message = self._inbox.get(timeout=_POLL_S if self._running else None)
            while True:
                message()
                message = self._inbox.get_nowait()

    def _stop(self, reason: str) -> None:
        self._closing = self._closing or reason

    def _on_arrival(self, job: Job) -> None:
        (self._intake if job.slots else self._admission).add(job)

    def _on_encoded(self, features: Features, error: Exception | None) -> None:
        for job in self._intake.on_encoded(features, failed=error is not None):
            if error is None:
                self._admission.add(job)
            else:
                self._fail_request(job, f"cannot encode: {error!r}")

    def _on_cancel(self, job: Job) -> None:
        if job in self._admission.running:
            if job.answer is not None:
                job.answer.cancel()  # ends at its next token
        elif self._intake.remove(job) or self._admission.remove(job):
            self._fail(job, InferError("cancelled"))

    def _on_over(self, name: str, error: str | None) -> None:
        if error is not None:
            self._loop_failed |= name in self._running  # else told late, of a loop replaced since
            return
        job = self._running.pop(name, None)
        if job is None or job.answer is None:
            return
        self._recovery.on_completion()
        self._admission.release(job)
        if job.answer.failure is not None:
            self._fail_request(job, job.answer.failure)
            return
        completion = job.answer.completion(prompt_tokens=job.num_tokens, regime=job.regime)
        self._intake.release(job)
        with self._lock:
            self._open.discard(job)
            self._stats.num_completed += 1
            self._stats.prompt_tokens += job.num_tokens
            self._stats.completion_tokens += len(completion.token_ids)
        self._publish()
        with contextlib.suppress(InvalidStateError):  # the caller may have left
            job.future.set_result(completion)

    def _advance(self) -> None:
        for job in self._intake.place(lambda: self._between_steps(self._table.restart)):
            self._admission.add(job)
        for job in self._admission.take():
            name = f"{next(self._serials)}:{job.request.request_id}"
            self._running[name] = job
            if self._model.regime_length and job.regime != self._regime:
                self._regime = job.regime
                self._between_steps(partial(self._model.set_regime, job.regime))
            first = partial(self._post, partial(self._admission.on_first_token, job))
            attempt = self._reception.attempt(job, first)
            ids, new = job.token_ids(self._table.ids), job.request.max_new_tokens
            self._loop.put(name, ids, new, attempt)
        self._publish()

    def _between_steps(self, action: Callable[[], None]) -> None:
        try:
            self._loop.between_steps(action)
        except RuntimeError:
            if self._loop.is_alive:
                raise
            self._loop_failed = True
            action()

    def _check_loop(self) -> None:
        """Replace a loop that died; give up on one that hangs."""
        if self._loop_failed or (self._running and not self._loop.is_alive):
            self._recover()
        silent_s = self._pulse.silent_s(self._embedding.num_tokens, busy=bool(self._running))
        if silent_s > self._config.deadline_s:
            self._stop(f"the decoder hangs: no step in engine.deadline_s {self._config.deadline_s}")

    def _recover(self) -> None:
        """Replace the dead loop, and run again what it had."""
        verdict = self._recovery.after(self._loop.fatal_error)
        name = repr(self._loop.fatal_error)
        fields = {"error": name, "next": verdict, "batch_tokens": self._recovery.batch_tokens}
        log.warning("decoding loop failed", extra=fields)
        if not self._loop.stop(timeout_s=_STOP_TIMEOUT_S):
            self._stop("the decoding loop does not end")
            return
        if verdict == "give up":
            self._stop(f"the decoder failed again and again: {name}")
            return
        for job in reversed(self._running.values()):
            self._admission.release(job)
            if job.future.done():
                self._fail_request(job, "cancelled")
            elif verdict == "smaller":
                job.attempts -= 1  # no fault of its own
                self._admission.add_first(job)
            elif job.attempts == 1:
                self._admission.add(job, suspect=True)
            else:
                self._fail_request(job, f"the decoder failed on it twice: {name}")
                self._recovery.on_culprit()
        self._running.clear()
        self._loop_failed = False
        self._loop = self._start_loop()
        self._stats.extra["restarts"] += 1

    def _start_loop(self) -> DecodeLoop:
        return DecodeLoop(
            self._model.decoder,
            self._processor,
            self._config.model_copy(update={"max_batch_tokens": self._recovery.batch_tokens}),
            lambda name, error: self._post(partial(self._on_over, name, error)),
        )

    def _fail_request(self, job: Job, why: str) -> None:
        self._fail(job, InferError(f"{job.request.request_id}: {why}"))

    def _fail(self, job: Job, error: InferError | EngineDied) -> None:
        """Answer a job that is nowhere any more with an error."""
        self._intake.release(job)
        with self._lock:
            self._open.discard(job)
            self._stats.num_failed += 1
        self._publish()
        with contextlib.suppress(InvalidStateError):  # the caller may have left
            job.future.set_exception(error)

    def _publish(self) -> None:
        with self._lock:
            stats = self._stats
            stats.num_running = len(self._running)
            stats.num_waiting = len(self._intake) + self._admission.num_waiting
            stats.media_encoded = self._intake.num_encoded
            stats.media_reused = self._intake.num_reused
            stats.extra["kv_pages"] = self._admission.pages_taken
            stats.extra["feature_rows"] = self._table.num_held

    def _end(self, reason: str) -> None:
        with self._lock:
            self._ended = reason
            jobs = list(self._open)
        for job in jobs:
            self._fail(job, EngineDied(reason))
        with self._lock:
            self._stats.num_running = self._stats.num_waiting = 0
        ended = self._encoder.close(timeout_s=_STOP_TIMEOUT_S)
        if self._loop.stop(timeout_s=_STOP_TIMEOUT_S) and ended:
            self._model.decoder.set_attn_implementation(self._attention)
            self._model.decoder.set_input_embeddings(self._words)
        else:
            log.error("engine ended with a thread that does not", extra={"reason": reason})
