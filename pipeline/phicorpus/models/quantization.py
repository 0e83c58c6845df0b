"""Linear layers with weights of 8 bits and a scale for each output, of torch's own operators.

int8 halves (a quarter of float32) what the weights take, on any device: activations stay as they
are, and weights are widened for the product. fp8 multiplies 8 bits by 8 bits: on GPUs that can.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from phicorpus.config import Quantization
from phicorpus.errors import CheckpointError, ConfigError

# FP8 arithmetic came with Ada and Hopper (compute capability 8.9 and 9.0).
FLOAT8_CAPABILITY = (8, 9)
_FLOAT8 = torch.float8_e4m3fn
_FLOAT8_MAX = torch.finfo(_FLOAT8).max
_FLOAT8_MULTIPLE = 16  # the operator's own limit on both sizes
_INT8_MAX = 127
_ROWS = 512  # of 8,192 inputs, widened to float32: 16 MB, within a server's cache


def check_device(quantization: Quantization, device: torch.device, dtype: torch.dtype) -> None:
    """Check that a device can multiply by such weights.

    Raises:
        ConfigError: it cannot; says what to set instead.
    """
    if quantization != "fp8":
        return
    capability = torch.cuda.get_device_capability() if device.type == "cuda" else None
    why = why_no_float8(capability, dtype)
    if why is not None:
        raise ConfigError(f"model.quantization is fp8, {why}. Set int8, which runs anywhere")


def why_no_float8(capability: tuple[int, int] | None, dtype: torch.dtype) -> str | None:
    """Return why a device cannot multiply FP8 weights; None: it can.

    Args:
        capability: The compute capability of an NVIDIA GPU; None: another device.
        dtype: Of activations.

    Example:
        >>> why_no_float8((8, 0), torch.bfloat16)
        'which takes an NVIDIA GPU of compute capability 8.9 (Ada, Hopper) or newer, not 8.0'
    """
    if capability is None or capability < FLOAT8_CAPABILITY:
        found = f"not {capability[0]}.{capability[1]}" if capability else "and this is none"
        return (
            f"which takes an NVIDIA GPU of compute capability 8.9 (Ada, Hopper) or newer, {found}"
        )
    if dtype != torch.bfloat16:
        return f"which takes bfloat16 beside it, and the model runs in {dtype}"
    if not hasattr(functional, "scaled_mm"):
        return f"which takes torch.nn.functional.scaled_mm, and torch {torch.__version__} has none"
    return None


class Int8Linear(nn.Module):
    """A linear layer without bias whose weights are integers.

    A CPU widens and multiplies a few rows at a time, so that they are in its cache.

    Attributes:
        weight: shape (outputs, inputs), int8.
        scale: shape (outputs,), in the dtype of activations.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        wide = weight.float()
        # In the dtype that it multiplies in, so that its rounding is no error.
        scale = (wide.abs().amax(1) / _INT8_MAX).to(dtype).clamp(min=torch.finfo(dtype).tiny)
        integers = (wide / scale.float()[:, None]).round_().clamp_(-_INT8_MAX, _INT8_MAX)
        self.register_buffer("weight", integers.to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply activations, shape (..., inputs), to shape (..., outputs)."""
        if x.dtype == torch.float16:  # sums of up to 127 x would leave its range, at 65,504
            return functional.linear(x, self.weight.to(x.dtype).mul_(self.scale[:, None]))
        if x.device.type != "cpu":
            return functional.linear(x, self.weight.to(x.dtype)) * self.scale
        wide = x.new_empty(min(_ROWS, len(self.weight)), self.weight.shape[1])
        parts = [
            functional.linear(x, wide[: len(part)].copy_(part)) for part in self.weight.split(_ROWS)
        ]
        return torch.cat(parts, dim=-1).mul_(self.scale)


class Float8Linear(nn.Module):
    """A linear layer without bias whose weights and activations are FP8 (e4m3), scaled by row.

    Attributes:
        weight: shape (outputs, inputs), float8.
        scale: shape (1, outputs), float32.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        scaled, scale = _to_float8(weight.float())
        self.register_buffer("weight", scaled)
        self.register_buffer("scale", scale.reshape(1, -1).contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply activations, shape (..., inputs), to shape (..., outputs)."""
        operators: Any = functional  # scaled_mm is newer than the oldest torch
        rows, scale = _to_float8(x.reshape(-1, x.shape[-1]))
        by_row = operators.ScalingType.RowWise
        product = operators.scaled_mm(
            rows, self.weight.t(), scale, by_row, self.scale, by_row,
            output_dtype=x.dtype, use_fast_accum=True,
        )  # fmt: skip
        return product.reshape(*x.shape[:-1], -1)


def _to_float8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale rows to the range of FP8; scales have shape (rows, 1), float32."""
    scale = rows.abs().amax(1, keepdim=True).float() / _FLOAT8_MAX
    scale.clamp_(min=torch.finfo(torch.float32).tiny)
    return (rows / scale).clamp_(-_FLOAT8_MAX, _FLOAT8_MAX).to(_FLOAT8), scale


def put_quantized(
    module: nn.Module, name: str, value: torch.Tensor, kind: tuple[Quantization, torch.dtype]
) -> None:
    """Put a linear layer of 8 bits in the place of one.

    Args:
        module: Holds the layer.
        name: Of the layer's weight.
        value: The weight, on its device, any adapters merged.
        kind: How, and the dtype of activations.

    Raises:
        CheckpointError: FP8 does not take the weight's sizes.
    """
    quantization, dtype = kind
    if quantization == "fp8" and any(size % _FLOAT8_MULTIPLE for size in value.shape):
        raise CheckpointError(
            f"{name} has sizes {list(value.shape)}, and fp8 takes multiples of {_FLOAT8_MULTIPLE}:"
            " set model.quantization to int8"
        )
    layer = Int8Linear(value, dtype) if quantization == "int8" else Float8Linear(value)
    module.set_submodule(name.removesuffix(".weight"), layer)
