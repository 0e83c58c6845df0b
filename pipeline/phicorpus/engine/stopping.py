"""Stop rules for an answer that does not end itself: loops and stop texts. Pure."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Literal

MAX_PERIOD = 64
MIN_REPEATS = 3
MIN_LOOP_TOKENS = 128
NGRAM = 16
WINDOW_TOKENS = 512
MAX_COMPRESSION = 9.0

_COMPARED_FIRST = 3
_COMPRESS_EVERY = 64
_TAIL_TOKENS = 8
_BYTES_PER_CHARACTER = 4


def loop_period(token_ids: Sequence[int]) -> int | None:
    """Find the period with which the end of an answer repeats itself.

    A loop is a block of k <= 64 tokens, seen at least 3 times and over at least 128 tokens: a
    dotted leader, a ruled line or some equal rows of a table are none.

    Args:
        token_ids: The answer so far.

    Returns:
        The smallest such k; None if the end does not repeat itself.

    Example:
        >>> loop_period([9, *[1, 2, 3] * 43]), loop_period([7] * 127)
        (3, None)
    """
    if len(token_ids) < MIN_LOOP_TOKENS:
        return None
    end = token_ids[-_COMPARED_FIRST:]
    recent = token_ids[-MAX_PERIOD - _COMPARED_FIRST :]
    last = end[-1]
    for place in range(len(recent) - 2, _COMPARED_FIRST - 2, -1):
        if recent[place] != last or recent[place - _COMPARED_FIRST + 1 : place + 1] != end:
            continue
        period = len(recent) - 1 - place
        span = max(MIN_LOOP_TOKENS, MIN_REPEATS * period)
        if len(token_ids) >= span and token_ids[-span:-period] == token_ids[period - span :]:
            return period
    return None


class LongLoops:
    """Finds loops of more than 64 tokens by the last place of each run of 16 tokens.

    A block may hold parts that come several times in it, as the rows of a table do, so each period
    that a run suggests is followed for as long as it holds.

    Example:
        >>> loops, block = LongLoops(), list(range(100))
        >>> [place for place, token in enumerate(block * 4) if loops.add(token)][0]
        299
    """

    def __init__(self) -> None:
        self._last_seen: dict[tuple[int, ...], int] = {}
        self._token_ids: list[int] = []
        self._runs: dict[int, int] = {}  # period: tokens at the end that equal those one before

    def add(self, token_id: int) -> bool:
        """Take the next token; return whether the end is one block, seen 3 times."""
        self._token_ids.append(token_id)
        ids, count = self._token_ids, len(self._token_ids)
        self._runs = {
            period: run + 1 for period, run in self._runs.items() if ids[-1 - period] == token_id
        }
        if count < NGRAM:
            return False
        ngram = tuple(ids[-NGRAM:])
        period = count - self._last_seen.get(ngram, count)
        self._last_seen[ngram] = count
        if period > MAX_PERIOD and period not in self._runs:
            self._runs[period] = self._run_of(period)
        return any(run >= (MIN_REPEATS - 1) * period for period, run in self._runs.items())

    def _run_of(self, period: int) -> int:
        """Count the tokens at the end, 16 of which are known to equal those one period before."""
        ids, run = self._token_ids, NGRAM
        most = min(len(ids) - period, (MIN_REPEATS - 1) * period)
        while run < most and ids[-1 - run] == ids[-1 - run - period]:
            run += 1
        return run


def compression(text: str) -> float:
    """Return how many times shorter a text becomes by deflate: bytes before by bytes after.

    Example:
        >>> compression("abcdefg") < 1 < compression("again and " * 50)
        True
    """
    whole = text.encode()
    return len(whole) / len(zlib.compress(whole)) if whole else 0.0


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


class StopCheck:
    """Checks one answer as it grows.

    Args:
        stop_texts: Texts that end the answer.
        decode: Token ids to text.
    """

    def __init__(self, stop_texts: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self._stop_texts = tuple(stop for stop in stop_texts if stop)
        self._decode = decode
        self._long_loops = LongLoops()
        longest = max(map(len, self._stop_texts), default=0)
        self._tail = math.ceil(longest * _BYTES_PER_CHARACTER) + _TAIL_TOKENS

    def check(self, token_ids: Sequence[int]) -> Literal["stop", "loop"] | None:
        """Return why the answer has to end after its last token, or None; called at each token.

        A loop is a block that is there for the third time, or a text of 512 tokens that differs
        from one only in little, such as a counter: it can be compressed to a ninth. The result
        is a function of the tokens alone.
        """
        long_loop = bool(token_ids) and self._long_loops.add(token_ids[-1])
        if long_loop or loop_period(token_ids) is not None or self._is_monotonous(token_ids):
            return "loop"
        if self._stop_texts:
            tail = self._decode(token_ids[-self._tail :])
            if any(stop in tail for stop in self._stop_texts):
                return "stop"
        return None

    def _is_monotonous(self, token_ids: Sequence[int]) -> bool:
        if len(token_ids) < WINDOW_TOKENS or len(token_ids) % _COMPRESS_EVERY:
            return False
        return compression(self._decode(token_ids[-WINDOW_TOKENS:])) > MAX_COMPRESSION
