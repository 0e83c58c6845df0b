"""Attention over pages, against plain attention over each sequence's own keys."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tests.engine.kernels.draws import DEVICE, DTYPES, HEADS, STEPS, a_table, at_most, draw

pytest.importorskip("triton")
from phicorpus.engine.kernels.paged_decode import paged_decode

LENGTHS = st.lists(st.integers(0, 260), min_size=1, max_size=3).filter(any)
# Some so small that a sequence takes more than the sixteen splits there are.
SPLITS = st.sampled_from([3, 16, 64, 100, 512])


def filled(table: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Pages of numbers, and of nan where nobody's keys are."""
    pages = draw(int(table.max()) + 1, *shape, dtype=dtype)
    pages[0] = torch.nan
    return pages


def plainly(
    query: torch.Tensor,
    cache: tuple[torch.Tensor, torch.Tensor],
    table: torch.Tensor,
    lengths: list[int],
    scaling: float,
) -> torch.Tensor:
    rows = []
    for row, length in enumerate(lengths):
        own = table[row, : -(-length // cache[0].shape[1])].long()
        key, value = (pages[own].flatten(0, 1)[:length].transpose(0, 1) for pages in cache)
        q, k, v = (part[None].double() for part in (query[row][:, None], key, value))
        attended = functional.scaled_dot_product_attention(q, k, v, scale=scaling, enable_gqa=True)
        rows.append(attended[0, :, 0] if length else torch.zeros_like(attended[0, :, 0]))
    return torch.stack(rows).to(query.dtype)


@pytest.mark.timeout(900)
@at_most(200)
@given(
    heads=HEADS,
    lengths=LENGTHS,
    page_size=st.integers(1, 300),
    split=SPLITS,
    dtype=st.sampled_from(DTYPES),
)
def test_each_sequence_attends_to_its_own_keys(
    heads: tuple[int, int, int], lengths: list[int], page_size: int, split: int, dtype: torch.dtype
) -> None:
    num_heads, key_heads, size = heads
    table = a_table(lengths, page_size)
    shape = page_size, key_heads, size
    cache = filled(table, shape, dtype), filled(table, shape, dtype) + 1
    for row, length in enumerate(lengths):  # what follows a sequence's last key is another's
        for pages in cache:
            pages[table[row, (length - 1) // page_size], (length - 1) % page_size + 1 :] = torch.nan
    query = draw(len(lengths), num_heads, size, dtype=dtype)

    device_lengths = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    output = paged_decode(query, cache, table, device_lengths, size**-0.5, split)

    wanted = plainly(query, cache, table, lengths, size**-0.5)
    # The weights of the values are rounded too; values are up to five.
    torch.testing.assert_close(output, wanted, rtol=0, atol=5 * STEPS[dtype])


@at_most(100)
@given(lengths=LENGTHS, page_size=st.sampled_from([16, 48]), split=SPLITS, spare=st.integers(1, 40))
def test_an_answer_depends_neither_on_the_batch_nor_on_the_width_of_the_table(
    lengths: list[int], page_size: int, split: int, spare: int
) -> None:
    table = a_table(lengths, page_size, spare=spare)
    cache = (
        filled(table, (page_size, 2, 64), torch.float32),
        draw(int(table.max()) + 1, page_size, 2, 64),
    )
    query = draw(len(lengths), 6, 64)
    device_lengths = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)

    together = paged_decode(query, cache, table, device_lengths, 0.1, split)

    for row, length in enumerate(lengths):
        narrow = table[row : row + 1, : max(1, -(-length // page_size))].contiguous()
        own = slice(row, row + 1)
        alone = paged_decode(query[own], cache, narrow, device_lengths[own], 0.1, split)
        assert torch.equal(alone, together[own])


def test_queries_and_pages_may_be_views() -> None:
    table = a_table([70, 5], 16)
    both = draw(2, int(table.max()) + 1, 16, 2, 64).transpose(0, 1)  # a page's keys and values
    keys, values = both[:, 0], both[:, 1]
    query = draw(4, 2, 64).transpose(0, 1)
    lengths = torch.tensor([70, 5], dtype=torch.int32, device=DEVICE)

    output = paged_decode(query, (keys, values), table, lengths, 0.1)

    apart = keys.contiguous(), values.contiguous()
    assert torch.equal(output, paged_decode(query.contiguous(), apart, table, lengths, 0.1))
