"""From a request to a job: tokens, checks, and what follows its answer."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer as Backend

from phicorpus.config import EngineConfig
from phicorpus.engine.answer import Answer
from phicorpus.engine.encoder_cache import word_embedding
from phicorpus.engine.engine import Guide, Request
from phicorpus.engine.grammar import Grammars, Matcher
from phicorpus.engine.sampling import Chooser, NoRepeat, Sampler
from phicorpus.engine.sequence import Attempt, Job
from phicorpus.errors import RequestRefused
from phicorpus.models.model import Model, Slot

SEEDS = (-(2**63), 2**64 - 1)  # that torch's generators take


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may ask of this model and these sizes.

    Attributes:
        vocabulary: Ids are below it.
        max_length: Prompt and answer, tokens.
        regime_length: Prompt and answer up to which the short LongRoPE factors serve; 0: always.
        page_size: Tokens per KV page.
        pages: KV pages that may be promised at once.
        rows: Feature rows of one request.
    """

    vocabulary: int
    max_length: int
    regime_length: int
    page_size: int
    pages: int
    rows: int

    @staticmethod
    def of(model: Model, config: EngineConfig, *, share: float) -> Limits:
        """The limits of a model run with a config, where `share` of the pages may be promised."""
        return Limits(
            vocabulary=word_embedding(model.decoder).num_embeddings,
            max_length=model.max_length,
            regime_length=model.regime_length,
            page_size=config.page_size,
            pages=max(2, int(config.kv_cache_tokens // config.page_size * share)),
            rows=config.feature_rows,
        )

    def admit(self, request: Request, prompt: Sequence[int | Slot]) -> Job:
        """Make a job of a request, if it can be run at all.

        Raises:
            RequestRefused: empty, too long, an id outside the vocabulary, or larger than the KV
                cache or the feature table; names limit and value.
        """
        name = request.request_id
        rows = sum(part.num_rows for part in prompt if isinstance(part, Slot))
        num_tokens = rows + sum(not isinstance(part, Slot) for part in prompt)
        longest = num_tokens + request.max_new_tokens
        pages = math.ceil(longest / self.page_size) + 1
        if num_tokens == 0:
            raise RequestRefused(f"{name}: the prompt is empty")
        if request.max_new_tokens < 1:
            raise RequestRefused(f"{name}: max_new_tokens is {request.max_new_tokens}, not >= 1")
        if longest > self.max_length:
            raise RequestRefused(
                f"{name}: {num_tokens} prompt + {request.max_new_tokens} new tokens,"
                f" the model's max_length is {self.max_length}"
            )
        if pages > self.pages:
            raise RequestRefused(
                f"{name}: {longest} tokens need {pages} KV pages, engine.kv_cache_tokens allows"
                f" {self.pages} of {self.page_size}"
            )
        if rows > self.rows:
            raise RequestRefused(f"{name}: {rows} feature rows, engine.feature_rows is {self.rows}")
        for part in prompt:
            if not isinstance(part, Slot) and not 0 <= part < self.vocabulary:
                raise RequestRefused(
                    f"{name}: token id {part}, the vocabulary has {self.vocabulary}"
                )
        short = self.regime_length == 0 or longest <= self.regime_length
        return Job(
            request=request,
            prompt=prompt,
            num_tokens=num_tokens,
            pages=pages,
            regime="short" if short else "long",
        )


class Reception:
    """Takes requests for one model, from any thread.

    Args:
        model: Loaded, on its device.
        config: Sizes and limits.
        kv_share: Of the KV pages may be promised.
    """

    def __init__(self, model: Model, config: EngineConfig, *, kv_share: float) -> None:
        self.limits = Limits.of(model, config, share=kv_share)
        self._model = model
        self._deadline_s = config.deadline_s
        backend = getattr(model.tokenizer, "backend", None)
        self._grammars = Grammars(
            backend if isinstance(backend, Backend) else None,
            stop_ids=model.stop_ids,
            vocabulary=self.limits.vocabulary,
        )
        self._lock = threading.Lock()  # the library's tokenizers are not thread-safe

    def admit(self, request: Request) -> Job:
        """Tokenize and check a request.

        Raises:
            RequestRefused: it cannot be run.
        """
        _check_sampling(request)
        try:
            if request.guide is not None:
                _check_stop(request)
                self._matcher(request, request.guide)
            with self._lock:
                prompt = self._model.tokenize(request.turns)
        except UnicodeEncodeError as error:
            raise RequestRefused(f"{request.request_id}: not a text: {error}") from error
        return self.limits.admit(request, prompt)

    def attempt(self, job: Job, on_first: Callable[[], None] | None = None) -> Attempt:
        """Begin an answer, the job's next; `on_first` is called at its first token."""
        request = job.request
        job.attempts += 1
        job.answer = Answer(
            request,
            stop_ids=self._model.stop_ids,
            decode=self._decode,
            deadline_s=self._deadline_s,
        )
        if job.is_unwanted:  # since before there was an answer to cancel
            job.answer.cancel()
        return Attempt(job.answer, self._chooser(request), on_first)

    def _chooser(self, request: Request) -> Chooser | None:
        sampler = None
        if request.temperature > 0:
            device = self._model.decoder.device
            sampler = Sampler(temperature=request.temperature, seed=request.seed, device=device)
        guide, size = request.guide, request.no_repeat_ngram
        matcher = self._matcher(request, guide) if guide is not None else None
        no_repeat = NoRepeat(size) if size > 0 else None
        if sampler is matcher is no_repeat is None:
            return None
        return Chooser(sampler=sampler, matcher=matcher, no_repeat=no_repeat)

    def _matcher(self, request: Request, guide: Guide) -> Matcher:
        """Begin an answer under a guide, which is compiled when it is first seen."""
        try:
            return self._grammars.matcher(guide)
        except RequestRefused as error:
            raise RequestRefused(f"{request.request_id}: {error}") from error

    def _decode(self, token_ids: Sequence[int]) -> str:
        with self._lock:
            return self._model.tokenizer.decode(token_ids, skip_special_tokens=True)


def _check_stop(request: Request) -> None:
    if any(request.stop):
        raise RequestRefused(
            f"{request.request_id}: stop texts {list(request.stop)} beside a guide: they would cut"
            " answers that have to match it, and it ends them itself"
        )


def _check_sampling(request: Request) -> None:
    if not 0 <= request.temperature < math.inf:
        raise RequestRefused(f"{request.request_id}: temperature is {request.temperature}")
    if not SEEDS[0] <= request.seed <= SEEDS[1]:
        raise RequestRefused(
            f"{request.request_id}: seed is {request.seed}, not from {SEEDS[0]} to {SEEDS[1]}"
        )
