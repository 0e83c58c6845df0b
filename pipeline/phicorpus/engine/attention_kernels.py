"""Kernels of attention on a GPU, whatever library they are of, behind two signatures.

A decode kernel attends from each sequence's newest token to keys and values in pages; a packed
kernel causally within each of several prompts that lie one after another. Which of them there are
is found out by what is installed and by the schema of torch's operator, never by a version.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch.nn import functional

from phicorpus.engine.cpu_attention import Cache

FLASH_PAGE = 256  # tokens; FlashAttention-2 reads pages of a multiple of it


@dataclass(frozen=True, slots=True)
class Packing:
    """Sequences one after another; queries stand behind the keys that have none.

    Attributes:
        query_ends: Cumulated numbers of queries, int32, shape (sequences + 1,).
        key_ends: As `query_ends`, of keys.
        most_queries: Of one sequence.
        most_keys: Of one sequence.
    """

    query_ends: torch.Tensor
    key_ends: torch.Tensor
    most_queries: int
    most_keys: int


# (query, cache, table, lengths, scaling), as `kernels.paged_decode`; a GPU graph may replay it.
DecodeKernel = Callable[[torch.Tensor, Cache, torch.Tensor, torch.Tensor, float], torch.Tensor]
Packed = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # as `New`, but (tokens, heads, size)
PackedKernel = Callable[[Packed, Packing, float], torch.Tensor]  # returns (tokens, heads, size)


def decode_kernels(page_size: int) -> Iterator[tuple[str, DecodeKernel]]:
    """Find the decode kernels that are installed and read such pages, the best first."""
    if find_spec("triton"):
        yield "triton paged", triton_decode
    if page_size % FLASH_PAGE == 0:
        if find_spec("flash_attn"):
            yield "flash-attn paged", flash_attn_decode
        if {"seqused_k", "block_table", "num_splits"} <= _torch_arguments():
            yield "torch flash paged", torch_decode


def packed_kernels() -> Iterator[tuple[str, PackedKernel]]:
    """Find the packed kernels that are installed, the best first."""
    if {"cum_seq_q", "cum_seq_k", "max_q", "max_k", "is_causal", "scale"} <= _torch_arguments():
        yield "torch flash", torch_packed
    if find_spec("flash_attn"):
        yield "flash-attn", flash_attn_packed


def _torch_arguments() -> set[str]:
    """Return the names of the arguments of torch's FlashAttention; none: it has none."""
    operator = getattr(torch.ops.aten, "_flash_attention_forward", None)
    if operator is None:
        return set()
    return {argument.name for argument in operator.default._schema.arguments}


def triton_decode(
    query: torch.Tensor, cache: Cache, table: torch.Tensor, lengths: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Attend by this project's own kernel."""
    from phicorpus.engine.kernels.paged_decode import paged_decode  # noqa: PLC0415 needs Triton

    return paged_decode(query, cache, table, lengths, scaling)


def flash_attn_decode(
    query: torch.Tensor, cache: Cache, table: torch.Tensor, lengths: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Attend by the flash-attn package; unsplit, since it splits by the size of the batch."""
    attended = importlib.import_module("flash_attn").flash_attn_with_kvcache(
        query[:, None], *cache, cache_seqlens=lengths, block_table=table.clamp(min=0),
        softmax_scale=scaling, num_splits=1,
    )  # fmt: skip
    return attended[:, 0]


def torch_decode(
    query: torch.Tensor, cache: Cache, table: torch.Tensor, lengths: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Attend by torch's operator; unsplit, since its split keys are wrong (pytorch #194167)."""
    each = torch.arange(query.shape[0] + 1, dtype=torch.int32, device=query.device)
    longest = table.shape[1] * cache[0].shape[1]
    return torch.ops.aten._flash_attention_forward(
        query, *cache, each, each, 1, longest, 0.0, False, False,
        scale=scaling, seqused_k=lengths, block_table=table.clamp(min=0), num_splits=1,
    )[0]  # fmt: skip


def plain_decode(
    query: torch.Tensor, cache: Cache, table: torch.Tensor, lengths: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Attend by torch alone, on any device: it reads the whole width of the table."""
    sequences, heads, size = query.shape
    key_heads = cache[0].shape[2]
    place = torch.arange(table.shape[1] * cache[0].shape[1], device=query.device)
    is_key = place < lengths[:, None]
    keys, values = (
        # Zero, since no weight of zero takes away the nan that a page may hold behind its keys.
        pages[table.clamp(min=0).long()].flatten(1, 2).masked_fill(~is_key[..., None, None], 0)
        for pages in cache
    )
    # A sequence of length 0 attends to zeros: without any key it would become nan.
    mask = (is_key | (lengths == 0)[:, None])[:, None, None]
    attended = functional.scaled_dot_product_attention(
        query.reshape(sequences, key_heads, heads // key_heads, size),
        keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask, scale=scaling,
    )  # fmt: skip
    return attended.reshape(sequences, heads, size)


def torch_packed(new: Packed, packing: Packing, scaling: float) -> torch.Tensor:
    """Attend by the operator below torch's own attention: FlashAttention-2."""
    return torch.ops.aten._flash_attention_forward(
        *new, packing.query_ends, packing.key_ends,
        packing.most_queries, packing.most_keys, 0.0, True, False, scale=scaling,
    )[0]  # fmt: skip


def flash_attn_packed(new: Packed, packing: Packing, scaling: float) -> torch.Tensor:
    """Attend by the flash-attn package."""
    return importlib.import_module("flash_attn").flash_attn_varlen_func(
        *new, packing.query_ends, packing.key_ends,
        packing.most_queries, packing.most_keys, softmax_scale=scaling, causal=True,
    )  # fmt: skip


def plain_packed(new: Packed, packing: Packing, scaling: float) -> torch.Tensor:
    """Attend by torch alone, one sequence after another: the reference."""
    parts = []
    sizes = (packing.query_ends.diff().tolist(), packing.key_ends.diff().tolist())
    splits = (each.split(sizes[place > 0]) for place, each in enumerate(new))
    for q, k, v in zip(*splits, strict=True):
        mask = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device)
        q, k, v = (part[None].transpose(1, 2) for part in (q, k, v))  # noqa: PLW2901
        attended = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask.tril(k.shape[2] - q.shape[2]), scale=scaling, enable_gqa=True
        )
        parts.append(attended[0].transpose(0, 1))
    return torch.cat(parts)
