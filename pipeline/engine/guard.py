"""When to end an answer that does not end itself: loops and stop texts. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

MAX_PERIOD = 64
MIN_REPEATS = 4
MIN_LOOP_TOKENS = 128

_CHECK_EVERY = 16
_TAIL_TOKENS = 8
_BYTES_PER_CHARACTER = 4


def loop_period(token_ids: Sequence[int]) -> int | None:
    """Find the period with which the end of an answer repeats itself.

    A loop is a block of k <= 64 tokens, repeated at least 4 times and over at least 128 tokens: a
    dotted leader, a ruled line or some equal rows of a table are none.

    Args:
        token_ids: The answer so far.

    Returns:
        The smallest such k; None if the end does not repeat itself.

    Example:
        >>> loop_period([9, *[1, 2, 3] * 43]), loop_period([7] * 127)
        (3, None)
    """
    last = len(token_ids) - 1
    for period in range(1, MAX_PERIOD + 1):
        span = max(MIN_LOOP_TOKENS, MIN_REPEATS * period)
        if span > len(token_ids):
            return None
        if token_ids[last] != token_ids[last - period]:
            continue
        if token_ids[-span:-period] == token_ids[period - span :]:
            return period
    return None


def cut_at_stop(text: str, stop_texts: Sequence[str]) -> tuple[str, bool]:
    """Cut a text at the first of the stop texts.

    Returns:
        (text, found): the text before the earliest occurrence of any stop text; all of it if none.

    Example:
        >>> cut_at_stop("one END two", ["two", "END"])
        ('one ', True)
    """
    places = [text.find(stop) for stop in stop_texts if stop]
    found = min((place for place in places if place >= 0), default=None)
    return (text, False) if found is None else (text[:found], True)


class Guard:
    """Watches one answer as it grows.

    Args:
        stop_texts: Texts that end the answer.
        decode: Token ids to text.
    """

    def __init__(self, stop_texts: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self._stop_texts = tuple(stop for stop in stop_texts if stop)
        self._decode = decode
        longest = max(map(len, self._stop_texts), default=0)
        self._tail = math.ceil(longest * _BYTES_PER_CHARACTER) + _TAIL_TOKENS

    def check(self, token_ids: Sequence[int]) -> Literal["stop", "loop"] | None:
        """Say whether the answer has to end after its last token, and why.

        Loops are looked for at every 16th token, so that the verdict is a function of the tokens
        and costs little; stop texts at each token, in as much of the tail as may hold them.
        """
        if len(token_ids) % _CHECK_EVERY == 0 and loop_period(token_ids) is not None:
            return "loop"
        if self._stop_texts:
            tail = self._decode(token_ids[-self._tail :])
            if any(stop in tail for stop in self._stop_texts):
                return "stop"
        return None
