"""The gated activation of the decoder's feed-forward part."""

# A launch takes options that are no parameters of the kernel.
# pyright: reportCallIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 1024


def silu_and_multiply(gate_up: torch.Tensor) -> torch.Tensor:
    """Multiply the second half of each row by the SiLU of its first. Safe within a CUDA graph.

    Rounds where transformers' Phi3MLP does: the activation, and the product.

    Args:
        gate_up: shape (tokens, 2 * width).

    Returns:
        shape (tokens, width).
    """
    tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    output = gate_up.new_empty(tokens, width)
    _silu_and_multiply[tokens, triton.cdiv(width, _BLOCK)](
        gate_up, output, gate_up.stride(0), width=width, block=_BLOCK, num_warps=4
    )
    return output


@triton.jit
def _silu_and_multiply(gate_up, output, stride, width: tl.constexpr, block: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    dim = tl.program_id(1) * block + tl.arange(0, block)
    mask = dim < width
    gate = tl.load(gate_up + token * stride + dim, mask=mask, other=0.0)
    up = tl.load(gate_up + token * stride + width + dim, mask=mask, other=0.0)
    x = gate.to(tl.float32)
    x = (x / (1.0 + tl.exp(-x))).to(gate.dtype).to(tl.float32)
    tl.store(output + token * width + dim, x * up.to(tl.float32), mask=mask)
