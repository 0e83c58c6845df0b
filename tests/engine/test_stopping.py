import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.engine.stopping import (
    MAX_PERIOD,
    MIN_LOOP_TOKENS,
    MIN_REPEATS,
    LongLoops,
    StopCheck,
    cut_at_stop,
    loop_period,
)


def letters(token_ids: object) -> str:
    return "".join(chr(97 + token_id % 26) for token_id in token_ids)  # type: ignore[attr-defined]


def repeats_with(token_ids: list[int], period: int) -> bool:
    span = max(MIN_LOOP_TOKENS, MIN_REPEATS * period)
    tail = token_ids[-span:]
    return len(tail) == span and all(
        tail[index] == tail[index - period] for index in range(period, span)
    )


@given(
    prefix=st.lists(st.integers(0, 3), max_size=50),
    block=st.lists(st.integers(0, 3), min_size=1, max_size=MAX_PERIOD),
    extra=st.integers(0, 40),
)
def test_a_repeated_block_is_a_loop_of_a_period_that_divides_what_is_seen(
    prefix: list[int], block: list[int], extra: int
) -> None:
    repeats = max(MIN_REPEATS, math.ceil(MIN_LOOP_TOKENS / len(block)))
    token_ids = [*prefix, *(block * (repeats + extra))]

    period = loop_period(token_ids)

    assert period is not None
    assert period <= len(block)
    assert repeats_with(token_ids, period)


@given(st.lists(st.integers(0, 1), max_size=400))
def test_the_period_found_is_the_smallest_that_holds(token_ids: list[int]) -> None:
    holding = [k for k in range(1, MAX_PERIOD + 1) if repeats_with(token_ids, k)]

    assert loop_period(token_ids) == (holding[0] if holding else None)


@pytest.mark.parametrize(
    "token_ids",
    [
        [7] * (MIN_LOOP_TOKENS - 1),
        [1, 2] * (MIN_LOOP_TOKENS // 2 - 1) + [1, 3],
        list(range(MAX_PERIOD + 1)) * 4,
        list(range(1000)),
    ],
    ids=["too short", "broken at its end", "too long a period", "no repeat"],
)
def test_what_is_no_loop_goes_on(token_ids: list[int]) -> None:
    assert loop_period(token_ids) is None


@given(text=st.text("abc", max_size=30), stops=st.lists(st.text("abc", max_size=3), max_size=3))
def test_a_cut_text_holds_no_stop_text_and_begins_like_the_text(
    text: str, stops: list[str]
) -> None:
    cut, found = cut_at_stop(text, stops)

    real = [stop for stop in stops if stop]
    assert text.startswith(cut)
    assert found == any(stop in text for stop in real)
    assert not any(stop in cut for stop in real)
    if found:
        assert any(text.startswith(cut + stop) for stop in real)


@given(token_ids=st.lists(st.integers(0, 4), max_size=60), stop=st.text("abcde", min_size=1))
def test_the_guard_stops_at_the_token_that_completes_a_stop_text(
    token_ids: list[int], stop: str
) -> None:
    stop_check = StopCheck([stop], letters)
    verdicts = [stop_check.check(token_ids[: end + 1]) for end in range(len(token_ids))]

    place = letters(token_ids).find(stop)

    first = verdicts.index("stop") if "stop" in verdicts else None
    assert first == (place + len(stop) - 1 if place >= 0 else None)


def test_the_guard_sees_a_loop_within_sixteen_tokens() -> None:
    stop_check = StopCheck([], letters)
    token_ids = [5, 6, 7, *([1, 2, 3, 4] * 100)]

    ends = [end for end in range(len(token_ids)) if stop_check.check(token_ids[:end]) == "loop"]

    assert 3 + MIN_LOOP_TOKENS <= ends[0] < 3 + MIN_LOOP_TOKENS + 16


@pytest.mark.parametrize("period", [1, 2, 7, 43, 50, 64, 65, 100, 300])
def test_an_injected_loop_is_cut_within_three_periods(period: int) -> None:
    text = [1000 + token * token % 7919 for token in range(200)]
    token_ids = [*text, *list(range(period)) * 200]
    stop_check = StopCheck([], letters)

    ends = (end for end in range(1, len(token_ids)) if stop_check.check(token_ids[:end]) == "loop")

    assert next(ends) - len(text) <= max(MIN_LOOP_TOKENS, 3 * period)


@given(
    parts=st.lists(st.sampled_from("abcde"), min_size=2, max_size=12),
    lengths=st.lists(st.integers(1, 60), min_size=5, max_size=5),
    own=st.integers(MAX_PERIOD + 1, 120),
)
def test_a_loop_that_repeats_parts_of_itself_is_cut_within_three_periods(
    parts: list[str], lengths: list[int], own: int
) -> None:
    starts = dict(zip("abcde", range(0, 500, 100), strict=True))
    sized = zip(starts.items(), lengths, strict=True)
    rows = {name: range(first, first + length) for (name, first), length in sized}
    block = [*(token for part in parts for token in rows[part]), *range(600, 600 + own)]
    text = list(range(1000, 1050))
    loops = LongLoops()

    found = [loops.add(token_id) for token_id in [*text, *block * 4]]

    assert found.index(True) < len(text) + 3 * len(block)
    assert not any(found[: len(text) + 2 * len(block)])


def test_a_loop_that_only_counts_up_is_seen_by_how_far_it_compresses() -> None:
    text = "".join(f"{number}. the image shows a table\n" for number in range(100, 200))
    pieces = [text[first : first + 4] for first in range(0, len(text), 4)]
    stop_check = StopCheck([], lambda token_ids: "".join(pieces[token] for token in token_ids))

    verdicts = [stop_check.check(range(end)) for end in range(1, len(pieces))]

    assert verdicts.index("loop") < 640


def test_pages_that_are_monotonous_by_nature_are_no_loops() -> None:
    draw = np.random.default_rng(0)
    numbers = "".join(f"| {draw.random():.3f} | {draw.random():.3f} |\n" for _ in range(120))
    contents = "".join(f"{n}.{n % 7} Part {draw.random():.4f} {'.' * 40} {n}\n" for n in range(50))
    for text in (numbers, contents):
        stop_check = StopCheck([], lambda token_ids: "".join(map(chr, token_ids)))
        token_ids = list(text.encode())

        assert {stop_check.check(token_ids[: end + 1]) for end in range(len(token_ids))} == {None}
