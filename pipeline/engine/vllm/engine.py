"""The engine on vLLM: what we do around it is what we do around our own decoding loop.

Two threads of ours: the coordinator (an event loop) holds all state, the encoder turns media into
feature rows. vLLM's processes turn prompts into tokens.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from pipeline.config import EngineConfig
from pipeline.engine.admission import Admission
from pipeline.engine.capabilities import VLLM
from pipeline.engine.encoder import EncoderThread
from pipeline.engine.engine import Completion, EngineStats, Request
from pipeline.engine.features import Features, FeatureTable, word_embedding
from pipeline.engine.intake import Intake
from pipeline.engine.job import Job
from pipeline.engine.reception import Reception
from pipeline.engine.vllm.rows import FeatureRows
from pipeline.engine.vllm.servers import Servers
from pipeline.errors import EngineDied, InferError, RequestRefused
from pipeline.models.model import Model

log = logging.getLogger(__name__)

BLOCK_TOKENS = 32  # vLLM's KV blocks are of a multiple of this on every device
IN_FLIGHT = 1.1  # times those that decode: so many more wait inside vLLM, so that none is awaited
_STOP_TIMEOUT_S = 60.0
_MIN_HANG_S = 120.0
_TURN_FACTOR = 2  # as in continuous.py
_LAST_ROW = 1 << 62  # rows are not named by ids here: they never run out


class VllmEngine:
    """The `Engine` protocol on vLLM.

    Takes the model's decoder apart: it is written to files that vLLM reads, and its memory is given
    free. The encoders stay here. A model with LongRoPE gets a second vLLM, with weights and a KV
    cache of its own, when the first request comes that needs the long factors.

    Args:
        model: Loaded, on its device.
        config: Sizes and limits; `page_size` is rounded up to a multiple of 32.

    Raises:
        ConfigError: this build of vLLM does not run on the model's device.
        EngineDied: vLLM does not start.
    """

    capabilities = VLLM

    def __init__(self, model: Model, config: EngineConfig) -> None:
        self._config = _in_blocks(config)
        self._reception = Reception(model, self._config, kv_share=1.0)
        self._rows = FeatureRows(config.feature_rows, word_embedding(model.decoder).weight)
        self._table = FeatureTable(num_rows=config.feature_rows, first_id=0, last_id=_LAST_ROW)
        self._encoder = EncoderThread(
            encode=model.encode,
            write=self._rows.write,
            done=lambda features, error: self._post(partial(self._on_encoded, features, error)),
            batch=config.encode_batch,
        )
        self._intake = Intake(self._table, self._encoder.put, page_size=self._config.page_size)
        self._admission: Admission[Job] = Admission(
            pages=self._reception.limits.pages,
            rows=math.ceil(IN_FLIGHT * config.max_requests),
            turn=_TURN_FACTOR * config.max_requests,
        )
        self._lock = threading.Lock()  # of the next three
        self._open: set[Job] = set()  # not answered yet
        self._ended: str | None = None
        self._stats = EngineStats(extra={"kv_pages": 0, "feature_rows": 0, "servers": 0})
        self._serials = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers = Servers(model, self._reception.limits, self._config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="phicorpus-vllm", daemon=True
        )
        self._thread.start()
        atexit.register(self.close)
        try:
            asyncio.run_coroutine_threadsafe(self._servers.get("short"), self._loop).result()
        except BaseException:
            self.close()
            raise

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
            return replace(self._stats, extra=dict(self._stats.extra))

    def close(self) -> None:
        """End vLLM and all threads, and answer who waits with EngineDied."""
        atexit.unregister(self.close)
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_STOP_TIMEOUT_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_STOP_TIMEOUT_S)
            self._loop.close()
        self._encoder.close(timeout_s=_STOP_TIMEOUT_S)

    def _post(self, message: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nobody to tell
            self._loop.call_soon_threadsafe(message)

    # --- the coordinator's thread -----------------------------------------------------------------

    def _on_arrival(self, job: Job) -> None:
        (self._intake if job.slots else self._admission).add(job)
        self._advance()

    def _on_encoded(self, features: Features, error: Exception | None) -> None:
        for job in self._intake.on_encoded(features, failed=error is not None):
            if error is None:
                self._admission.add(job)
            else:
                self._fail(job, InferError(f"{job.request.request_id}: cannot encode: {error!r}"))
        self._advance()

    def _on_cancel(self, job: Job) -> None:
        if job in self._admission.running:
            if job.answer is not None:
                job.answer.cancel()  # ends at its next token
        elif self._intake.remove(job) or self._admission.remove(job):
            self._fail(job, InferError("cancelled"))
        self._advance()

    def _on_first_token(self, job: Job) -> None:
        self._admission.on_first_token(job)
        self._loop.call_soon(self._advance)

    def _advance(self) -> None:
        if self._ended is None:
            for job in self._intake.place(self._table.restart):
                self._admission.add(job)
            for job in self._admission.take():
                task = self._loop.create_task(self._answer(job))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._publish()

    async def _answer(self, job: Job) -> None:
        """Run one request from its admission to its end."""
        failure = None
        try:
            await self._follow(job)
            answer = job.answer
            if answer is None or (answer.reason is None and answer.failure is None):
                failure = InferError(f"{job.request.request_id}: vLLM ended it early")
            elif answer.failure is not None:
                failure = InferError(f"{job.request.request_id}: {answer.failure}")
        except InferError as error:
            failure = error
        except EngineDied as error:
            self._die(str(error))
            return
        self._admission.release(job)
        if failure is None:
            self._complete(job)
        else:
            self._fail(job, failure)
        self._advance()

    async def _follow(self, job: Job) -> None:
        """Watch an answer grow, and end it where it is over.

        Raises:
            InferError: vLLM failed on it, or the vLLM that it needs does not start.
            EngineDied: vLLM died, or hangs.
        """
        server = await self._servers.get(job.regime)
        attempt = self._reception.attempt(job, partial(self._on_first_token, job))
        name = f"{next(self._serials)}:{job.request.request_id}"
        longest_s = max(self._config.deadline_s, _MIN_HANG_S)
        steps = server.answer(name, job.request, self._rows.prompt(job))
        try:
            async with asyncio.timeout(longest_s) as hanging, aclosing(steps):
                async for step in steps:
                    hanging.reschedule(self._loop.time() + longest_s)
                    self._count_prefill(job, step.cached_tokens)
                    if any(attempt.on_token(token, logprob) for token, logprob in step.tokens):
                        return
        except TimeoutError as error:
            raise EngineDied(f"vLLM hangs: no token in {longest_s:g} s") from error

    def _complete(self, job: Job) -> None:
        if job.answer is None:
            raise TypeError(f"{job.request.request_id} is complete and has no answer")
        completion = job.answer.completion(prompt_tokens=job.num_tokens, regime=job.regime)
        self._intake.release(job)
        with self._lock:
            self._open.discard(job)
            self._stats.num_completed += 1
            self._stats.prompt_tokens += job.num_tokens
            self._stats.completion_tokens += len(completion.token_ids)
        with contextlib.suppress(InvalidStateError):  # the caller may have left
            job.future.set_result(completion)

    def _count_prefill(self, job: Job, cached_tokens: int) -> None:
        if job.answer is not None and not job.answer.token_ids:  # its first step
            with self._lock:
                self._stats.prefill_tokens += job.num_tokens - cached_tokens

    def _fail(self, job: Job, error: InferError | EngineDied) -> None:
        """Answer a job that is nowhere any more with an error."""
        self._intake.release(job)
        with self._lock:
            self._open.discard(job)
            self._stats.num_failed += 1
        with contextlib.suppress(InvalidStateError):  # the caller may have left
            job.future.set_exception(error)

    def _publish(self) -> None:
        with self._lock:
            if self._ended is not None:
                return
            stats = self._stats
            stats.num_running = len(self._admission.running)
            stats.num_waiting = len(self._intake) + self._admission.num_waiting
            stats.media_encoded = self._intake.num_encoded
            stats.media_reused = self._intake.num_reused
            stats.extra["kv_pages"] = self._admission.pages_taken
            stats.extra["feature_rows"] = self._table.num_held
            stats.extra["servers"] = len(self._servers)

    def _die(self, reason: str) -> None:
        """Answer everybody with the news."""
        with self._lock:
            if self._ended is not None:
                return
            self._ended = reason
            self._stats.num_running = self._stats.num_waiting = 0
            jobs = list(self._open)
        log.info("the engine ends", extra={"reason": reason})
        self._servers.abandon()
        for job in jobs:
            self._fail(job, EngineDied(reason))

    async def _end(self) -> None:
        self._die("the engine is closed")
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._servers.close()
        await self._loop.shutdown_default_executor()


def _in_blocks(config: EngineConfig) -> EngineConfig:
    """Give the config with pages that vLLM takes as KV blocks."""
    size = math.ceil(config.page_size / BLOCK_TOKENS) * BLOCK_TOKENS
    return config.model_copy(update={"page_size": size})
