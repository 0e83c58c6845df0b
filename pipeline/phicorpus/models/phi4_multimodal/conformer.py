"""The conformer blocks of Phi-4-multimodal's audio encoder, and the encoder's shape.

Module and parameter names are the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from phicorpus.errors import CheckpointError
from phicorpus.models.phi4_multimodal.audio import FRAMES_PER_ROW, NUM_MELS


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformerConfig:
    """The audio encoder's shape, from `audio_processor.config` of config.json."""

    hidden_size: int
    num_heads: int
    feed_forward_size: int
    num_blocks: int
    stem_channels: int
    kernel_size: int
    bias_distance: int

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> ConformerConfig:
        """Read a checkpoint's config.json.

        Raises:
            CheckpointError: a key is missing, or asks for an encoder that is not this one.
        """
        try:
            audio = config["audio_processor"]["config"]
            bias = audio["relative_attention_bias_args"]
            shape = cls(
                hidden_size=audio["attention_dim"],
                num_heads=audio["attention_heads"],
                feed_forward_size=audio["linear_units"],
                num_blocks=audio["num_blocks"],
                stem_channels=audio["nemo_conv_settings"]["conv_channels"],
                kernel_size=audio["kernel_size"],
                bias_distance=bias["t5_bias_max_distance"],
            )
            found = (audio["input_size"], audio["time_reduction"], bias["type"])
        except KeyError as error:
            raise CheckpointError(f"config.json: audio_processor lacks {error}") from error
        if found != (NUM_MELS, FRAMES_PER_ROW, "t5") or bias.get("t5_bias_symmetric", False):
            raise CheckpointError(
                f"config.json: audio_processor has (input_size, time_reduction, bias) {found};"
                f" supported: {(NUM_MELS, FRAMES_PER_ROW, 't5')}, not symmetric"
            )
        return shape


class SwishGlu(nn.Module):
    """A linear layer whose first half is gated by the swish of its second."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, 2 * config.feed_forward_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Transform (..., hidden) to (..., feed_forward)."""
        values, gates = self.linear(states).chunk(2, dim=-1)
        return values * functional.silu(gates)


class FeedForward(nn.Module):
    """Half a macaron: norm, gated linear, linear."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.hidden_size)
        self.net = nn.Sequential(
            SwishGlu(config),
            nn.Identity(),  # dropout in training; keeps the checkpoint's numbering
            nn.Linear(config.feed_forward_size, config.hidden_size),
        )

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Transform each position; shape kept."""
        return self.net(self.layer_norm(states))


class Attention(nn.Module):
    """Self-attention in both directions with an additive bias."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.linear_q = nn.Linear(config.hidden_size, config.hidden_size)
        self.linear_k = nn.Linear(config.hidden_size, config.hidden_size)
        self.linear_v = nn.Linear(config.hidden_size, config.hidden_size)
        self.linear_out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Attend; states (n, time, hidden), bias (n or 1, heads, time, time)."""
        heads = [
            projection(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.linear_q, self.linear_k, self.linear_v)
        ]
        attended = functional.scaled_dot_product_attention(*heads, attn_mask=bias)
        return self.linear_out(attended.transpose(1, 2).flatten(2))


class GatedPointwise(nn.Module):
    """A pointwise convolution, gated by swish, each half with a bias of its own."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.ext_pw_conv_1d = nn.Conv1d(config.hidden_size, 2 * config.hidden_size, 1)
        self.b1 = nn.Parameter(torch.empty(1, config.hidden_size, 1))
        self.b2 = nn.Parameter(torch.empty(1, config.hidden_size, 1))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Transform (n, hidden, time); shape kept."""
        values, gates = self.ext_pw_conv_1d(states).chunk(2, dim=1)
        return (values + self.b1) * functional.silu(gates + self.b2)


class SeparableConvolution(nn.Module):
    """A causal depthwise convolution and a pointwise one."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_before = config.kernel_size - 1
        self.dw_conv = nn.Conv1d(size, size, config.kernel_size, groups=size)
        self.pw_conv = nn.Conv1d(size, size, 1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Transform (n, hidden, time); shape kept, no position sees a later one."""
        return self.pw_conv(self.dw_conv(functional.pad(states, (self.num_before, 0))))


class Convolution(nn.Module):
    """The convolution module of a block."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.hidden_size)
        self.glu = GatedPointwise(config)
        self.dw_sep_conv_1d = SeparableConvolution(config)
        self.ext_pw_conv_1d = nn.Conv1d(config.hidden_size, config.hidden_size, 1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Transform (n, time, hidden); shape kept."""
        mixed = self.dw_sep_conv_1d(self.glu(self.layer_norm(states).transpose(1, 2)))
        return self.ext_pw_conv_1d(functional.silu(mixed)).transpose(1, 2)


class Block(nn.Module):
    """One conformer block."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.feed_forward_in = FeedForward(config)
        self.self_attn = Attention(config)
        self.conv = Convolution(config)
        self.feed_forward_out = FeedForward(config)
        self.layer_norm_att = nn.LayerNorm(config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size)

    def forward(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Transform (n, time, hidden); shape kept."""
        states = states + 0.5 * self.feed_forward_in(states)
        states = states + self.self_attn(self.layer_norm_att(states), bias)
        states = states + self.conv(states)
        states = states + 0.5 * self.feed_forward_out(states)
        return self.layer_norm(states)
