"""Pages are held by who needs them, kept for who may, and named by all that they depend on."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.engine.kv_cache import PagePool, page_hashes

PAGE = 4


def hashes(prompt: str, *, salt: str = "short") -> list[bytes]:
    """Of a prompt of small letters, and of media: as many equal capitals as there are rows."""
    ids = np.array([ord(c) if c.islower() else 0 for c in prompt], np.int64)
    media = [(prompt.index(c), prompt.rindex(c) + 1, c) for c in sorted(set(prompt)) if c.isupper()]
    return page_hashes(ids, media, page_size=PAGE, salt=salt)


def test_prompts_share_the_pages_up_to_where_they_differ() -> None:
    one, two = hashes("abcdefghijkl"), hashes("abcdefgXijkl")

    assert len(one) == len(two) == 2  # the last token is always computed
    assert one[0] == two[0]
    assert one[1] != two[1]


def test_a_page_is_named_by_the_medium_the_rows_and_what_went_before() -> None:
    image = hashes("aXXXXXXXb")

    assert hashes("aXXXXXXXcd") == image
    assert hashes("aYYYYYYYb")[0] != image[0]
    assert hashes("XXXXXXXab")[0] != image[0]
    assert hashes("bXXXXXXXb")[1] != image[1]
    assert hashes("aXXXXXXXb", salt="long")[0] != image[0]


@given(
    st.lists(st.sampled_from("abcXY"), max_size=24).map("".join),
    st.lists(st.sampled_from("abcXY"), max_size=24).map("".join),
)
def test_equal_names_are_equal_beginnings(left: str, right: str) -> None:
    ordered = ["".join(sorted(one, key="XYabc".index)) for one in (left, right)]
    named = [hashes(one) for one in ordered]

    for page, names in enumerate(zip(*named, strict=False)):
        end = (page + 1) * PAGE
        beginnings = [one[:end] for one in ordered]
        assert (names[0] == names[1]) == (beginnings[0] == beginnings[1])


@given(
    st.integers(1, 12),
    st.lists(
        st.tuples(
            st.sampled_from(["take", "release", "name"]),
            st.integers(1, 6),
            st.integers(0, 5),
            st.integers(0, 3),
        ),
        max_size=60,
    ),
)
def test_no_page_is_given_twice_and_a_kept_one_is_found_while_it_lasts(
    num_pages: int, steps: list[tuple[str, int, int, int]]
) -> None:
    pool = PagePool(num_pages)
    held: list[list[int]] = []
    content: dict[int, bytes] = {}
    for action, count, which, prefix in steps:
        names = [f"{prefix}{page}".encode() for page in range(count)]
        if action == "take":
            cached = pool.cached(names)
            assert all(content[page] == name for page, name in zip(cached, names, strict=False))
            pages = pool.take(cached, count - len(cached))
            if pages is not None:
                for page in pages[len(cached) :]:
                    content.pop(page, None)
                    assert all(page not in other for other in held)
                held.append(pages)
        elif action == "name" and held:
            pages = held[which % len(held)]
            for page, name in zip(pages, names, strict=False):
                if not pool.cached([name]) and page not in content:
                    pool.name(page, name)
                    content[page] = name
        elif held:
            pool.release(held.pop(which % len(held)))
        assert pool.num_held == len({page for pages in held for page in pages}) <= num_pages

    for pages in held:
        pool.release(pages)
    everything = pool.take([], num_pages)
    assert everything is not None
    assert sorted(everything) == list(range(num_pages))
    assert pool.take([], 1) is None


def test_the_prefix_that_was_used_last_goes_last() -> None:
    pool = PagePool(4)
    for name in (b"one", b"two"):
        pages = pool.take([], 2)
        assert pages is not None
        pool.name(pages[0], name)
        pool.release(pages)
    again = pool.take(pool.cached([b"one"]), 0)
    assert again is not None
    pool.release(again)

    pool.take([], 3)

    assert pool.cached([b"two"]) == []
    assert pool.cached([b"one"]) != []


def test_forgotten_pages_are_not_found_and_are_given_anew() -> None:
    pool = PagePool(2)
    pages = pool.take([], 2)
    assert pages is not None
    pool.name(pages[0], b"one")
    pool.name(pages[1], b"two")
    pool.release(pages[:1])

    pool.forget(pages)
    pool.release(pages[1:])

    assert pool.cached([b"one"]) == pool.cached([b"two"]) == []
    assert sorted(pool.take([], 2) or []) == [0, 1]
