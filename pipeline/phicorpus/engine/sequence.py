"""One request on its way through the engine: its prompt, what it holds, and its answer."""

from __future__ import annotations

import math
import time
from collections import abc
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from phicorpus.engine.encoder_cache import Medium
from phicorpus.engine.engine import Completion, FinishReason, Request
from phicorpus.engine.kv_cache import PageHash, page_hashes
from phicorpus.engine.sampling import SamplingState
from phicorpus.engine.stopping import StopCheck, cut_at_stop
from phicorpus.models.model import Regime, Slot


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens of a prompt, from `start` to before `stop`, that a medium's rows fill."""

    start: int
    stop: int
    slot: Slot


@dataclass(frozen=True)
class Prompt:
    """A prompt as the decoder needs it.

    Attributes:
        parts: Token ids and slots.
    """

    parts: abc.Sequence[int | Slot]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """Token ids, shape (tokens,); 0 at the rows of media."""
        counts = [part.num_rows if isinstance(part, Slot) else 1 for part in self.parts]
        ids = [0 if isinstance(part, Slot) else part for part in self.parts]
        return np.repeat(np.array(ids, np.int64), counts)

    @cached_property
    def spans(self) -> list[Span]:
        """The media, in order."""
        spans: list[Span] = []
        start = 0
        for part in self.parts:
            if isinstance(part, Slot):
                spans.append(Span(start, start + part.num_rows, part))
            start += part.num_rows if isinstance(part, Slot) else 1
        return spans


@dataclass(eq=False, slots=True, kw_only=True)
class Sequence:
    """One request, its prompt and what it holds. Compared by identity.

    Attributes:
        request: As submitted.
        prompt: What the decoder reads first.
        rope_regime: LongRoPE factors, fixed for its life.
        page_hashes: Of the prompt's pages that others may share.
        future: Where the answer goes.
        pages: The KV pages that it holds, of its prompt and its longest answer.
        media: The media that it holds, until its prompt is in the KV cache.
        num_computed: Tokens whose keys and values are in the pages.
        num_new: Tokens of the step under way.
        last_id: The last token of its answer, to be computed next.
        num_attempts: Times it was given to the decoder.
        attempt: The one under way, or the last.
        is_cancelled: Cancelled by its id: it is answered with the tokens that are there.
    """

    request: Request
    prompt: Prompt
    rope_regime: Regime
    page_hashes: abc.Sequence[PageHash] = ()
    future: Future[Completion] = field(default_factory=Future)
    pages: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    media: abc.Sequence[Medium] = ()
    num_computed: int = 0
    num_new: int = 0
    last_id: int = 0
    num_attempts: int = 0
    attempt: Attempt | None = None
    is_cancelled: bool = False

    @property
    def num_tokens(self) -> int:
        """Ids and feature rows of the prompt."""
        return len(self.prompt)

    @property
    def longest(self) -> int:
        """Tokens of the prompt and the longest answer."""
        return len(self.prompt) + self.request.max_new_tokens

    @property
    def is_over(self) -> bool:
        """True where no further token is wanted: cancelled, left by its caller, or answered."""
        return self.is_cancelled or self.future.done()

    @property
    def is_decoding(self) -> bool:
        """True where its whole prompt is in the KV cache."""
        return self.num_computed >= self.num_tokens

    @property
    def is_asked(self) -> bool:
        """True where the step under way gives it a token."""
        return self.num_computed + self.num_new >= self.num_tokens

    @property
    def failure(self) -> str | None:
        """The reason why there is no completion; None: there is one."""
        attempt = self.attempt
        if attempt is not None and attempt.failure is not None:
            return attempt.failure
        if self.is_cancelled:
            return None
        if attempt is not None and attempt.finish_reason not in (None, "cancelled"):
            return None
        return "cancelled" if self.future.done() else "the engine ended it early"

    def completion(self) -> Completion:
        """Build the completion from the tokens that are there."""
        attempt = self.attempt
        return Completion(
            text=attempt.text if attempt else "",
            token_ids=tuple(attempt.token_ids) if attempt else (),
            prompt_tokens=self.num_tokens,
            finish_reason=(attempt.finish_reason or "length") if attempt else "cancelled",
            mean_logprob=attempt.mean_logprob if attempt else None,
            regime=self.rope_regime,
        )

    def hash_pages(self, page_size: int) -> None:
        """Set `page_hashes`, for a cache of such pages."""
        media = [(span.start, span.stop, span.slot.key) for span in self.prompt.spans]
        self.page_hashes = page_hashes(
            self.prompt.ids, media, page_size=page_size, salt=self.rope_regime
        )


