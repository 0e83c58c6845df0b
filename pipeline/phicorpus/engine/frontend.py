"""The engine's front: submit, tokenize, check; resolve and count each request exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections import abc
from collections.abc import Callable, Iterator
from concurrent.futures import InvalidStateError
from dataclasses import dataclass, replace

from tokenizers import Tokenizer as Backend

from phicorpus.config import EngineConfig
from phicorpus.engine.encoder_cache import word_embedding
from phicorpus.engine.engine import Completion, EngineStats, Guide, Request
from phicorpus.engine.grammar import Grammars, Matcher
from phicorpus.engine.sampling import NoRepeat, SamplingState, SeededDraw
from phicorpus.engine.sequence import Attempt, Prompt, Sequence
from phicorpus.errors import EngineDied, InferError, RequestRefused
from phicorpus.models.model import Model, Slot, Turn

SEEDS = (-(2**63), 2**64 - 1)  # that torch's generators take


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """The limits of a request, by the model and the engine's sizes.

    Attributes:
        vocabulary: Ids are below it.
        max_length: Prompt and answer, tokens.
        regime_length: Prompt and answer up to which the short LongRoPE factors serve; 0: always.
        page_size: Tokens per KV page.
        num_pages: KV pages.
        num_rows: Feature rows of one request.
    """

    vocabulary: int
    max_length: int
    regime_length: int
    page_size: int
    num_pages: int
    num_rows: int

    @staticmethod
    def of(model: Model, config: EngineConfig) -> RequestLimits:
        """Return the limits of a model run with a config."""
        return RequestLimits(
            vocabulary=word_embedding(model.decoder).num_embeddings,
            max_length=model.max_length,
            regime_length=model.regime_length,
            page_size=config.page_size,
            num_pages=config.kv_cache_tokens // config.page_size,
            num_rows=config.feature_rows,
        )

    def check(self, request: Request, parts: abc.Sequence[int | Slot]) -> Sequence:
        """Build the sequence of a request, if it can be run at all.

        Raises:
            RequestRefused: empty, too long, an id outside the vocabulary, or larger than the KV
                cache or the encoder cache; names limit and value.
        """
        name, prompt = request.request_id, Prompt(parts)
        rows = sum(span.slot.num_rows for span in prompt.spans)
        longest = len(prompt) + request.max_new_tokens
        pages = math.ceil(longest / self.page_size)
        if not len(prompt):
            raise RequestRefused(f"{name}: the prompt is empty")
        if request.max_new_tokens < 1:
            raise RequestRefused(f"{name}: max_new_tokens is {request.max_new_tokens}, not >= 1")
        if longest > self.max_length:
            raise RequestRefused(
                f"{name}: {len(prompt)} prompt + {request.max_new_tokens} new tokens,"
                f" the model's max_length is {self.max_length}"
            )
        if pages > self.num_pages:
            raise RequestRefused(
                f"{name}: {longest} tokens need {pages} KV pages, engine.kv_cache_tokens allows"
                f" {self.num_pages} of {self.page_size}"
            )
        if rows > self.num_rows:
            raise RequestRefused(
                f"{name}: {rows} feature rows, engine.feature_rows is {self.num_rows}"
            )
        for part in parts:
            if not isinstance(part, Slot) and not 0 <= part < self.vocabulary:
                raise RequestRefused(
                    f"{name}: token id {part}, the vocabulary has {self.vocabulary}"
                )
        is_short = self.regime_length == 0 or longest <= self.regime_length
        sequence = Sequence(
            request=request, prompt=prompt, rope_regime="short" if is_short else "long"
        )
        sequence.hash_pages(self.page_size)
        return sequence


class Frontend:
    """Requests in, completions out; for callers of any thread and event loop.

    Args:
        model: Loaded, on its device.
        config: Sizes and limits.
        stats: The engine's counters and gauges.
        enqueue: Takes a sequence, from the caller's thread.
        cancel: Ends a sequence early; may come before its `enqueue`, whose sequence is over then.
    """

    def __init__(
        self,
        model: Model,
        config: EngineConfig,
        *,
        stats: EngineStats,
        enqueue: Callable[[Sequence], None],
        cancel: Callable[[Sequence], None],
    ) -> None:
        self.limits = RequestLimits.of(model, config)
        self._model = model
        self._deadline_s = config.deadline_s
        self._enqueue = enqueue
        self._cancel = cancel
        backend = getattr(model.tokenizer, "backend", None)
        self._grammars = Grammars(
            backend if isinstance(backend, Backend) else None,
            stop_ids=model.stop_ids,
            vocabulary=self.limits.vocabulary,
        )
        self._tokenizer_lock = threading.Lock()  # the library's tokenizers are not thread-safe
        self._lock = threading.Lock()  # of the next three
        self._stats = stats
        self._open: set[Sequence] = set()  # not answered yet
        self._ended: str | None = None

    async def submit(self, request: Request) -> Completion:
        """Answer one request; see `Engine.submit`."""
        try:
            sequence = self._tokenized(request)
        except RequestRefused:
            with self._lock:
                self._stats.num_requests += 1
                self._stats.num_failed += 1
            raise
        with self._lock:
            if self._ended is not None:
                raise EngineDied(self._ended)
            self._stats.num_requests += 1
            self._open.add(sequence)
        self._enqueue(sequence)
        try:
            return await asyncio.wrap_future(sequence.future)
        except asyncio.CancelledError:  # the caller does not wait any longer
            sequence.future.cancel()
            self._cancel(sequence)
            raise

    def cancel(self, request_id: str) -> bool:
        """End all requests of an id with what they have; see `Engine.cancel`."""
        with self._lock:
            found = [one for one in self._open if one.request.request_id == request_id]
            for sequence in found:
                sequence.is_cancelled = True
        for sequence in found:
            self._cancel(sequence)
        return bool(found)

    def probe(self) -> Sequence:
        """Build a sequence of one token, which nobody waits for."""
        turns = (Turn("user", ("a",)),)
        request = Request(request_id="probe", turns=turns, max_new_tokens=1)
        return Sequence(request=request, prompt=Prompt([0]), rope_regime="short")

    def begin_attempt(self, sequence: Sequence) -> Attempt:
        """Begin a sequence's next attempt."""
        sequence.num_attempts += 1
        sequence.attempt = Attempt(
            sequence.request,
            stop_ids=self._model.stop_ids,
            decode=self._decode,
            deadline_s=self._deadline_s,
            sampling=self._sampling_state(sequence.request),
        )
        if sequence.is_over:  # since before there was an attempt to cancel
            sequence.attempt.cancel()
        return sequence.attempt

    def complete(self, sequence: Sequence) -> None:
        """Answer a sequence that is over with the tokens it has, or with its failure."""
        failure = sequence.failure
        if failure is not None:
            self.fail(sequence, InferError(f"{sequence.request.request_id}: {failure}"))
            return
        try:
            completion = sequence.completion()
        except Exception as error:  # noqa: BLE001 a tokenizer may raise anything: it fails alone
            self.fail(sequence, InferError(f"{sequence.request.request_id}: {error!r}"))
            return
        with self._lock:
            if not self._close(sequence):
                return
            if sequence.is_cancelled:  # though it may just have ended by itself: `cancel` said so
                completion = replace(completion, finish_reason="cancelled")
            self._stats.num_completed += 1
            self._stats.prompt_tokens += sequence.num_tokens
            self._stats.completion_tokens += len(completion.token_ids)
        with contextlib.suppress(InvalidStateError):  # the caller may have left
            sequence.future.set_result(completion)

    def fail(self, sequence: Sequence, error: InferError | EngineDied) -> None:
        """Answer a sequence with an error."""
        with self._lock:
            if not self._close(sequence):
                return
            self._stats.num_failed += 1
        with contextlib.suppress(InvalidStateError):  # the caller may have left
            sequence.future.set_exception(error)

    def end(self, reason: str) -> list[Sequence]:
        """Answer all open sequences, and whatever comes later, with EngineDied; may be repeated.

        Returns:
            The sequences that were open.
        """
        with self._lock:
            self._ended = self._ended or reason
            sequences = list(self._open)
        for sequence in sequences:
            self.fail(sequence, EngineDied(self._ended))
        with self._lock:
            self._stats.num_running = self._stats.num_waiting = 0
        return sequences

    @property
    def has_ended(self) -> bool:
        """True after `end`."""
        return self._ended is not None

    @contextlib.contextmanager
    def counting(self) -> Iterator[EngineStats]:
        """Yield the counters and gauges, for writing."""
        with self._lock:
            yield self._stats

    def stats(self) -> EngineStats:
        """Copy the counters and gauges."""
        with self._lock:
            return replace(self._stats, extra=dict(self._stats.extra))

    def _close(self, sequence: Sequence) -> bool:
        """Take a sequence from those that are open; False if it has been answered."""
        if sequence not in self._open:
            return False
        self._open.discard(sequence)
        return True

    def _tokenized(self, request: Request) -> Sequence:
        """Tokenize and check a request.

        Raises:
            RequestRefused: it cannot be run.
        """
        _check_sampling(request)
        try:
            if request.guide is not None:
                self._matcher(request, request.guide)
            with self._tokenizer_lock:
                prompt = self._model.tokenize(request.turns)
        except UnicodeEncodeError as error:
            raise RequestRefused(f"{request.request_id}: not a text: {error}") from error
        return self.limits.check(request, prompt)

    def _sampling_state(self, request: Request) -> SamplingState | None:
        draw = None
        if request.temperature > 0:
            device = self._model.decoder.device
            draw = SeededDraw(temperature=request.temperature, seed=request.seed, device=device)
        guide, size = request.guide, request.no_repeat_ngram
        matcher = self._matcher(request, guide) if guide is not None else None
        no_repeat = NoRepeat(size) if size > 0 else None
        if draw is matcher is no_repeat is None:
            return None
        return SamplingState(draw=draw, matcher=matcher, no_repeat=no_repeat)

    def _matcher(self, request: Request, guide: Guide) -> Matcher:
        """Begin an answer under a guide, which is compiled when it is first seen."""
        try:
            return self._grammars.matcher(guide)
        except RequestRefused as error:
            raise RequestRefused(f"{request.request_id}: {error}") from error

    def _decode(self, token_ids: abc.Sequence[int]) -> str:
        with self._tokenizer_lock:
            return self._model.tokenizer.decode(token_ids, skip_special_tokens=True)


def _check_sampling(request: Request) -> None:
    if not 0 <= request.temperature < math.inf:
        raise RequestRefused(f"{request.request_id}: temperature is {request.temperature}")
    if not SEEDS[0] <= request.seed <= SEEDS[1]:
        raise RequestRefused(
            f"{request.request_id}: seed is {request.seed}, not from {SEEDS[0]} to {SEEDS[1]}"
        )
    if request.guide is not None and any(request.stop):
        raise RequestRefused(
            f"{request.request_id}: stop texts {list(request.stop)} beside a guide: they would cut"
            " answers that have to match it, and it ends them itself"
        )
