"""Rotary embedding of queries and keys, and the write of keys and values to their pages, in one."""

# A launch takes options that are no parameters of the kernel.
# pyright: reportCallIssue=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

_HEADS_PER_PROGRAM = 8


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosine and sine of each token's rotated dimensions.

    Attributes:
        cosine: shape (tokens, rotated dimensions); the first half of a head's dimensions is
            rotated against the second, and the dimensions beyond stay what they are.
        sine: As `cosine`.
    """

    cosine: torch.Tensor
    sine: torch.Tensor


def rotate_and_write(
    projected: torch.Tensor,
    rotation: Rotation,
    cache: tuple[torch.Tensor, torch.Tensor],
    slots: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rotate queries and keys, and write keys and values to their pages. Safe within a CUDA graph.

    Args:
        projected: Queries, keys and values of each token, head after head, shape
            (tokens, (heads + 2 * key heads) * head size).
        rotation: Of each token.
        cache: Keys and values, each (pages, page size, key heads, head size); written in place.
        slots: Place of each token's key, counted in tokens from the first page, int64,
            shape (tokens,).

    Returns:
        (query, key, value): rotated queries (tokens, heads, head size); rotated keys and the
        values, each (tokens, key heads, head size).
    """
    keys, values = cache
    tokens, width = projected.shape
    page_size, key_heads, size = keys.shape[1:]
    heads = width // size - 2 * key_heads
    half = rotation.cosine.shape[-1] // 2
    rest = size - 2 * half
    rotated = projected.new_empty(tokens, heads + key_heads, size)
    _rotate_and_write[tokens, triton.cdiv(heads + 2 * key_heads, _HEADS_PER_PROGRAM)](
        projected, rotation.cosine, rotation.sine, slots, rotated, keys, values,
        projected.stride(0), rotation.cosine.stride(0),
        keys.stride(0), keys.stride(1), keys.stride(2),
        heads=heads, key_heads=key_heads, size=size, page_size=page_size,
        half=half, padded_half=triton.next_power_of_2(half),
        padded_rest=triton.next_power_of_2(rest) if rest else 0,
        block=_HEADS_PER_PROGRAM, num_warps=4,
    )  # fmt: skip
    value = projected[:, (heads + key_heads) * size :].unflatten(1, (key_heads, size))
    return rotated[:, :heads], rotated[:, heads:], value


@triton.jit
def _rotate_and_write(
    projected, cosines, sines, slots, rotated, keys, values,
    token_stride, angle_stride, page_stride, slot_stride, head_stride,
    heads: tl.constexpr, key_heads: tl.constexpr, size: tl.constexpr, page_size: tl.constexpr,
    half: tl.constexpr, padded_half: tl.constexpr, padded_rest: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Take some heads of one token: queries come first, then keys, then values."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * block + tl.arange(0, block)
    slot = tl.load(slots + token)
    page = (slot // page_size) * page_stride + (slot % page_size) * slot_stride
    source = projected + token * token_stride + head * size
    target = rotated + token * ((heads + key_heads) * size) + head * size
    key_target = keys + page + (head - heads) * head_stride
    value_target = values + page + (head - heads - key_heads) * head_stride
    is_key = (head >= heads) & (head < heads + key_heads)
    is_value = (head >= heads + key_heads) & (head < heads + 2 * key_heads)
    is_turned = head < heads + key_heads

    low = tl.arange(0, padded_half)
    high = low + half
    in_half = low < half
    mask = (is_turned | is_value)[:, None] & in_half[None, :]
    x = tl.load(source[:, None] + low[None, :], mask=mask, other=0.0)
    y = tl.load(source[:, None] + high[None, :], mask=mask, other=0.0)
    angles = token * angle_stride
    turned_x = x * tl.load(cosines + angles + low, mask=in_half, other=0.0).to(tl.float32)[None, :]
    turned_x -= y * tl.load(sines + angles + low, mask=in_half, other=0.0).to(tl.float32)[None, :]
    turned_y = y * tl.load(cosines + angles + high, mask=in_half, other=0.0).to(tl.float32)[None, :]
    turned_y += x * tl.load(sines + angles + high, mask=in_half, other=0.0).to(tl.float32)[None, :]
    turned = is_turned[:, None] & in_half[None, :]
    key = is_key[:, None] & in_half[None, :]
    value = is_value[:, None] & in_half[None, :]
    tl.store(target[:, None] + low[None, :], turned_x, mask=turned)
    tl.store(target[:, None] + high[None, :], turned_y, mask=turned)
    tl.store(key_target[:, None] + low[None, :], turned_x, mask=key)
    tl.store(key_target[:, None] + high[None, :], turned_y, mask=key)
    tl.store(value_target[:, None] + low[None, :], x, mask=value)
    tl.store(value_target[:, None] + high[None, :], y, mask=value)
    if padded_rest > 0:
        dim = 2 * half + tl.arange(0, padded_rest)
        in_rest = (dim < size)[None, :]
        mask = (is_turned | is_value)[:, None] & in_rest
        rest = tl.load(source[:, None] + dim[None, :], mask=mask, other=0.0)
        tl.store(target[:, None] + dim[None, :], rest, mask=is_turned[:, None] & in_rest)
        tl.store(key_target[:, None] + dim[None, :], rest, mask=is_key[:, None] & in_rest)
        tl.store(value_target[:, None] + dim[None, :], rest, mask=is_value[:, None] & in_rest)
