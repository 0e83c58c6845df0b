import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from phicorpus.engine.cpu_attention import PagedStep
from tests.engine.layouts import SEQUENCES, Sequences, a_layout, draw


def attend_each(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: tuple[torch.Tensor, torch.Tensor],
    scaling: float,
) -> torch.Tensor:
    """Attend within each sequence, one after another: the reference for the kernels.

    Args:
        query: shape (heads, tokens, head size).
        key: shape (key heads, all tokens, head size).
        value: As `key`.
        bounds: Cumulated lengths of the sequences' queries and keys, shape (sequences + 1,).
        scaling: Of the scores.

    Returns:
        shape (tokens, heads, head size).
    """
    heads, tokens, head_size = query.shape
    key_heads = key.shape[0]
    output = torch.empty(tokens, heads, head_size, dtype=query.dtype, device=query.device)
    query_ends, key_ends = bounds[0].tolist(), bounds[1].tolist()
    for index in range(len(query_ends) - 1):
        first, last = query_ends[index], query_ends[index + 1]
        if first == last:
            continue
        q = query[None, :, first:last]
        k = key[None, :, key_ends[index] : key_ends[index + 1]]
        v = value[None, :, key_ends[index] : key_ends[index + 1]]
        new, known = q.shape[2], k.shape[2]
        if new == 1:  # the heads that share keys become rows: keys and values are not repeated
            q = q.reshape(1, key_heads, heads // key_heads, head_size)
            attended = functional.scaled_dot_product_attention(q, k, v, scale=scaling)
            output[first] = attended.reshape(heads, head_size)
            continue
        mask = None
        if new != known:
            mask = torch.ones(new, known, dtype=torch.bool, device=q.device).tril(known - new)
        attended = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling,
            enable_gqa=heads != key_heads,
        )  # fmt: skip
        output[first:last] = attended[0].transpose(0, 1)
    return output


def bounds_of(lengths: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.append(0, lengths.cumsum()))


@given(
    sequences=SEQUENCES, page_size=st.sampled_from([1, 4, 16]), key_heads=st.sampled_from([1, 2])
)
def test_a_step_attends_as_each_sequence_does_whatever_its_pages_held(
    sequences: Sequences, page_size: int, key_heads: int
) -> None:
    layout = a_layout(sequences, page_size)
    tokens, total = int(layout.new.sum()), int(layout.known.sum())
    query = draw(4, tokens, 8)
    key, value = draw(key_heads, total, 8), draw(key_heads, total, 8) + 1
    ends = layout.known.cumsum()
    fresh = np.concatenate(
        [np.arange(end - new, end) for end, new in zip(ends, layout.new, strict=True)]
    )
    cache = [torch.full((layout.pages.max() + 1, page_size, key_heads, 8), torch.nan)] * 2
    for place, kind in enumerate((key, value)):
        pages = cache[place].clone()
        pages.flatten(0, 1)[layout.read()] = kind.transpose(0, 1)
        pages.flatten(0, 1)[layout.written()] = torch.nan  # not there before the step
        cache[place] = pages

    step = PagedStep(layout, torch.float32)
    output = step.attend((query, key[:, fresh], value[:, fresh]), (cache[0], cache[1]), 0.3)

    bounds = bounds_of(layout.new), bounds_of(layout.known)
    torch.testing.assert_close(output, attend_each(query, key, value, bounds, 0.3))
    assert torch.equal(cache[0].flatten(0, 1)[layout.read()], key.transpose(0, 1))


@pytest.mark.parametrize("page_size", [4, 32])
def test_a_layout_names_each_token_and_its_place(page_size: int) -> None:
    layout = a_layout([(3, 5), (1, 0), (1, 40), (7, 0)], page_size)

    places = layout.read()

    assert layout.positions().tolist() == [5, 6, 7, 0, 40, *range(7)]
    assert len(set(places.tolist())) == len(places) == layout.known.sum()
    starts = layout.known.cumsum() - layout.known
    sequence = np.repeat(np.arange(4), layout.new)
    assert (places[starts[sequence] + layout.positions()] == layout.written()).all()


@given(sequences=SEQUENCES, page_size=st.sampled_from([4, 16]), window=st.integers(1, 40))
def test_a_token_attends_to_the_last_keys_of_a_window(
    sequences: Sequences, page_size: int, window: int
) -> None:
    layout = a_layout(sequences, page_size)
    tokens, total = int(layout.new.sum()), int(layout.known.sum())
    query, key, value = draw(4, tokens, 8), draw(2, total, 8), draw(2, total, 8) + 1
    positions = np.concatenate([np.arange(known) for known in layout.known])
    owners = np.repeat(np.arange(layout.known.size), layout.known)
    fresh = np.flatnonzero(positions >= layout.past[owners])
    cache = [torch.zeros(layout.pages.max() + 1, page_size, 2, 8) for _ in range(2)]
    for pages, kind in zip(cache, (key, value), strict=True):
        pages.flatten(0, 1)[layout.read()] = kind.transpose(0, 1)

    step = PagedStep(layout, torch.float32, window=window)
    output = step.attend_written((query, key[:, fresh], value[:, fresh]), (cache[0], cache[1]), 0.3)

    distance = positions[fresh][:, None] - positions
    seen = (owners[fresh][:, None] == owners) & (distance >= 0) & (distance < window)
    keys, values = (kind.repeat_interleave(2, 0) for kind in (key, value))
    scores = (query @ keys.transpose(1, 2) * 0.3).masked_fill(~torch.from_numpy(seen), -torch.inf)
    torch.testing.assert_close(output, (scores.softmax(-1) @ values).transpose(0, 1))
