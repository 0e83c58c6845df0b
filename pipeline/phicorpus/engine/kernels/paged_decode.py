"""Attention from one new token per sequence to keys and values in pages (flash decoding).

The keys of a sequence are split, one program takes each split, and a second kernel adds the splits
in order. Where a split begins depends on the sequence's own length alone: neither the other
sequences of the batch nor the width of the page table changes an answer.
"""

# A launch takes options that are no parameters of the kernel.
# pyright: reportCallIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

SPLIT = 512  # keys per program, for sequences up to SPLIT * _MAX_SPLITS
_MAX_SPLITS = 16  # bounds the partial sums; beyond, the splits grow with the sequence
_TILE = 64  # keys loaded at once
_MIN_ROWS = 16  # of a matrix product


def paged_decode(
    query: torch.Tensor,
    cache: tuple[torch.Tensor, torch.Tensor],
    table: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float,
    split: int = SPLIT,
) -> torch.Tensor:
    """Attend from each sequence's newest token to all of its keys. Safe within a CUDA graph.

    Args:
        query: shape (sequences, heads, head size).
        cache: Keys and values, each (pages, page size, key heads, head size), the new ones
            included.
        table: Pages of each sequence, in order, int32, shape (sequences, pages per sequence);
            anything where a sequence has no page.
        lengths: Tokens of each sequence, the new one included, int32, shape (sequences,); 0 only
            pads the batch.
        scaling: Of the scores.
        split: Keys per program, as long as these are no more programs than there may be.

    Returns:
        shape (sequences, heads, head size); 0 for a sequence of length 0.
    """
    keys, values = cache
    sequences, heads, size = query.shape
    page_size, key_heads = keys.shape[1:3]
    splits = min(_MAX_SPLITS, -(-table.shape[1] * page_size // split))
    partial = query.new_empty((sequences, splits, heads, size), dtype=torch.float32)
    log_sums = query.new_empty((sequences, splits, heads), dtype=torch.float32)
    output = query.new_empty(sequences, heads, size)
    padded_size = triton.next_power_of_2(size)
    _attend_split[sequences, key_heads, splits](
        query, keys, values, table, lengths, partial, log_sums, scaling,
        query.stride(0), query.stride(1), table.stride(0),
        keys.stride(0), keys.stride(1), keys.stride(2),
        group=heads // key_heads,
        rows=max(_MIN_ROWS, triton.next_power_of_2(heads // key_heads)),
        size=size, padded_size=padded_size, page_size=page_size,
        tile=_TILE, split=split, max_splits=_MAX_SPLITS,
        num_warps=4, num_stages=3,
    )  # fmt: skip
    _add_splits[sequences, heads](
        partial, log_sums, lengths, output, splits,
        size=size, padded_size=padded_size, tile=_TILE, split=split, max_splits=_MAX_SPLITS,
        num_warps=1,
    )  # fmt: skip
    return output


@triton.jit
def _keys_per_split(length, tile: tl.constexpr, split: tl.constexpr, max_splits: tl.constexpr):
    """Return `split`; for a sequence too long for it, a share in whole tiles."""
    return tl.maximum(split, tl.cdiv(tl.cdiv(length, max_splits), tile) * tile)


@triton.jit
def _attend_split(
    query, keys, values, table, lengths, partial, log_sums, scaling,
    query_stride, query_head_stride, table_stride, page_stride, slot_stride, head_stride,
    group: tl.constexpr, rows: tl.constexpr, size: tl.constexpr, padded_size: tl.constexpr,
    page_size: tl.constexpr, tile: tl.constexpr, split: tl.constexpr, max_splits: tl.constexpr,
):  # fmt: skip
    """Attend to one split of a sequence's keys; the heads that share a key head are rows.

    Writes the weighted mean of the values, and the logarithm to base 2 of the weights' sum.
    """
    sequence, key_head, index = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + sequence)
    num_keys = _keys_per_split(length, tile, split, max_splits)
    first = index * num_keys
    last = tl.minimum(first + num_keys, length)
    if first >= last:
        return
    row, dim, slot = tl.arange(0, rows), tl.arange(0, padded_size), tl.arange(0, tile)
    heads = key_head * group + row
    in_query = (row < group)[:, None] & (dim < size)[None, :]
    queries = tl.load(
        query + sequence * query_stride + heads[:, None] * query_head_stride + dim[None, :],
        mask=in_query, other=0.0,
    )  # fmt: skip
    highest = tl.full((rows,), float("-inf"), tl.float32)
    total = tl.zeros((rows,), tl.float32)
    mean = tl.zeros((rows, padded_size), tl.float32)
    for start in range(first, last, tile):
        position = start + slot
        is_key = position < last
        page = tl.load(
            table + sequence * table_stride + position // page_size, mask=is_key, other=0
        )
        place = page.to(tl.int64) * page_stride + (position % page_size) * slot_stride
        place = place[:, None] + (key_head * head_stride + dim)[None, :]
        in_pages = is_key[:, None] & (dim < size)[None, :]
        key = tl.load(keys + place, mask=in_pages, other=0.0)
        value = tl.load(values + place, mask=in_pages, other=0.0)
        # Without TF32, which float32 would lose digits to; times log2(e), for powers of 2.
        scores = tl.dot(queries, tl.trans(key), input_precision="ieee") * (scaling * 1.44269504)
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(weights, 1)
        added = tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        mean = mean * shrink[:, None] + added
        highest = higher
    num_heads = tl.num_programs(1) * group
    place = (sequence * tl.num_programs(2) + index) * num_heads + heads
    tl.store(partial + place[:, None] * size + dim[None, :], mean / total[:, None], mask=in_query)
    tl.store(log_sums + place, highest + tl.log2(total), mask=row < group)


@triton.jit
def _add_splits(
    partial, log_sums, lengths, output, splits,
    size: tl.constexpr, padded_size: tl.constexpr,
    tile: tl.constexpr, split: tl.constexpr, max_splits: tl.constexpr,
):  # fmt: skip
    """Add one head's splits, the first one first."""
    sequence, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    num_heads = tl.num_programs(1)
    length = tl.load(lengths + sequence)
    used = tl.cdiv(length, _keys_per_split(length, tile, split, max_splits))
    each, dim = tl.arange(0, max_splits), tl.arange(0, padded_size)
    first = sequence * splits * num_heads + head
    sums = tl.load(log_sums + first + each * num_heads, mask=each < used, other=float("-inf"))
    highest = tl.max(sums, 0)
    total = 0.0
    mean = tl.zeros((padded_size,), tl.float32)
    for index in range(used):
        place = first + index * num_heads
        weight = tl.exp2(tl.load(log_sums + place) - highest)
        total += weight
        mean += weight * tl.load(partial + place * size + dim, mask=dim < size, other=0.0)
    mean = mean / tl.where(used > 0, total, 1.0)
    tl.store(output + (sequence * num_heads + head) * size + dim, mean, mask=dim < size)
