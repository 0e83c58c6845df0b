"""A request on its way through the engine."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from phicorpus.engine.answer import Answer
from phicorpus.engine.encoder_cache import Features
from phicorpus.engine.engine import Completion, Regime, Request
from phicorpus.engine.sampling import Chooser
from phicorpus.models.model import Slot


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
        is_cancelled: Its end was asked for by its id: its caller waits for what it has.
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
    is_cancelled: bool = False

    @property
    def is_unwanted(self) -> bool:
        """Whether nobody wants more of its answer: cancelled, left by its caller, or answered."""
        return self.is_cancelled or self.future.done()

    @property
    def slots(self) -> list[Slot]:
        """The media of the prompt, in order."""
        return [part for part in self.prompt if isinstance(part, Slot)]

    @property
    def wanted(self) -> list[tuple[Hashable, int]]:
        """Key and number of feature rows of each slot."""
        return [(slot.key, slot.num_rows) for slot in self.slots]

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


class Attempt:
    """One run of a job through the decoder.

    Args:
        answer: Takes the tokens.
        chooser: Of the tokens; None is greedy.
        on_first: Called at the first token, when the whole prompt is in the KV cache.
    """

    def __init__(
        self, answer: Answer, chooser: Chooser | None, on_first: Callable[[], None] | None = None
    ) -> None:
        self.answer = answer
        self.chooser = chooser
        self._on_first = on_first

    def on_token(self, token_id: int, logprob: float) -> bool:
        """Take a token and its ln p; True ends the request."""
        if self._on_first is not None:
            self._on_first()
            self._on_first = None
        over = self.answer.add(token_id, logprob)
        if self.chooser is not None and self.answer.reason != "stop":
            complete = self.chooser.take(token_id)
            if self.chooser.failure is not None:
                self.answer.failure = self.chooser.failure
            elif complete:
                self.answer.complete()
            over = over or complete
        if over:
            self.chooser = None
        return over
