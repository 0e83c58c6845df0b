"""Media are encoded once, in batches, and forgotten when their rows' memory is needed."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.engine.encoder_cache import EncoderCache, Medium
from phicorpus.models.model import Slot
from tests.engine.builders import an_image

ROWS = 20


class Encoder:
    """Encodes to zeros, and keeps the keys of each call."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.bad: set[str] = set()

    def __call__(self, slots: Sequence[Slot]) -> list[torch.Tensor]:
        self.calls.append([slot.media.key for slot in slots])
        for slot in slots:
            if slot.media.key in self.bad:
                raise RuntimeError(f"cannot see {slot.media.key}")
        whole = torch.zeros(sum(slot.num_rows for slot in slots), 2)
        return list(whole.split([slot.num_rows for slot in slots]))


def a_cache(*, rows: int = ROWS, batch: int = 4) -> tuple[EncoderCache, Encoder]:
    encoder = Encoder()
    return EncoderCache(encoder, num_rows=rows, batch=batch), encoder


def a_slot(key: str, rows: int = 5) -> Slot:
    return Slot(an_image(key, rows=rows), "image", rows)


def hold(cache: EncoderCache, *slots: Slot) -> list[Medium]:
    held = cache.hold(slots)
    assert held is not None
    return held


def test_a_medium_is_encoded_once_for_all_who_need_it_and_found_again() -> None:
    cache, encoder = a_cache()
    first, second = hold(cache, a_slot("a")), hold(cache, a_slot("a"))

    cache.encode_next()
    cache.release(first)
    cache.release(second)
    again = hold(cache, a_slot("a"))

    assert first == second == again
    assert again[0].rows is not None
    assert encoder.calls == [["a"]]
    assert not cache.has_pending


def test_those_that_wait_are_encoded_together_up_to_the_batch_size() -> None:
    cache, encoder = a_cache(rows=100)
    for key in "abcdef":
        assert not cache.is_batch_full or key in "ef"
        hold(cache, a_slot(key))

    cache.encode_next()
    cache.encode_next()

    assert encoder.calls == [["a", "b", "c", "d"], ["e", "f"]]


def test_the_least_recently_used_rows_go_first() -> None:
    cache, encoder = a_cache()
    for key in ("a", "b", "c", "d"):
        media = hold(cache, a_slot(key))
        cache.encode_next()
        cache.release(media)
    cache.release(hold(cache, a_slot("a")))

    hold(cache, a_slot("e"))
    cache.encode_next()
    hold(cache, a_slot("a"))
    hold(cache, a_slot("b"))
    cache.encode_next()

    assert encoder.calls[-2:] == [["e"], ["b"]]


def test_all_or_nothing_is_held() -> None:
    cache, _ = a_cache()
    hold(cache, a_slot("a", 8))

    assert cache.hold([a_slot("a", 8), a_slot("b", 6), a_slot("c", 7)]) is None

    assert cache.num_held == 8
    assert len(hold(cache, a_slot("b", 6), a_slot("c", 6))) == 2


def test_an_image_twice_in_a_prompt_takes_its_rows_once() -> None:
    cache, _ = a_cache()

    assert len(hold(cache, a_slot("a", 20), a_slot("a", 20))) == 1
    assert cache.num_held == 20


def test_what_nobody_waits_for_any_more_is_not_encoded() -> None:
    cache, encoder = a_cache()
    media = hold(cache, a_slot("a"))
    hold(cache, a_slot("b"))

    cache.release(media)
    cache.encode_next()

    assert encoder.calls == [["b"]]
    assert cache.num_held == 5


def test_a_batch_that_fails_is_tried_one_by_one_and_the_bad_one_may_be_asked_again() -> None:
    cache, encoder = a_cache(rows=100)
    encoder.bad = {"b"}
    media = [hold(cache, a_slot(key))[0] for key in "abc"]

    done = cache.encode_next()

    assert done == media
    assert [medium.error is None for medium in media] == [True, False, True]
    assert "cannot see b" in str(media[1].error)
    cache.release([media[1]])
    encoder.bad.clear()
    (again,) = hold(cache, a_slot("b"))
    cache.encode_next()
    assert again.rows is not None


def test_a_wrong_number_of_rows_is_an_error() -> None:
    cache = EncoderCache(lambda slots: [torch.zeros(1, 2) for _ in slots], num_rows=9, batch=1)
    (medium,) = hold(cache, a_slot("a"))

    cache.encode_next()

    assert "1 rows, announced were 5" in str(medium.error)


def test_a_mediums_rows_do_not_keep_the_memory_of_its_batch() -> None:
    cache, _ = a_cache(rows=100)
    media = [hold(cache, a_slot(key))[0] for key in "ab"]

    cache.encode_next()

    for medium in media:
        assert medium.rows is not None
        assert medium.rows.untyped_storage().nbytes() == medium.rows.nbytes


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["hold", "release", "encode"]),
            st.sets(st.sampled_from("abcdefg"), min_size=1, max_size=3),
            st.integers(0, 5),
        ),
        max_size=60,
    )
)
def test_no_more_rows_than_there_is_room_for_and_all_that_is_held_is_encoded(
    steps: list[tuple[str, set[str], int]],
) -> None:
    cache, encoder = a_cache()
    sizes = {key: 3 + 2 * place for place, key in enumerate("abcdefg")}
    held: list[list[Medium]] = []
    for action, keys, which in steps:
        if action == "hold":
            media = cache.hold([a_slot(key, sizes[key]) for key in sorted(keys)])
            held += [media] if media is not None else []
        elif action == "encode":
            cache.encode_next()
        elif held:
            cache.release(held.pop(which % len(held)))
        needed = {medium for media in held for medium in media}
        assert cache.num_held == sum(medium.slot.num_rows for medium in needed) <= ROWS

    while cache.has_pending:
        cache.encode_next()
    assert all(medium.rows is not None for media in held for medium in media)
    assert all(encoder.calls)
    for media in held:
        cache.release(media)
    assert cache.num_held == 0


@pytest.mark.parametrize("error", [torch.AcceleratorError("CUDA error: an illegal access")])
def test_after_a_lost_device_no_medium_is_tried_again(error: Exception) -> None:
    calls: list[int] = []

    def encode(slots: Sequence[Slot]) -> list[torch.Tensor]:
        calls.append(len(slots))
        raise error

    cache = EncoderCache(encode, num_rows=100, batch=4)
    media = [hold(cache, a_slot(key))[0] for key in "ab"]

    cache.encode_next()

    assert calls == [2]
    assert [medium.error for medium in media] == [error, error]
