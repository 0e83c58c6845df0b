"""Check, before they are used, that the CUDA kernels compute what plain attention does."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from transformers import Phi3Config, Phi3ForCausalLM

from phicorpus.engine.attention import Pages, attend_each, attend_packed, attend_pages

# Inputs are drawn from N(0, 1), so outputs are of order 1; bfloat16 has steps of 0.4 %.
TOLERANCE = 0.03

_PAGE_SIZE = 256  # FlashAttention-2 reads pages of a multiple of this
_MIN_CAPABILITY = (8, 0)
_QUERY_LENGTHS = (7, 1, 40, 1, 1)
_KEY_LENGTHS = (7, 300, 300, 1, 1025)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Heads:
    """Sizes of an attention layer."""

    num_heads: int
    num_key_heads: int
    head_size: int

    @staticmethod
    def of(config: Phi3Config) -> Heads:
        """Return the sizes of a decoder's layers."""
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return Heads(heads, config.num_key_value_heads or heads, size)


def why_unsupported(decoder: Phi3ForCausalLM) -> str | None:
    """Return why the kernels cannot serve a decoder on its GPU; None if they can."""
    device, dtype = decoder.device, decoder.dtype
    if torch.cuda.get_device_capability(device) < _MIN_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} has no FlashAttention-2"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"FlashAttention-2 does not compute in {dtype}"
    try:
        deviation = packed_deviation(Heads.of(decoder.config), device, dtype)
    except (ImportError, RuntimeError, TypeError) as error:
        return f"torch's packed attention does not run: {error}"
    if not deviation < TOLERANCE:  # nan too
        return f"torch's packed attention is off by {deviation:.3g}"
    return None


def reads_pages(decoder: Phi3ForCausalLM, page_size: int) -> bool:
    """Return whether decoding on the GPU may read the KV pages in place, by block tables."""
    device, dtype = decoder.device, decoder.dtype
    if device.type != "cuda" or page_size % _PAGE_SIZE:
        return False
    try:
        deviation = paged_deviation(Heads.of(decoder.config), device, dtype, page_size=page_size)
    except (RuntimeError, TypeError) as error:
        log.warning("no block tables", extra={"reason": str(error)})
        return False
    if not deviation < TOLERANCE:  # nan too
        log.warning("no block tables", extra={"reason": f"off by {deviation:.3g}"})
        return False
    return True


def packed_deviation(heads: Heads, device: torch.device, dtype: torch.dtype) -> float:
    """Return the largest difference of `attend_packed` from `attend_each` in float32, or nan."""
    query, key, value = _draw(heads, _QUERY_LENGTHS, device, dtype)
    bounds = _bounds(_QUERY_LENGTHS, device), _bounds(_KEY_LENGTHS, device)
    scaling = heads.head_size**-0.5
    longest = max(_QUERY_LENGTHS), max(_KEY_LENGTHS)
    found = attend_packed(query, key, value, bounds, longest, scaling)
    wanted = attend_each(query.float(), key.float(), value.float(), bounds, scaling)
    return float((found.float() - wanted).abs().max())


def paged_deviation(
    heads: Heads, device: torch.device, dtype: torch.dtype, *, page_size: int
) -> float:
    """Return the largest difference of `attend_pages` from `attend_each` in float32, or nan."""
    ones = (1,) * len(_KEY_LENGTHS)
    query, key, value = _draw(heads, ones, device, dtype)
    bounds = _bounds(ones, device), _bounds(_KEY_LENGTHS, device)
    scaling = heads.head_size**-0.5
    pages = paged(key, value, page_size=page_size)
    last = bounds[1][1:].long() - 1
    found = attend_pages(query, key[:, last], value[:, last], bounds[1], pages, scaling)
    wanted = attend_each(query.float(), key.float(), value.float(), bounds, scaling)
    return float((found.float() - wanted).abs().max())


def paged(key: torch.Tensor, value: torch.Tensor, *, page_size: int) -> Pages:
    """Lay out all but the last key and value of each sequence in pages, in shuffled order."""
    counts = [-(-length // page_size) for length in _KEY_LENGTHS]
    num_pages = sum(counts) + 1
    order = torch.randperm(num_pages, generator=torch.Generator().manual_seed(1)).tolist()
    trash = order.pop()
    shape = (num_pages, page_size, key.shape[0], key.shape[2])
    keys, values = key.new_zeros(shape), value.new_zeros(shape)
    table = torch.full((len(counts), max(counts)), -1, dtype=torch.int32, device=key.device)
    first = 0
    for row, (length, count) in enumerate(zip(_KEY_LENGTHS, counts, strict=True)):
        own = [order.pop() for _ in range(count)]
        table[row, :count] = torch.tensor(own, dtype=torch.int32)
        for place in range(length - 1):
            page = own[place // page_size]
            keys[page, place % page_size] = key[:, first + place]
            values[page, place % page_size] = value[:, first + place]
        first += length
    return Pages(keys, values, table, trash)


def _draw(
    heads: Heads, query_lengths: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (
        (heads.num_heads, sum(query_lengths), heads.head_size),
        (heads.num_key_heads, sum(_KEY_LENGTHS), heads.head_size),
        (heads.num_key_heads, sum(_KEY_LENGTHS), heads.head_size),
    )
    query, key, value = (torch.randn(shape, generator=generator) for shape in shapes)
    return query.to(device, dtype), key.to(device, dtype), value.to(device, dtype)


def _bounds(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    ends = torch.tensor((0, *lengths)).cumsum(0)
    return ends.to(device, torch.int32)
