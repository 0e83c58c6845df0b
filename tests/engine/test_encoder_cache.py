from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from phicorpus.engine.encoder_cache import EncoderCache, Features, VirtualEmbedding

ROWS = 20


def hold(cache: EncoderCache, *wanted: tuple[str, int]) -> list[Features]:
    held = cache.hold(wanted)
    assert held is not None
    for run in held:
        run.encoded = True
    return held


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9), st.integers(1, 12), st.booleans(), st.integers(0, 5), st.booleans()
        ),
        max_size=60,
    )
)
def test_ids_are_never_reused_and_held_rows_never_shared(
    steps: list[tuple[int, int, bool, int, bool]],
) -> None:
    cache = EncoderCache(num_rows=ROWS, first_id=100)
    sizes: dict[str, int] = {}
    held: list[Features] = []
    owner_of_id: dict[int, Features] = {}
    for name, size, release, which, fails in steps:
        if release and held:
            run = held.pop(which % len(held))
            cache.release(run)
            if fails and run not in held:
                cache.drop(run)
            continue
        key = f"{name}"
        runs = cache.hold([(key, sizes.setdefault(key, size))])
        for run in runs or []:
            run.encoded = True
            held.append(run)
            for token_id in cache.ids(run):
                assert owner_of_id.setdefault(token_id, run) is run
        rows = [token_id % ROWS for run in set(held) for token_id in cache.ids(run)]
        assert len(rows) == len(set(rows)) <= ROWS
        assert cache.num_held == len(rows)


def test_the_same_key_keeps_its_ids_while_its_rows_are_not_needed() -> None:
    cache = EncoderCache(num_rows=ROWS, first_id=100)
    (one,) = hold(cache, ("a", 8))
    cache.release(one)

    (again,) = hold(cache, ("a", 8))

    assert again is one


def test_the_least_recently_used_rows_go_first() -> None:
    cache = EncoderCache(num_rows=ROWS, first_id=100)
    for key in ("a", "b", "a"):
        cache.release(hold(cache, (key, 8))[0])

    hold(cache, ("c", 8))

    assert hold(cache, ("a", 8))[0].start == 0
    assert cache.hold([("b", 8)]) is None


def test_all_or_nothing_is_held() -> None:
    cache = EncoderCache(num_rows=ROWS, first_id=100)
    (held,) = hold(cache, ("a", 8))

    assert cache.hold([("a", 8), ("b", 6), ("c", 7)]) is None

    assert held.holders == 1
    assert cache.num_held == 8
    assert len(hold(cache, ("b", 6), ("c", 6))) == 2


def test_an_empty_table_takes_whatever_fits_it_in_several_runs() -> None:
    cache = EncoderCache(num_rows=ROWS, first_id=100)
    cache.release(hold(cache, ("a", 7))[0])

    assert cache.hold([("b", 11), ("c", 9)]) is not None


def test_used_up_ids_begin_anew_between_two_steps_when_no_row_is_held() -> None:
    restarts: list[int] = []

    def between_steps(restart: Callable[[], None]) -> None:
        restarts.append(cache.num_held)
        restart()

    cache = EncoderCache(num_rows=ROWS, first_id=100, last_id=130, between_steps=between_steps)
    (held,) = hold(cache, ("a", 10))
    assert cache.ids(held) == range(100, 110)
    cache.release(hold(cache, ("b", 10))[0])
    assert cache.hold([("c", 5)]) is None  # there is room, but no id
    cache.release(held)
    assert cache.num_held == 0
    assert restarts == []

    assert cache.ids(hold(cache, ("d", 15))[0]) == range(100, 115)
    assert restarts == [0]
    with pytest.raises(RuntimeError, match="15 rows"):
        cache.restart()


def test_virtual_ids_embed_as_their_rows_and_others_as_words() -> None:
    words = nn.Embedding(10, 4)
    embedding = VirtualEmbedding(words, 5)
    features = torch.randn(2, 4)
    embedding.write(8, features)  # rows 3 and 4 of the second turn

    embedded = embedding(torch.tensor([[1, 18, 19, 9]], dtype=torch.int32))

    assert torch.equal(embedded[0, 1:3], features)
    assert torch.equal(embedded[0, ::3], words(torch.tensor([1, 9])))
    assert embedding.num_tokens == 4
