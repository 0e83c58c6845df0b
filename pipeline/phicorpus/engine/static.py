"""The reference and the fallback: padded batches through `generate`, one after another."""

from __future__ import annotations

import atexit
import threading
import traceback
from collections import deque
from collections.abc import Hashable, Sequence
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

from phicorpus.config import EngineConfig
from phicorpus.engine.busy_time import BusyTime
from phicorpus.engine.capabilities import STATIC
from phicorpus.engine.encoder_cache import word_embedding
from phicorpus.engine.engine import Completion, EngineStats, Request
from phicorpus.engine.frontend import Reception
from phicorpus.engine.open_requests import Callers
from phicorpus.engine.recovery import is_device_lost, news_of_lost_device
from phicorpus.engine.sampling import Steering
from phicorpus.engine.sequence import Attempt, Job
from phicorpus.errors import InferError
from phicorpus.models.model import Model, Slot

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
        self._callers = Callers(self._reception, EngineStats())
        self._busy = BusyTime()
        self._changed = threading.Condition()  # guards the next three, and that answers begin
        self._waiting: deque[Job] = deque()
        self._running: set[Job] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="phicorpus-static", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    async def submit(self, request: Request) -> Completion:
        """Answer one request; see `Engine.submit`."""
        return await self._callers.submit(request, self._on_arrival, _cancel)

    def cancel(self, request_id: str) -> bool:
        """End requests with what they have; see `Engine.cancel`."""
        return self._callers.cancel(request_id, self._on_cancel)

    def stats(self) -> EngineStats:
        """Counters and gauges."""
        with self._changed:
            running, waiting = len(self._running), len(self._waiting)
        stats = replace(self._callers.stats(), num_running=running, num_waiting=waiting)
        stats.busy_s, stats.loaded_s = self._busy.seconds()
        return stats

    def close(self) -> None:
        """Answer everybody with EngineDied, and end the batch under way at its next token."""
        atexit.unregister(self.close)
        for job in self._callers.end("the engine is closed"):
            _cancel(job)
        self._end_soon()
        self._thread.join(_STOP_TIMEOUT_S)
        self._model.decoder.generation_config = self._own_generation

    def _on_arrival(self, job: Job) -> None:
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def _on_cancel(self, job: Job) -> None:
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
            if job.answer is None:  # waits, or is encoded
                self._running.discard(job)
                self._callers.complete(job)
            else:
                job.answer.cancel()

    def _end_soon(self) -> None:
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._changed.notify()

    # --- the worker's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while jobs := self._next_batch():
                self._answer(jobs)
        finally:
            self._callers.end("the engine's worker failed; the log says why")

    def _next_batch(self) -> list[Job]:
        """Wait for requests, then take those that fit in one batch; empty: the engine is closed."""
        jobs: list[Job] = []
        with self._changed:
            while not jobs and not self._closing:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                jobs = self._fitting()
            self._running = set(jobs)
        return jobs

    def _fitting(self) -> list[Job]:
        """Take the first that waits, and those of its regime that fit beside it."""
        jobs: list[Job] = []
        later: list[Job] = []
        longest = 0
        while self._waiting and len(jobs) < self._config.max_requests:
            job = self._waiting.popleft()
            length = max(longest, job.pages * self._config.page_size)
            fits = length * (len(jobs) + 1) <= self._config.kv_cache_tokens
            if job.is_unwanted:
                self._callers.complete(job)
            elif jobs and (job.regime != jobs[0].regime or not fits):
                later.append(job)
            else:
                jobs.append(job)
                longest = length
        self._waiting.extendleft(reversed(later))
        return jobs

    def _answer(self, jobs: Sequence[Job]) -> None:
        """Answer a batch; one that fails is repeated one request at a time."""
        failure = self._try(jobs)
        if failure is not None and is_device_lost(failure):
            self._callers.end(news_of_lost_device(failure))
            self._end_soon()
            return
        if failure is not None and len(jobs) > 1:
            for job in jobs:
                self._answer([job])
            return
        for job in jobs:
            with self._changed:
                self._running.discard(job)
            if failure is None:
                self._callers.complete(job)
            else:
                name = job.request.request_id
                self._callers.fail(job, InferError(f"{name}: the model failed: {failure!r}"))

    def _try(self, jobs: Sequence[Job]) -> Exception | None:
        """Run a batch; say what went wrong."""
        jobs = [job for job in jobs if not job.is_unwanted]
        if not jobs:
            return None
        try:
            if self._model.regime_length:
                self._model.set_regime(jobs[0].regime)
            with self._busy:
                rows = self._encode(jobs)
                answered = self._generate(jobs, rows)
        except Exception as error:  # noqa: BLE001 encoder and decoder may raise anything
            traceback.clear_frames(error.__traceback__)  # they hold the batch's memory
            return error
        with self._callers.counting() as stats:
            stats.prefill_tokens += sum(job.num_tokens for job in answered)
            stats.media_encoded += len(rows)
            stats.media_reused += sum(len(job.slots) for job in jobs) - len(rows)
        return None

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
        return rows

    @torch.no_grad()
    def _generate(self, jobs: Sequence[Job], rows: Rows) -> list[Job]:
        """Answer those who still want it, and give them."""
        with self._changed:
            jobs = [job for job in jobs if not job.is_unwanted]
            attempts = [self._reception.attempt(job) for job in jobs]
        if not jobs:
            return []
        decoder = cast("Any", self._model.decoder)  # its stubs do not know `generate`
        prompts = [self._embed(job, rows) for job in jobs]
        longest = max(job.num_tokens for job in jobs)
        embedded = prompts[0].new_zeros(len(jobs), longest, prompts[0].shape[-1])
        mask = torch.zeros(len(jobs), longest, dtype=torch.int64, device=embedded.device)
        for row, prompt in enumerate(prompts):
            embedded[row, longest - prompt.shape[0] :] = prompt
            mask[row, longest - prompt.shape[0] :] = 1
        watch = _Watch(self._steering, attempts)
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
        return jobs

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


def _cancel(job: Job) -> None:
    if job.answer is not None:
        job.answer.cancel()


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
