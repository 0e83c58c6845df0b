"""Try a kernel on its device before it is trusted: does it compute what torch alone does?"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TypeVar

import torch
from transformers import Phi3Config

from phicorpus.engine.attention_kernels import (
    DecodeKernel,
    PackedKernel,
    Packing,
    plain_decode,
    plain_packed,
)

Kernel = TypeVar("Kernel")

# Inputs are drawn from N(0, 1), so outputs are of order 1; bfloat16 has steps of 0.4 %.
TOLERANCE = 0.03

_QUERIES = (7, 40, 1, 256)
_KEYS = (7, 300, 1, 1025)
_LENGTHS = (1, 300, 0, 7, 1025)


@dataclass(frozen=True, slots=True)
class Heads:
    """Sizes of an attention layer, and where and in what it computes."""

    num_heads: int
    num_key_heads: int
    size: int
    device: torch.device
    dtype: torch.dtype

    @staticmethod
    def of(config: Phi3Config, device: torch.device, dtype: torch.dtype) -> Heads:
        """Return the sizes of a decoder's layers."""
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return Heads(heads, config.num_key_value_heads or heads, size, device, dtype)

    def draw(self, seed: int, *shape: int) -> torch.Tensor:
        """Draw numbers, the same ones on every device."""
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return drawn.to(self.device, self.dtype)


def first_trusted(
    candidates: Iterable[tuple[str, Kernel]],
    deviation: Callable[[Kernel], float],
    refused: list[str],
) -> tuple[str, Kernel] | None:
    """Find the first kernel, by its name, that computes what it should.

    Args:
        candidates: Names and kernels, the best first.
        deviation: Runs a kernel, and returns its largest difference from what is right.
        refused: Gets why each kernel before it is not to be used.
    """
    for name, kernel in candidates:
        reason = why_untrusted(partial(deviation, kernel))
        if reason is None:
            return name, kernel
        refused.append(f"{name} {reason}")
    return None


def why_untrusted(deviation: Callable[[], float]) -> str | None:
    """Try a kernel; return why it is not to be used, or None.

    Args:
        deviation: Runs the kernel, and returns its largest difference from what is right.
    """
    try:
        found = deviation()
    except _failures() as error:
        return f"does not run: {type(error).__name__}: {error}"
    return None if found < TOLERANCE else f"is off by {found:.3g}"  # nan is not below


def decode_deviation(kernel: DecodeKernel, heads: Heads, page_size: int) -> float:
    """Return the largest difference of a decode kernel from torch in float32, or nan.

    One row only pads the batch, pages lie in no order, and behind a sequence's keys is nan.
    """
    table, lengths, num_pages = _pages(page_size, heads.device)
    shape = num_pages, page_size, heads.num_key_heads, heads.size
    cache = heads.draw(1, *shape), heads.draw(2, *shape)
    for row, length in enumerate(_LENGTHS):
        if length % page_size:
            for pages in cache:
                pages[table[row, length // page_size], length % page_size :] = torch.nan
    query = heads.draw(3, len(_LENGTHS), heads.num_heads, heads.size)
    found = kernel(query, cache, table, lengths, heads.size**-0.5)
    whole = cache[0].float(), cache[1].float()
    wanted = plain_decode(query.float(), whole, table, lengths, heads.size**-0.5)
    return float((found.float() - wanted).abs().max())


def packed_deviation(kernel: PackedKernel, heads: Heads) -> float:
    """Return the largest difference of a packed kernel from torch in float32, or nan."""
    ends = (torch.tensor([0, *counts]).cumsum(0) for counts in (_QUERIES, _KEYS))
    query_ends, key_ends = (end.to(heads.device, torch.int32) for end in ends)
    packing = Packing(query_ends, key_ends, max(_QUERIES), max(_KEYS))
    query = heads.draw(1, sum(_QUERIES), heads.num_heads, heads.size)
    key, value = (heads.draw(n, sum(_KEYS), heads.num_key_heads, heads.size) for n in (2, 3))
    found = kernel((query, key, value), packing, heads.size**-0.5)
    whole = query.float(), key.float(), value.float()
    wanted = plain_packed(whole, packing, heads.size**-0.5)
    return float((found.float() - wanted).abs().max())


def _pages(page_size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Share out shuffled pages to sequences; return the table, their lengths, and all pages."""
    counts = [-(-length // page_size) for length in _LENGTHS]
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(0)).tolist()
    table = torch.full((len(counts), max(counts)), -1, dtype=torch.int32)
    for row, count in enumerate(counts):
        table[row, :count] = torch.tensor([order.pop() for _ in range(count)])
    lengths = torch.tensor(_LENGTHS, dtype=torch.int32, device=device)
    return table.to(device), lengths, sum(counts)


def _failures() -> tuple[type[Exception], ...]:
    """Return what a kernel raises that is not built for this torch, compiler or GPU."""
    failures = (ImportError, RuntimeError, TypeError, OSError, subprocess.SubprocessError)
    if not find_spec("triton"):
        return failures
    from triton.errors import TritonError  # noqa: PLC0415 where it is

    return *failures, TritonError
