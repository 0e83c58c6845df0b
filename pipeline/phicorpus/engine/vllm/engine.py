"""The engine on vLLM: our frontend and encoders before it, its own scheduler and decoder.

One thread of ours, an event loop, holds all state; another encodes media. vLLM's processes turn
prompts into tokens.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import logging
import math
import threading
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from phicorpus.config import EngineConfig
from phicorpus.engine.encoder_cache import EncoderCache
from phicorpus.engine.engine import BusyTime, Completion, EngineStats, Request
from phicorpus.engine.frontend import Frontend
from phicorpus.engine.recovery import MIN_HANG_S, StallTimer
from phicorpus.engine.registry import ENGINES
from phicorpus.engine.sequence import Sequence
from phicorpus.engine.vllm.media_rows import MediaEncoder, Prompt, on_cpu, prompt
from phicorpus.engine.vllm.server import Servers
from phicorpus.errors import EngineDied, InferError
from phicorpus.models.model import Model

log = logging.getLogger(__name__)

BLOCK_TOKENS = 32  # vLLM's KV blocks are of a multiple of this on every device
IN_FLIGHT = 1.1  # times those that decode: some wait inside vLLM, so that it never waits for one
_STOP_TIMEOUT_S = 60.0
_WATCH_S = 1.0


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

    capabilities = ENGINES["vllm"].capabilities

    def __init__(self, model: Model, config: EngineConfig) -> None:
        self._config = _in_blocks(config)
        self._frontend = Frontend(
            model,
            self._config,
            stats=EngineStats(),
            enqueue=lambda sequence: self._post(partial(self._start, sequence)),
            cancel=self._cancel,
        )
        self._busy = BusyTime()
        self._cache = EncoderCache(
            on_cpu(model.encode), num_rows=config.feature_rows, batch=config.encode_batch
        )
        self._encoder = MediaEncoder(self._cache, self._busy)
        self._places = asyncio.Semaphore(math.ceil(IN_FLIGHT * config.max_requests))
        self._serials = itertools.count()
        self._tasks: dict[Sequence, asyncio.Task[None]] = {}
        self._stall, self._encoder_stall = StallTimer(), StallTimer()
        self._num_steps = 0
        self._following = 0
        self._closing = threading.Lock()
        self._servers = Servers(model, self._frontend.limits, self._config)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._on_defect)
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
        self._loop.call_soon_threadsafe(self._watch)

    async def submit(self, request: Request) -> Completion:
        """Answer one request; see `Engine.submit`. From any event loop, of any thread."""
        return await self._frontend.submit(request)

    def cancel(self, request_id: str) -> bool:
        """End requests with what they have; see `Engine.cancel`."""
        return self._frontend.cancel(request_id)

    def stats(self) -> EngineStats:
        """Return counters and gauges."""
        stats = self._frontend.stats()
        if not self._frontend.has_ended:
            stats.num_running = self._following
            stats.num_waiting = max(0, len(self._tasks) - self._following)
        stats.media_encoded = self._cache.num_encoded
        stats.media_reused = max(0, self._encoder.num_media - self._cache.num_encoded)
        stats.extra |= {"feature_rows": self._cache.num_held, "servers": len(self._servers)}
        stats.busy_s, stats.loaded_s = self._busy.seconds()
        return stats

    def close(self) -> None:
        """End vLLM and all threads, and answer open requests with EngineDied."""
        atexit.unregister(self.close)
        with self._closing:
            if self._thread.is_alive():
                ending = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
                try:
                    ending.result(_STOP_TIMEOUT_S)
                except TimeoutError:
                    log.warning("vLLM does not end", extra={"waited_s": _STOP_TIMEOUT_S})
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join(_STOP_TIMEOUT_S)
                self._loop.close()
            self._encoder.close()

    def _post(self, message: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, all are answered
            self._loop.call_soon_threadsafe(message)

    def _cancel(self, sequence: Sequence) -> None:
        """End a sequence early, from any thread: at its next token if it runs, else now."""
        if sequence.attempt is not None:
            sequence.attempt.cancel()
        else:
            self._frontend.complete(sequence)
            self._post(partial(self._leave, sequence))

    # --- the coordinator's thread -----------------------------------------------------------------

    def _start(self, sequence: Sequence) -> None:
        """Begin to answer a sequence."""
        if not self._frontend.has_ended and not sequence.is_over:
            task = self._tasks[sequence] = self._loop.create_task(self._answer(sequence))
            task.add_done_callback(partial(self._on_end, sequence))

    def _leave(self, sequence: Sequence) -> None:
        """End the task of a sequence that is answered, and waits."""
        task = self._tasks.get(sequence)
        if task is not None and sequence.attempt is None:
            task.cancel()

    def _on_end(self, sequence: Sequence, task: asyncio.Task[None]) -> None:
        del self._tasks[sequence]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._die(str(error) if isinstance(error, EngineDied) else f"it failed: {error!r}")

    def _on_defect(self, _loop: object, context: Mapping[str, Any]) -> None:
        """End the engine where an error was raised that no caller would get."""
        log.error("the engine's coordinator failed", exc_info=context.get("exception"))
        self._die(f"the engine's coordinator failed: {context.get('exception')!r}")

    async def _answer(self, sequence: Sequence) -> None:
        """Run one sequence to its end.

        Raises:
            EngineDied: vLLM died, or the encoders' device.
        """
        try:
            async with self._places:
                async with self._encoder.encoded(sequence) as media:
                    asked = prompt(sequence, media)
                await self._follow(sequence, asked)
        except InferError as error:
            name = sequence.request.request_id
            self._frontend.fail(sequence, InferError(f"{name}: {error}"))
        else:
            self._frontend.complete(sequence)

    async def _follow(self, sequence: Sequence, asked: Prompt) -> None:
        """Pass an answer's tokens on, and end it where it is over.

        Raises:
            InferError: vLLM failed on it, or the vLLM that it needs does not start.
            EngineDied: vLLM died.
        """
        server = await self._servers.get(sequence.rope_regime)
        if sequence.is_over:  # since before it started
            return
        attempt = self._frontend.begin_attempt(sequence)
        name = f"{next(self._serials)}:{sequence.request.request_id}"
        self._following += 1
        try:
            steps = server.answer(name, sequence.request, asked)
            with self._busy:
                async with aclosing(steps):
                    async for step in steps:
                        self._num_steps += 1
                        self._count_prefill(sequence, step.cached_tokens)
                        if any(attempt.on_token(token, logprob) for token, logprob in step.tokens):
                            return
        finally:
            self._following -= 1

    def _count_prefill(self, sequence: Sequence, cached_tokens: int) -> None:
        if sequence.attempt is not None and not sequence.attempt.token_ids:  # its first step
            with self._frontend.counting() as stats:
                stats.prefill_tokens += sequence.num_tokens - cached_tokens

    def _watch(self) -> None:
        """Check now and then that neither vLLM nor the encoder hangs."""
        longest_s = max(self._config.deadline_s, MIN_HANG_S)
        if self._stall.stalled_s(self._num_steps, busy=self._following > 0) > longest_s:
            self._die(f"vLLM hangs: no token in {longest_s:g} s")
        encoder = self._encoder
        stalled_s = self._encoder_stall.stalled_s(encoder.num_batches, busy=encoder.is_encoding)
        if stalled_s > longest_s:
            self._die(f"the encoder hangs: no batch of media in {longest_s:g} s")
        if not self._frontend.has_ended:
            self._loop.call_later(_WATCH_S, self._watch)

    def _die(self, reason: str) -> None:
        """Answer open requests with EngineDied."""
        if not self._frontend.has_ended:
            log.info("the engine ends", extra={"reason": reason})
            self._frontend.end(reason)
            self._servers.abandon()

    async def _end(self) -> None:
        self._die("the engine is closed")
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._servers.close()
        await self._loop.shutdown_default_executor()


def _in_blocks(config: EngineConfig) -> EngineConfig:
    """Return the config with pages that vLLM takes as KV blocks."""
    size = math.ceil(config.page_size / BLOCK_TOKENS) * BLOCK_TOKENS
    return config.model_copy(update={"page_size": size})
