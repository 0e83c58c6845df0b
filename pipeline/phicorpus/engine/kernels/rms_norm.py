"""Root mean square normalisation, with the residual added before it."""

# A launch takes options that are no parameters of the kernel.
# pyright: reportCallIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl


def add_and_normalize(
    states: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add a residual to states, and normalise the sum. Safe within a CUDA graph.

    Rounds where transformers' Phi3RMSNorm does: the sum, the normalised sum, and their product
    with the weight.

    Args:
        states: shape (tokens, width).
        residual: As `states`; None: nothing is added.
        weight: shape (width,).
        epsilon: Added to the mean square.

    Returns:
        (normalised, sum): each as `states`; without a residual the sum is `states` itself.
    """
    tokens, width = states.shape
    normalized = states.new_empty(tokens, width)
    added = states if residual is None else states.new_empty(tokens, width)
    _add_and_normalize[(tokens,)](
        states, states if residual is None else residual, weight, normalized, added, epsilon,
        states.stride(0), added.stride(0) if residual is None else residual.stride(0),
        width=width, block=triton.next_power_of_2(width), adds=residual is not None,
        num_warps=8 if width > 2048 else 4,  # noqa: PLR2004 sixteen numbers per thread at most
    )  # fmt: skip
    return normalized, added


@triton.jit
def _add_and_normalize(
    states, residual, weight, normalized, added, epsilon, states_stride, residual_stride,
    width: tl.constexpr, block: tl.constexpr, adds: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    dim = tl.arange(0, block)
    mask = dim < width
    x = tl.load(states + token * states_stride + dim, mask=mask, other=0.0)
    kind = x.dtype
    if adds:
        y = tl.load(residual + token * residual_stride + dim, mask=mask, other=0.0)
        x = (x.to(tl.float32) + y.to(tl.float32)).to(kind)
        tl.store(added + token * width + dim, x, mask=mask)
    x = x.to(tl.float32)
    x = (x * tl.rsqrt(tl.sum(x * x, 0) / width + epsilon)).to(kind).to(tl.float32)
    x *= tl.load(weight + dim, mask=mask, other=0.0).to(tl.float32)
    tl.store(normalized + token * width + dim, x, mask=mask)
