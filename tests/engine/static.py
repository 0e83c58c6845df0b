"""The reference: padded batches through transformers' `generate`, one after another."""

from __future__ import annotations

import atexit
import threading
import traceback
from collections import deque
from collections.abc import Hashable
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
from phicorpus.engine.capabilities import Capabilities
from phicorpus.engine.encoder_cache import word_embedding
from phicorpus.engine.engine import BusyTime, Completion, EngineStats, Request
from phicorpus.engine.frontend import Frontend
from phicorpus.engine.recovery import is_device_lost, lost_device_message
from phicorpus.engine.sampling import Sampler
from phicorpus.engine.sequence import Attempt, Sequence
from phicorpus.errors import InferError
from phicorpus.models.model import Model, Slot

_STOP_TIMEOUT_S = 60.0

Rows = dict[Hashable, torch.Tensor]  # by the key of a slot


class StaticEngine:
    """The `Engine` protocol by static batches, padded on the left.

    A batch takes the waiting requests of one LongRoPE regime and runs until its longest answer is
    done. Nothing is shared between batches.

    Args:
        model: Loaded, on its device.
        config: `max_requests` and `kv_cache_tokens` bound a batch.
    """

    capabilities = Capabilities(recovers=True)

    def __init__(self, model: Model, config: EngineConfig) -> None:
        self._model = model
        self._config = config
        self._frontend = Frontend(
            model,
            config,
            stats=EngineStats(),
            enqueue=self._on_arrival,
            cancel=self._on_cancel,
        )
        self._sampler = Sampler(model.banned_ids, model.decoder.device)
        self._own_generation = model.decoder.generation_config
        model.decoder.generation_config = GenerationConfig(pad_token_id=0)  # nothing hidden in it
        self._busy = BusyTime()
        self._changed = threading.Condition()  # guards the next three, and that answers begin
        self._waiting: deque[Sequence] = deque()
        self._running: set[Sequence] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="phicorpus-static", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    async def submit(self, request: Request) -> Completion:
        """Answer one request; see `Engine.submit`."""
        return await self._frontend.submit(request)

    def cancel(self, request_id: str) -> bool:
        """End requests with what they have; see `Engine.cancel`."""
        return self._frontend.cancel(request_id)

    def stats(self) -> EngineStats:
        """Return counters and gauges."""
        with self._changed:
            running, waiting = len(self._running), len(self._waiting)
        stats = replace(self._frontend.stats(), num_running=running, num_waiting=waiting)
        stats.busy_s, stats.loaded_s = self._busy.seconds()
        return stats

    def close(self) -> None:
        """Answer open requests with EngineDied, and end the batch under way at its next token."""
        atexit.unregister(self.close)
        for sequence in self._frontend.end("the engine is closed"):
            if sequence.attempt is not None:
                sequence.attempt.cancel()
        self._end_soon()
        self._thread.join(_STOP_TIMEOUT_S)
        self._model.decoder.generation_config = self._own_generation

    def _on_arrival(self, sequence: Sequence) -> None:
        with self._changed:
            self._waiting.append(sequence)
            self._changed.notify()

    def _on_cancel(self, sequence: Sequence) -> None:
        with self._changed:
            if sequence in self._waiting:
                self._waiting.remove(sequence)
            if sequence.attempt is None:  # waits, or is encoded
                self._running.discard(sequence)
                self._frontend.complete(sequence)
            else:
                sequence.attempt.cancel()

    def _end_soon(self) -> None:
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._changed.notify()

    # --- the worker's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while sequences := self._next_batch():
                self._answer(sequences)
        finally:
            self._frontend.end("the engine's worker failed; the log says why")

    def _next_batch(self) -> list[Sequence]:
        """Wait for requests, then take those that fit in one batch; empty: the engine is closed."""
        sequences: list[Sequence] = []
        with self._changed:
            while not sequences and not self._closing:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                sequences = self._take_fitting()
            self._running = set(sequences)
        return sequences

    def _take_fitting(self) -> list[Sequence]:
        """Take the first that waits, and others of its regime that fit beside it."""
        sequences: list[Sequence] = []
        later: list[Sequence] = []
        longest = 0
        while self._waiting and len(sequences) < self._config.max_requests:
            sequence = self._waiting.popleft()
            length = max(longest, sequence.longest)
            fits = length * (len(sequences) + 1) <= self._config.kv_cache_tokens
            if sequence.is_over:
                self._frontend.complete(sequence)
            elif sequences and (sequence.rope_regime != sequences[0].rope_regime or not fits):
                later.append(sequence)
            else:
                sequences.append(sequence)
                longest = length
        self._waiting.extendleft(reversed(later))
        return sequences

    def _answer(self, sequences: list[Sequence]) -> None:
        """Answer a batch; one that fails is repeated one request at a time."""
        failure = self._try(sequences)
        if failure is not None and is_device_lost(failure):
            self._frontend.end(lost_device_message(failure))
            self._end_soon()
            return
        if failure is not None and len(sequences) > 1:
            for sequence in sequences:
                self._answer([sequence])
            return
        for sequence in sequences:
            with self._changed:
                self._running.discard(sequence)
            if failure is None:
                self._frontend.complete(sequence)
            else:
                name = sequence.request.request_id
                self._frontend.fail(sequence, InferError(f"{name}: the model failed: {failure!r}"))

    def _try(self, sequences: list[Sequence]) -> Exception | None:
        """Run a batch; return what went wrong."""
        sequences = [sequence for sequence in sequences if not sequence.is_over]
        if not sequences:
            return None
        try:
            if self._model.regime_length:
                self._model.set_regime(sequences[0].rope_regime)
            with self._busy:
                rows = self._encode(sequences)
                answered = self._generate(sequences, rows)
        except Exception as error:  # noqa: BLE001 encoder and decoder may raise anything
            traceback.clear_frames(error.__traceback__)  # they hold the batch's memory
            return error
        with self._frontend.counting() as stats:
            stats.prefill_tokens += sum(sequence.num_tokens for sequence in answered)
            stats.media_encoded += len(rows)
            stats.media_reused += sum(len(one.prompt.spans) for one in sequences) - len(rows)
        return None

    @torch.no_grad()
    def _encode(self, sequences: list[Sequence]) -> Rows:
        slots: dict[Hashable, Slot] = {}
        for sequence in sequences:
            for span in sequence.prompt.spans:
                slots.setdefault(span.slot.key, span.slot)
        keys, rows = list(slots), Rows()
        for first in range(0, len(keys), self._config.encode_batch):
            part = keys[first : first + self._config.encode_batch]
            rows.update(zip(part, self._model.encode([slots[key] for key in part]), strict=True))
        return rows

    @torch.no_grad()
    def _generate(self, sequences: list[Sequence], rows: Rows) -> list[Sequence]:
        """Answer the sequences that are not over yet, and return them."""
        with self._changed:
            sequences = [sequence for sequence in sequences if not sequence.is_over]
            attempts = [self._frontend.begin_attempt(sequence) for sequence in sequences]
        if not sequences:
            return []
        decoder = cast("Any", self._model.decoder)  # its stubs do not know `generate`
        prompts = [self._embed(sequence, rows) for sequence in sequences]
        longest = max(sequence.num_tokens for sequence in sequences)
        embedded = prompts[0].new_zeros(len(sequences), longest, prompts[0].shape[-1])
        mask = torch.zeros(len(sequences), longest, dtype=torch.int64, device=embedded.device)
        for row, prompt in enumerate(prompts):
            embedded[row, longest - prompt.shape[0] :] = prompt
            mask[row, longest - prompt.shape[0] :] = 1
        callbacks = _BatchCallbacks(self._sampler, attempts)
        decoder.generate(
            inputs_embeds=embedded,
            attention_mask=mask,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=max(sequence.request.max_new_tokens for sequence in sequences),
                pad_token_id=0,
            ),
            logits_processor=LogitsProcessorList([callbacks.choose]),
            stopping_criteria=StoppingCriteriaList([callbacks.stop]),
        )
        return sequences

    def _embed(self, sequence: Sequence, rows: Rows) -> torch.Tensor:
        """Embed the prompt, shape (tokens, hidden)."""
        words = word_embedding(self._model.decoder)
        ids = torch.from_numpy(sequence.prompt.ids).to(words.weight.device)
        embedded = words(ids)
        for span in sequence.prompt.spans:
            embedded[span.start : span.stop] = rows[span.slot.key]
        return embedded


class _BatchCallbacks:
    """The callbacks of one `generate`: they choose each token, and end the batch row by row."""

    def __init__(self, sampler: Sampler, attempts: list[Attempt]) -> None:
        self.choose = cast("LogitsProcessor", self._choose)
        self.stop = cast("StoppingCriteria", self._stop)
        self._sampler = sampler
        self._attempts = attempts
        self._logprobs: list[float] = []

    def _choose(self, _input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        states = [attempt.sampling for attempt in self._attempts]
        scores, logprobs = self._sampler.choose(scores, states)
        self._logprobs = logprobs.tolist()
        return scores

    def _stop(self, input_ids: torch.Tensor, _scores: object, **_kwargs: object) -> torch.Tensor:
        tokens = input_ids[:, -1].tolist()
        rows = zip(self._attempts, tokens, self._logprobs, strict=True)
        over = [attempt.on_token(token, logprob) for attempt, token, logprob in rows]
        return torch.tensor(over, dtype=torch.bool, device=input_ids.device)