class Attempt:
    """One run of a sequence through the decoder: its tokens, and whether it is over.

    Written by one thread, that of the decoder; `cancel` may come from another.

    Args:
        request: The request that is answered.
        stop_ids: Token ids that end the answer, not part of it.
        decode: Converts token ids to text, special tokens skipped.
        deadline_s: Seconds from the first token until the answer is ended as it is.
        sampling: How tokens are chosen; None is greedy.
    """

    def __init__(
        self,
        request: Request,
        *,
        stop_ids: Collection[int],
        decode: Callable[[abc.Sequence[int]], str],
        deadline_s: float,
        sampling: SamplingState | None = None,
    ) -> None:
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.failure: str | None = None  # why there will be no completion
        self.sampling = sampling
        self._request = request
        self._stop_ids = stop_ids
        self._decode = decode
        self._stop_check = StopCheck(request.stop, decode)
        self._logprob_sum = 0.0
        self._is_cancelled = False
        self._deadline_s = deadline_s
        self._started: float | None = None

    @property
    def text(self) -> str:
        """The text of the tokens, without stop texts."""
        return cut_at_stop(self._decode(self.token_ids), self._request.stop)[0]

    @property
    def mean_logprob(self) -> float | None:
        """Mean of ln p of the tokens; None if there are none."""
        return self._logprob_sum / len(self.token_ids) if self.token_ids else None

    def cancel(self) -> None:
        """End the answer at its next token."""
        self._is_cancelled = True

    def on_token(self, token_id: int, logprob: float) -> bool:
        """Take the next token and its ln p; return whether the answer is over.

        Tokens after the end are ignored: a padded batch yields them until its longest row ends.
        """
        is_over = self._add(token_id, logprob)
        if self.sampling is not None and self.finish_reason != "stop":
            is_complete = self.sampling.take(token_id)
            if self.sampling.failure is not None:
                self.failure = self.sampling.failure
            elif is_complete and self.failure is None:
                self.finish_reason = "stop"
            is_over = is_over or is_complete
        if is_over:
            self.sampling = None
        return is_over

    def _add(self, token_id: int, logprob: float) -> bool:
        if self.finish_reason is not None or self.failure is not None:
            return True
        if self._started is None:
            self._started = time.monotonic()
        if math.isnan(logprob):
            self.failure = "the decoder computed nan"
        elif math.isinf(logprob):
            self.failure = "no token is allowed"
        elif token_id in self._stop_ids:
            self.finish_reason = "stop"
        else:
            self.token_ids.append(token_id)
            self._logprob_sum += logprob
            try:
                self.finish_reason = self._check_end(time.monotonic() - self._started)
            except Exception as error:  # noqa: BLE001 a tokenizer may raise anything: it fails alone
                self.failure = repr(error)
        return self.finish_reason is not None or self.failure is not None

    def _check_end(self, elapsed_s: float) -> FinishReason | None:
        if self._is_cancelled:
            return "cancelled"
        reason = self._stop_check.check(self.token_ids)
        if reason is not None:
            return reason
        if len(self.token_ids) >= self._request.max_new_tokens:
            return "length"
        return "deadline" if elapsed_s > self._deadline_s else None
