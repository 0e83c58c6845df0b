"""One answer while it is generated: its tokens, and whether it is over."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence

from phicorpus.engine.engine import Completion, FinishReason, Regime, Request
from phicorpus.engine.stopping import Guard, cut_at_stop


class Answer:
    """Collects the tokens of one request, and ends it.

    Written by one thread, that of the decoder; `cancel` may come from another.

    Args:
        request: What is answered.
        stop_ids: Token ids that end the answer, not part of it.
        decode: Token ids to text, special tokens skipped.
        deadline_s: Seconds from its first token until the answer is ended as it is.
    """

    def __init__(
        self,
        request: Request,
        *,
        stop_ids: Collection[int],
        decode: Callable[[Sequence[int]], str],
        deadline_s: float,
    ) -> None:
        self.token_ids: list[int] = []
        self.reason: FinishReason | None = None
        self.failure: str | None = None  # why there will be no completion
        self._request = request
        self._stop_ids = stop_ids
        self._decode = decode
        self._guard = Guard(request.stop, decode)
        self._logprob_sum = 0.0
        self._cancelled = False
        self._deadline_s = deadline_s
        self._started: float | None = None

    def add(self, token_id: int, logprob: float) -> bool:
        """Take the next token and its ln p; say whether the answer is over.

        What comes after its end, as from a row of a padded batch that waits for the others, is
        nothing to it.
        """
        if self.reason is not None or self.failure is not None:
            return True
        if self._started is None:
            self._started = time.monotonic()
        if math.isnan(logprob):
            self.failure = "the decoder computed nan"
        elif math.isinf(logprob):
            self.failure = "no token is allowed"
        elif token_id in self._stop_ids:
            self.reason = "stop"
        else:
            self.token_ids.append(token_id)
            self._logprob_sum += logprob
            self.reason = self._verdict(time.monotonic() - self._started)
        return self.reason is not None or self.failure is not None

    def cancel(self) -> None:
        """End the answer at its next token."""
        self._cancelled = True

    def complete(self) -> None:
        """End the answer with its last token: it cannot go on."""
        if self.failure is None:
            self.reason = "stop"

    def completion(self, *, prompt_tokens: int, regime: Regime) -> Completion:
        """Make the completion of an answer that is over."""
        text, _ = cut_at_stop(self._decode(self.token_ids), self._request.stop)
        count = len(self.token_ids)
        return Completion(
            text=text,
            token_ids=tuple(self.token_ids),
            prompt_tokens=prompt_tokens,
            finish_reason=self.reason or "length",
            mean_logprob=self._logprob_sum / count if count else None,
            regime=regime,
        )

    def _verdict(self, elapsed_s: float) -> FinishReason | None:
        if self._cancelled:
            return "cancelled"
        verdict = self._guard.check(self.token_ids)
        if verdict is not None:
            return verdict
        if len(self.token_ids) >= self._request.max_new_tokens:
            return "length"
        return "deadline" if elapsed_s > self._deadline_s else None
