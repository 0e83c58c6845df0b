"""One request on its way through the engine: its prompt, what it holds, and its answer."""

from __future__ import annotations

import math
import time
from collections import abc
from collections.abc import Callable, Collection, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field

from phicorpus.engine.encoder_cache import Features
from phicorpus.engine.engine import Completion, FinishReason, Request
from phicorpus.engine.sampling import SamplingState
from phicorpus.engine.stopping import StopCheck, cut_at_stop
from phicorpus.models.model import Regime, Slot


@dataclass(eq=False, slots=True, kw_only=True)
class Sequence:
    """One request, its prompt and what it holds. Compared by identity.

    Attributes:
        request: As submitted.
        prompt: Token ids and slots.
        num_tokens: Ids and feature rows of the prompt.
        num_pages: KV pages of the prompt and the longest answer.
        rope_regime: LongRoPE factors, fixed for its life.
        future: Where the answer goes.
        group: Equal for requests with the same prefix, up to and with their first medium.
        features: The feature rows that it holds, one run per slot.
        missing: Of these, the runs that are not encoded yet.
        num_attempts: Times it was given to the decoder.
        attempt: The one under way, or the last.
        is_cancelled: Cancelled by its id: it is answered with the tokens that are there.
    """

    request: Request
    prompt: abc.Sequence[int | Slot]
    num_tokens: int
    num_pages: int
    rope_regime: Regime
    future: Future[Completion] = field(default_factory=Future)
    group: Hashable | None = None
    features: list[Features] = field(default_factory=list)
    missing: set[Features] = field(default_factory=set)
    num_attempts: int = 0
    attempt: Attempt | None = None
    is_cancelled: bool = False

    @property
    def is_over(self) -> bool:
        """True where no further token is wanted: cancelled, left by its caller, or answered."""
        return self.is_cancelled or self.future.done()

    @property
    def slots(self) -> list[Slot]:
        """The media of the prompt, in order."""
        return [part for part in self.prompt if isinstance(part, Slot)]

    @property
    def media_sizes(self) -> list[tuple[Hashable, int]]:
        """Key and number of feature rows of each slot."""
        return [(slot.key, slot.num_rows) for slot in self.slots]

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

    def token_ids(self, ids_of: Callable[[Features], abc.Sequence[int]]) -> list[int]:
        """Return the prompt as ids, given the ids of feature rows."""
        rows = iter(self.features)
        ids: list[int] = []
        for part in self.prompt:
            if isinstance(part, Slot):
                ids.extend(ids_of(next(rows)))
            else:
                ids.append(part)
        return ids

    def set_group(self, page_size: int) -> None:
        """Set `group` to the prefix that others may share: up to the end of the first medium."""
        before: list[int] = []
        for part in self.prompt:
            if isinstance(part, Slot):
                if len(before) + part.num_rows >= page_size:
                    self.group = (self.rope_regime, *before, self.features[0].start)
                return
            before.append(part)


class Attempt:
    """One run of a sequence through the decoder: its tokens, and whether it is over.

    Written by one thread, that of the decoder; `cancel` may come from another.

    Args:
        request: The request that is answered.
        stop_ids: Token ids that end the answer, not part of it.
        decode: Converts token ids to text, special tokens skipped.
        deadline_s: Seconds from the first token until the answer is ended as it is.
        sampling: How tokens are chosen; None is greedy.
        on_first_token: Called at the first token, when the whole prompt is in the KV cache.
    """

    def __init__(
        self,
        request: Request,
        *,
        stop_ids: Collection[int],
        decode: Callable[[abc.Sequence[int]], str],
        deadline_s: float,
        sampling: SamplingState | None = None,
        on_first_token: Callable[[], None] | None = None,
    ) -> None:
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.failure: str | None = None  # why there will be no completion
        self.sampling = sampling
        self._on_first_token = on_first_token
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
        if self._on_first_token is not None:
            self._on_first_token()
            self._on_first_token = None
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
            self.finish_reason = self._check_end(time.monotonic() - self._started)
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
