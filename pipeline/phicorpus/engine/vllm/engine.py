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
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from phicorpus.config import EngineConfig
from phicorpus.engine.busy_time import BusyTime
from phicorpus.engine.capabilities import VLLM
from phicorpus.engine.encode_queue import Intake
from phicorpus.engine.encoder import EncoderThread
from phicorpus.engine.encoder_cache import Features, FeatureTable, word_embedding
from phicorpus.engine.engine import Completion, EngineStats, Request
from phicorpus.engine.frontend import Reception
from phicorpus.engine.open_requests import Callers
from phicorpus.engine.recovery import MIN_HANG_S, Pulse, is_device_lost, news_of_lost_device
from phicorpus.engine.request_queue import TURN_FACTOR, Lobby
from phicorpus.engine.scheduler import Admission
from phicorpus.engine.sequence import Job
from phicorpus.engine.vllm.media_rows import FeatureRows
from phicorpus.engine.vllm.servers import Servers
from phicorpus.errors import EngineDied, InferError
from phicorpus.models.model import Model

log = logging.getLogger(__name__)

BLOCK_TOKENS = 32  # vLLM's KV blocks are of a multiple of this on every device
IN_FLIGHT = 1.1  # times those that decode: so many more wait inside vLLM, so that none is awaited
_STOP_TIMEOUT_S = 60.0
_WATCH_S = 1.0
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
        stats = EngineStats(extra={"kv_pages": 0, "feature_rows": 0, "servers": 0})
        self._callers = Callers(self._reception, stats)
        self._busy = BusyTime()
        self._rows = FeatureRows(config.feature_rows, word_embedding(model.decoder).weight)
        self._table = FeatureTable(num_rows=config.feature_rows, first_id=0, last_id=_LAST_ROW)
        self._encoder = EncoderThread(
            encode=model.encode,
            write=self._rows.write,
            done=lambda *medium: self._post(partial(self._on_encoded, *medium)),
            batch=config.encode_batch,
            device=model.decoder.device,
            busy=self._busy,
        )
        self._lobby = Lobby(
            self._callers,
            Intake(self._table, self._encoder.put, page_size=self._config.page_size),
            Admission(
                pages=self._reception.limits.pages,
                rows=math.ceil(IN_FLIGHT * config.max_requests),
                turn=TURN_FACTOR * config.max_requests,
            ),
            self._post,
        )
        self._serials = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pulse = Pulse()
        self._num_steps = 0
        self._following = 0
        self._closing = threading.Lock()
        self._servers = Servers(model, self._reception.limits, self._config)
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
        return await self._lobby.submit(request)

    def cancel(self, request_id: str) -> bool:
        """End requests with what they have; see `Engine.cancel`."""
        return self._lobby.cancel(request_id)

    def stats(self) -> EngineStats:
        """Counters and gauges."""
        stats = self._callers.stats()
        stats.extra["servers"] = len(self._servers)
        stats.busy_s, stats.loaded_s = self._busy.seconds()
        return stats

    def close(self) -> None:
        """End vLLM and all threads, and answer who waits with EngineDied."""
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
            self._encoder.close(timeout_s=_STOP_TIMEOUT_S)

    def _post(self, message: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nobody to tell
            self._loop.call_soon_threadsafe(self._handle, message)

    # --- the coordinator's thread -----------------------------------------------------------------

    def _handle(self, message: Callable[[], None]) -> None:
        """Do what somebody wants done, and begin what may begin by it."""
        message()
        self._advance()

    def _advance(self) -> None:
        if self._callers.has_ended:
            return
        for job in self._lobby.take(self._table.restart):
            task = self._loop.create_task(self._answer(job))
            self._tasks.add(task)
            task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._die(str(error) if isinstance(error, EngineDied) else f"it failed: {error!r}")

    def _on_defect(self, _loop: object, context: Mapping[str, Any]) -> None:
        """End it all where something was raised that nobody waits for: nobody may wait in vain."""
        log.error("the engine's coordinator failed", exc_info=context.get("exception"))
        self._die(f"the engine's coordinator failed: {context.get('exception')!r}")

    def _on_encoded(self, features: Features, error: Exception | None) -> None:
        if error is not None and is_device_lost(error):
            self._die(news_of_lost_device(error))
        else:
            self._lobby.on_encoded(features, error)

    async def _answer(self, job: Job) -> None:
        """Run one request from its admission to its end.

        Raises:
            EngineDied: vLLM died.
        """
        try:
            await self._follow(job)
        except InferError as error:
            self._lobby.admission.release(job)
            self._lobby.fail(job, str(error))
        else:
            self._lobby.finish(job)
        self._advance()

    async def _follow(self, job: Job) -> None:
        """Watch an answer grow, and end it where it is over.

        Raises:
            InferError: vLLM failed on it, or the vLLM that it needs does not start.
            EngineDied: vLLM died.
        """
        server = await self._servers.get(job.regime)
        if job.is_unwanted:  # since before it started
            return
        attempt = self._reception.attempt(job, partial(self._on_first_token, job))
        name = f"{next(self._serials)}:{job.request.request_id}"
        self._following += 1
        try:
            steps = server.answer(name, job.request, self._rows.prompt(job))
            with self._busy:
                async with aclosing(steps):
                    async for step in steps:
                        self._num_steps += 1
                        self._count_prefill(job, step.cached_tokens)
                        if any(attempt.on_token(token, logprob) for token, logprob in step.tokens):
                            return
        finally:
            self._following -= 1

    def _on_first_token(self, job: Job) -> None:
        self._post(partial(self._lobby.admission.on_first_token, job))

    def _count_prefill(self, job: Job, cached_tokens: int) -> None:
        if job.answer is not None and not job.answer.token_ids:  # its first step
            with self._callers.counting() as stats:
                stats.prefill_tokens += job.num_tokens - cached_tokens

    def _watch(self) -> None:
        """Look now and then whether vLLM hangs, with no step of any request, or the encoder."""
        longest_s = max(self._config.deadline_s, MIN_HANG_S)
        if self._pulse.silent_s(self._num_steps, busy=self._following > 0) > longest_s:
            self._die(f"vLLM hangs: no token in {longest_s:g} s")
        if self._encoder.silent_s() > longest_s:
            self._die(f"the encoder hangs: no batch of media in {longest_s:g} s")
        if not self._callers.has_ended:
            self._loop.call_later(_WATCH_S, self._watch)

    def _die(self, reason: str) -> None:
        """Answer everybody with the news."""
        if not self._callers.has_ended:
            log.info("the engine ends", extra={"reason": reason})
            self._callers.end(reason)
            self._servers.abandon()

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
