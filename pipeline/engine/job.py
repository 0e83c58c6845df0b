"""A request on its way through the engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from pipeline.config import EngineConfig
from pipeline.engine.answer import Answer
from pipeline.engine.engine import Completion, Regime, Request
from pipeline.engine.features import Features, word_embedding
from pipeline.engine.sampling import Sampler
from pipeline.errors import RequestRefused
from pipeline.models.model import Model, Slot


@dataclass(eq=False, slots=True, kw_only=True)
class Job:
    """One request, its prompt and what it holds. Compared by identity.

    Attributes:
        request: As submitted.
        prompt: Token ids and slots.
        num_tokens: Ids and feature rows of the prompt.
        pages: KV pages of the prompt and the longest answer.
        regime: LongRoPE factors, fixed for its life.
        future: Where the answer goes.
        group: Equal for requests with the same prefix, up to and with their first medium.
        features: What it holds, one per slot.
        missing: Of these, what is not encoded yet.
        attempts: Times it was given to the decoder.
        answer: Of the attempt under way.
    """

    request: Request
    prompt: Sequence[int | Slot]
    num_tokens: int
    pages: int
    regime: Regime
    future: Future[Completion] = field(default_factory=Future)
    group: Hashable | None = None
    features: list[Features] = field(default_factory=list)
    missing: set[Features] = field(default_factory=set)
    attempts: int = 0
    answer: Answer | None = None

    @property
    def slots(self) -> list[Slot]:
        """The media of the prompt, in order."""
        return [part for part in self.prompt if isinstance(part, Slot)]

    @property
    def wanted(self) -> list[tuple[Hashable, int]]:
        """Key and number of feature rows of each slot."""
        return [((slot.media.key, slot.projection), slot.num_rows) for slot in self.slots]

    def token_ids(self, ids_of: Callable[[Features], Sequence[int]]) -> list[int]:
        """The prompt as ids, given the ids of feature rows."""
        rows = iter(self.features)
        ids: list[int] = []
        for part in self.prompt:
            if isinstance(part, Slot):
                ids.extend(ids_of(next(rows)))
            else:
                ids.append(part)
        return ids

    def set_group(self, page_size: int) -> None:
        """Name the prefix that other requests may share: all up to the end of the first medium."""
        before: list[int] = []
        for part in self.prompt:
            if isinstance(part, Slot):
                if len(before) + part.num_rows >= page_size:
                    self.group = (self.regime, *before, self.features[0].start)
                return
            before.append(part)


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


class Attempt:
    """Follows one run of a job through the decoding loop.

    Args:
        answer: Takes the tokens.
        sampler: None is greedy.
        on_first: Called at the first token, when the whole prompt is in the cache.
    """

    def __init__(
        self, answer: Answer, sampler: Sampler | None, on_first: Callable[[], None]
    ) -> None:
        self.sampler = sampler
        self._answer = answer
        self._on_first: Callable[[], None] | None = on_first

    def on_token(self, token_id: int, logprob: float) -> bool:
        """Take a token and its ln p; True ends the request."""
        if self._on_first is not None:
            self._on_first()
            self._on_first = None
        return self._answer.add(token_id, logprob)
