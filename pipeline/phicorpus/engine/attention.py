"""Attention over packed sequences without a mask, for transformers' continuous batching.

The library's own path without flash-attn packs all requests into one dense masked attention, whose
cost grows with the square of their number. Here each sequence attends to its own keys alone: by
`torch.nn.attention.varlen` on CUDA (FlashAttention-2 inside the torch wheel), by `cpu_attention` on
a CPU. No flash-attn package, no kernel from the hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, modeling_flash_attention_utils

# "flash": the library then builds no mask; "2": it then offers block tables on CUDA.
NAME = "torch_varlen_flash2"


def register() -> None:
    """Make the attention known to transformers under `NAME`; repeating it does no harm."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _no_mask)
    # The library resolves any name with "flash" in it to functions of the flash-attn package,
    # unless they are loaded already; the block-table function is only asked for its presence.
    flash: Any = modeling_flash_attention_utils
    flash._loaded_implementation = NAME
    flash._flash_fn = flash._flash_varlen_fn = flash._flash_with_kvcache_fn = attend


def _no_mask(*_args: object, **_kwargs: object) -> None:
    return None


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    cache: Any = None,  # noqa: ANN401 the library's paged cache, without a stable type
    **kwargs: Any,  # noqa: ANN401 the library's packed batch
) -> tuple[torch.Tensor, None]:
    """Attend causally within each of several packed sequences.

    Args:
        module: The attention layer; names the layer in the cache.
        query: shape (1, heads, tokens, head size): the new tokens of all sequences.
        key: shape (1, key heads, tokens, head size).
        value: As `key`.
        scaling: Of the scores.
        cache: Holds the keys and values of earlier tokens; None outside continuous batching.
        kwargs: `cu_seq_lens_q`, `cu_seq_lens_k`, `max_length_q`, `max_length_k` of the packed
            batch; `block_table` where each sequence has one new token and reads pages in place;
            `step` on a CPU.

    Returns:
        (output, None): shape (1, tokens, heads, head size).

    Raises:
        ValueError: called without a paged cache, as by a plain `generate`.
    """
    if cache is None:
        raise ValueError(f"{NAME} serves continuous batching only")
    step = kwargs.get("step")
    if step is not None:
        pages = cache.layer_to_allocator[module.layer_idx].get_cache_for_block_table(
            module.layer_idx
        )
        return step.attend((query[0], key[0], value[0]), pages, scaling)[None], None
    key, value = cache.update(
        key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs
    )
    if kwargs.get("block_table") is not None:
        trash = cache.layer_to_allocator[module.layer_idx].write_trash_index
        keys, values = kwargs["k_cache"], kwargs["v_cache"]
        pages = Pages(keys, values, kwargs["block_table"], trash // keys.shape[1])
        new = query[0], key[0], value[0]
        return attend_pages(*new, kwargs["cu_seq_lens_k"], pages, scaling)[None], None
    bounds = kwargs["cu_seq_lens_q"], kwargs["cu_seq_lens_k"]
    longest = kwargs["max_length_q"], kwargs["max_length_k"]
    return attend_packed(query[0], key[0], value[0], bounds, longest, scaling)[None], None


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


def attend_packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: tuple[torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
    scaling: float,
) -> torch.Tensor:
    """Attend as `attend_each` in one CUDA kernel; `longest` are the longest queries and keys."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 needs a CUDA build

    output = varlen_attn(
        query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1),
        bounds[0], bounds[1], longest[0], longest[1],
        scale=scaling, enable_gqa=True, window_size=(-1, 0),
    )  # fmt: skip
    return cast("torch.Tensor", output)  # a tuple only where the sums are asked for


@dataclass(frozen=True, slots=True)
class Pages:
    """Keys and values of all sequences, in pages.

    Attributes:
        keys: shape (pages, page size, key heads, head size).
        values: As `keys`.
        table: Pages of each sequence, in order, shape (sequences, pages per sequence); -1 is none.
        trash: A page that is never read.
    """

    keys: torch.Tensor
    values: torch.Tensor
    table: torch.Tensor
    trash: int


def write_new(
    key: torch.Tensor, value: torch.Tensor, key_bounds: torch.Tensor, pages: Pages
) -> torch.Tensor:
    """Write one new key and value per sequence behind its others.

    Args:
        key: shape (key heads, sequences, head size).
        value: As `key`.
        key_bounds: Cumulated lengths, the new token included, shape (sequences + 1,).
        pages: Written in place. A sequence of length 0 only pads the batch: it writes to the trash.

    Returns:
        Lengths of the sequences, shape (sequences,), int32.
    """
    page_size, rows = pages.keys.shape[1], pages.table.shape[0]
    lengths = key_bounds[1:] - key_bounds[:-1]
    position = (lengths - 1).clamp(min=0).long()
    page = pages.table[torch.arange(rows, device=key.device), position // page_size].long()
    page = torch.where(lengths > 0, page, torch.full_like(page, pages.trash))
    pages.keys[page, position % page_size] = key.transpose(0, 1)[:rows]
    pages.values[page, position % page_size] = value.transpose(0, 1)[:rows]
    return lengths.int()


def attend_pages(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_bounds: torch.Tensor,
    pages: Pages,
    scaling: float,
) -> torch.Tensor:
    """Attend from one new token per sequence, whose other keys are read from their pages. CUDA.

    Args:
        query: shape (heads, sequences, head size).
        key: The new keys, shape (key heads, sequences, head size); written to the pages first.
        value: As `key`.
        key_bounds: Cumulated lengths, the new token included, shape (sequences + 1,).
        pages: The keys and values.
        scaling: Of the scores.

    Returns:
        shape (sequences, heads, head size).
    """
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 needs a CUDA build

    lengths = write_new(key, value, key_bounds, pages)
    longest = pages.table.shape[1] * pages.keys.shape[1]
    each = torch.arange(lengths.shape[0] + 1, device=query.device, dtype=torch.int32)
    output = varlen_attn(
        query.transpose(0, 1), pages.keys, pages.values, each, key_bounds, 1, longest,
        scale=scaling, enable_gqa=True, seqused_k=lengths, block_table=pages.table.clamp(min=0),
        num_splits=1,  # split keys with pages give wrong rows (pytorch issue 194167)
    )  # fmt: skip
    return cast("torch.Tensor", output)
