"""The reference and the fallback: padded batches through `generate`, one after another."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
from collections import deque
from collections.abc import Hashable, Sequence
from concurrent.futures import InvalidStateError
from dataclasses import replace
from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from pipeline.config import EngineConfig
from pipeline.engine.capabilities import STATIC
from pipeline.engine.engine import Completion, EngineStats, Request
from pipeline.engine.features import word_embedding
from pipeline.engine.job import Attempt, Job
from pipeline.engine.reception import Reception
from pipeline.engine.sampling import Steering
from pipeline.errors import EngineDied, InferError, RequestRefused
from pipeline.models.model import Model, Slot

_STOP_TIMEOUT_S = 60.0

Rows = dict[Hashable, torch.Tensor]  # by what names a medium in `Job.wanted`


class StaticEngine:
    """The `Engine` protocol by static batches, padded on the left.

    A batch takes the waiting requests of one LongRoPE regime and runs until its longest answer is
    done. Nothing is shared between batches.

    Args:
        model: Loaded, on its device.
        config: `max_requests` and `kv_cache_tokens` bound a batch.
    """

    capabilities = STATIC

    def __init__(self, model: Model, config: EngineConfig) -> None:
        self._model = model
        self._config = config
        self._reception = Reception(model, config, kv_share=1.0)
        self._steering = Steering(model.banned_ids, model.decoder.device)
        self._own_generation = model.decoder.generation_config
        model.decoder.generation_config = GenerationConfig(pad_token_id=0)  # nothing hidden in it
        self._stats = EngineStats()
        self._changed = threading.Condition()  # guards all that follows
        self._waiting: deque[Job] = deque()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="phicorpus-static", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    async def submit(self, request: Request) -> Completion:
        """Answer one request; see `Engine.submit`."""
        with self._changed:
            self._stats.num_requests += 1
        try:
            job = self._reception.admit(request)
        except RequestRefused:
            with self._changed:
                self._stats.num_failed += 1
            raise
        with self._changed:
            if self._ended:
                raise EngineDied("the engine is closed")
            self._waiting.append(job)
            self._changed.notify()
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            if job.answer is not None:
                job.answer.cancel()
            raise

    def stats(self) -> EngineStats:
        """Counters and gauges."""
        with self._changed:
            return replace(self._stats, num_waiting=len(self._waiting))

    def close(self) -> None:
        """Answer who waits with EngineDied, and end after the batch under way."""
        atexit.unregister(self.close)
        with self._changed:
            self._ended = True
            while self._waiting:
                self._finish(self._waiting.popleft(), EngineDied("the engine is closed"))
            self._changed.notify()
        self._thread.join(_STOP_TIMEOUT_S)
        self._model.decoder.generation_config = self._own_generation

    # --- the worker's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while jobs := self._next_batch():
            self._answer(jobs)

    def _next_batch(self) -> list[Job]:
        """Wait for requests, then take those that fit in one batch; empty: the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            jobs: list[Job] = []
            later: list[Job] = []
            longest = 0
            while self._waiting and len(jobs) < self._config.max_requests:
                job = self._waiting.popleft()
                length = max(longest, job.pages * self._config.page_size)
                fits = length * (len(jobs) + 1) <= self._config.kv_cache_tokens
                if jobs and (job.regime != jobs[0].regime or not fits):
                    later.append(job)
                elif not job.future.done():
                    jobs.append(job)
                    longest = length
                else:
                    self._stats.num_failed += 1
            self._waiting.extendleft(reversed(later))
            self._stats.num_running = len(jobs)
        return jobs or ([] if self._ended else self._next_batch())

    def _answer(self, jobs: Sequence[Job]) -> None:
        """Answer a batch; one that fails is repeated one request at a time."""
        try:
            if self._model.regime_length:
                self._model.set_regime(jobs[0].regime)
            self._generate(jobs, self._encode(jobs))
        except Exception as error:  # noqa: BLE001 encoder and decoder may raise anything
            failure = error
        else:
            for job in jobs:
                failure = job.answer.failure if job.answer is not None else None
                name = job.request.request_id
                self._finish(job, InferError(f"{name}: {failure}") if failure else None)
            return
        if len(jobs) > 1:
            for job in jobs:
                self._answer([job])
        else:
            name = jobs[0].request.request_id
            self._finish(jobs[0], InferError(f"{name}: the model failed: {failure!r}"))

    @torch.no_grad()
    def _encode(self, jobs: Sequence[Job]) -> Rows:
        slots: dict[Hashable, Slot] = {}
        for job in jobs:
            for (key, _), slot in zip(job.wanted, job.slots, strict=True):
                slots.setdefault(key, slot)
        keys, rows = list(slots), Rows()
        for first in range(0, len(keys), self._config.encode_batch):
            part = keys[first : first + self._config.encode_batch]
            rows.update(zip(part, self._model.encode([slots[key] for key in part]), strict=True))
        with self._changed:
            self._stats.media_encoded += len(keys)
            self._stats.media_reused += sum(len(job.slots) for job in jobs) - len(keys)
        return rows

    @torch.no_grad()
    def _generate(self, jobs: Sequence[Job], rows: Rows) -> None:
        decoder = cast("Any", self._model.decoder)  # its stubs do not know `generate`
        prompts = [self._embed(job, rows) for job in jobs]
        longest = max(job.num_tokens for job in jobs)
        embedded = prompts[0].new_zeros(len(jobs), longest, prompts[0].shape[-1])
        mask = torch.zeros(len(jobs), longest, dtype=torch.int64, device=embedded.device)
        for row, prompt in enumerate(prompts):
            embedded[row, longest - prompt.shape[0] :] = prompt
            mask[row, longest - prompt.shape[0] :] = 1
        watch = _Watch(self._steering, [self._reception.attempt(job) for job in jobs])
        decoder.generate(
            inputs_embeds=embedded,
            attention_mask=mask,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=max(job.request.max_new_tokens for job in jobs),
                pad_token_id=0,
            ),
            logits_processor=LogitsProcessorList([watch.steer]),
            stopping_criteria=StoppingCriteriaList([watch.stop]),
        )

    def _embed(self, job: Job, rows: Rows) -> torch.Tensor:
        """The prompt's embeddings, shape (tokens, hidden)."""
        keys = iter(job.wanted)
        words = word_embedding(self._model.decoder)
        parts: list[torch.Tensor] = []
        for part in job.prompt:
            if isinstance(part, Slot):
                parts.append(rows[next(keys)[0]])
            else:
                parts.append(words(torch.tensor([part], device=words.weight.device)))
        return torch.cat(parts)

    def _finish(self, job: Job, error: InferError | EngineDied | None) -> None:
        with self._changed, contextlib.suppress(InvalidStateError):  # the caller may have left
            self._stats.num_running -= 1 if self._stats.num_running else 0
            if error is not None or job.answer is None:
                self._stats.num_failed += 1
                job.future.set_exception(error or EngineDied("not begun"))
                return
            completion = job.answer.completion(prompt_tokens=job.num_tokens, regime=job.regime)
            self._stats.num_completed += 1
            self._stats.prompt_tokens += job.num_tokens
            self._stats.prefill_tokens += job.num_tokens
            self._stats.completion_tokens += len(completion.token_ids)
            job.future.set_result(completion)


class _Watch:
    """Follows a batch through `generate`: steers its scores, and ends it row by row."""

    def __init__(self, steering: Steering, attempts: Sequence[Attempt]) -> None:
        self.steer = cast("LogitsProcessor", self._steer)
        self.stop = cast("StoppingCriteria", self._stop)
        self._steering = steering
        self._attempts = attempts
        self._logprobs: list[float] = []

    def _steer(self, _input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        choosers = [attempt.chooser for attempt in self._attempts]
        scores, logprobs = self._steering.steer(scores, choosers)
        self._logprobs = logprobs.tolist()
        return scores

    def _stop(self, input_ids: torch.Tensor, _scores: object, **_kwargs: object) -> torch.Tensor:
        tokens = input_ids[:, -1].tolist()
        rows = zip(self._attempts, tokens, self._logprobs, strict=True)
        over = [attempt.on_token(token, logprob) for attempt, token, logprob in rows]
        return torch.tensor(over, dtype=torch.bool, device=input_ids.device)
