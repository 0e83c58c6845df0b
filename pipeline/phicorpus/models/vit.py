"""The vision transformer's layer, which SigLIP and CLIP share but for the activation.

Parameter names are the checkpoints'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

Activation = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Sizes of a layer, and its activation."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    layer_norm_eps: float
    activation: Activation


class Attention(nn.Module):
    """Self-attention in both directions."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.q_proj = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.k_proj = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.v_proj = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.out_proj = nn.Linear(shape.hidden_size, shape.hidden_size)

    def forward(self, states: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Attend; states (n, positions, hidden), valid (n, positions) bool or None for all."""
        heads = [
            projection(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        ]
        mask = None if valid is None else valid[:, None, None, :]
        attended = functional.scaled_dot_product_attention(*heads, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers and an activation."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.activation = shape.activation
        self.fc1 = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self.fc2 = nn.Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Transform each position; shape kept."""
        return self.fc2(self.activation(self.fc1(states)))


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.self_attn = Attention(shape)
        self.layer_norm2 = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, states: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Transform (n, positions, hidden); shape kept."""
        states = states + self.self_attn(self.layer_norm1(states), valid)
        return states + self.mlp(self.layer_norm2(states))


class Layers(nn.Module):
    """A stack of layers, under the name that the checkpoints give it."""

    def __init__(self, shape: LayerShape, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(shape) for _ in range(num_layers))

    def forward(self, states: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Transform (n, positions, hidden); shape kept."""
        for layer in self.layers:
            states = layer(states, valid)
        return states


def gelu_tanh(values: torch.Tensor) -> torch.Tensor:
    """Compute the tanh approximation of GELU: SigLIP's."""
    return functional.gelu(values, approximate="tanh")


def quick_gelu(values: torch.Tensor) -> torch.Tensor:
    """Compute the sigmoid approximation of GELU: CLIP's."""
    return values * torch.sigmoid(1.702 * values)
