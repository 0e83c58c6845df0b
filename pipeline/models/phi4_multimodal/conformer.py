"""Phi-4-multimodal's audio encoder: convolutional stem, conformer blocks and projections.

Module and parameter names are the checkpoint's, below `model.embed_tokens_extend.audio_embed`.
Padding is masked at every place where it could reach a real frame, so a clip's rows do not depend
on the clips beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import CheckpointError
from pipeline.models.phi4_multimodal.audio import FRAMES_PER_ROW, NUM_MELS

# Longer audio is encoded in blocks of so many rows: 40 s.
BLOCK_ROWS = 500
NUM_STRIDES = 3


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


class Stem(nn.Module):
    """Three stride-2 convolutions, the later two separable: 8 frames become one row."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        channels = config.stem_channels
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, stride=2, padding=1), nn.ReLU()]
        for _ in range(NUM_STRIDES - 1):
            layers += [
                nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels),
                nn.Conv2d(channels, channels, 1),
                nn.ReLU(),
            ]
        self.conv = nn.Sequential(*layers)
        self.out = nn.Linear(channels * NUM_MELS // FRAMES_PER_ROW, config.hidden_size)

    def forward(
        self, features: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Convolve (n, frames, mels) of real `lengths` (n,); later frames must be zero.

        Returns:
            (states, lengths): shape (n, rows, hidden) and (n,), real rows.
        """
        states = features[:, None]
        for layer in self.conv:
            states = layer(states)
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                lengths = (lengths - 1) // 2 + 1
            # Biases make padding non-zero again, and the next convolution would read it.
            states = states * _is_real(lengths, states.shape[2])[:, None, :, None]
        return self.out(states.transpose(1, 2).flatten(2)), lengths


class Normalisation(nn.Module):
    """The training set's mean and inverse deviation of each mel band, kept in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.global_mean = nn.Buffer(torch.empty(NUM_MELS))
        self.global_invstd = nn.Buffer(torch.empty(NUM_MELS))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalise (n, frames, mels)."""
        return (features - self.global_mean) * self.global_invstd


class RelativeBias(nn.Module):
    """A learned bias by distance and head, clipped at both ends."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.distance = config.bias_distance
        self.bias_values = nn.Embedding(2 * config.bias_distance, config.num_heads)

    def forward(self, length: int) -> torch.Tensor:
        """Make the bias (1, heads, length, length); rows are queries."""
        positions = torch.arange(length, device=self.bias_values.weight.device)
        distances = (positions[None, :] - positions[:, None]).clamp(
            -self.distance, self.distance - 1
        )
        return self.bias_values(distances + self.distance).permute(2, 0, 1)[None]


class Conformer(nn.Module):
    """Log-mel features to audio states, 12.5 per second."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.encoder_embedding = Normalisation()
        self.embed = Stem(config)
        self.relative_attention_bias_layer = RelativeBias(config)
        self.encoders = nn.ModuleList(Block(config) for _ in range(config.num_blocks))

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Encode a padded batch.

        Args:
            features: shape (n, frames, 80), float32.
            lengths: shape (n,), real frames of each clip.

        Returns:
            States, shape (n, ceil(frames / 8), hidden); a clip owns the first ceil(length / 8).
        """
        real = _is_real(lengths, features.shape[1])
        normalised = self.encoder_embedding(features) * real[..., None]
        states, lengths = self.embed(normalised.to(self.embed.out.weight.dtype), lengths)
        num_clips, num_rows, size = states.shape
        block_rows = num_rows
        if num_rows > BLOCK_ROWS:
            block_rows = BLOCK_ROWS
            states = functional.pad(states, (0, 0, 0, -num_rows % BLOCK_ROWS))
        real = _is_real(lengths, states.shape[1]).reshape(-1, block_rows)
        states = states.reshape(-1, block_rows, size)
        bias = self._bias(real, states.dtype)
        for block in self.encoders:
            states = block(states, bias)
        return states.reshape(num_clips, -1, size)[:, :num_rows]

    def _bias(self, real: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Add "not there" to the distance bias at padding; real (n, rows) bool."""
        bias = self.relative_attention_bias_layer(real.shape[1])
        if bool(real.all()):
            return bias
        # A block without any real row attends everywhere: no empty softmax, and nobody reads it.
        hidden = ~real & real.any(dim=1, keepdim=True)
        return bias + hidden[:, None, None, :].to(dtype) * torch.finfo(dtype).min


class AudioEncoder(nn.Module):
    """Log-mel features to feature rows in the decoder's space."""

    def __init__(self, config: ConformerConfig, decoder_size: int) -> None:
        super().__init__()
        self.encoder = Conformer(config)
        # "vision" is the projection of audio that has an image beside it in its request.
        self.audio_projection = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(config.hidden_size, decoder_size),
                    nn.GELU(),
                    nn.Linear(decoder_size, decoder_size),
                )
                for name in ("speech", "vision")
            }
        )

    def forward(
        self, mels: Sequence[torch.Tensor], with_image: Sequence[bool]
    ) -> list[torch.Tensor]:
        """Encode a batch of clips, padded to the longest of them.

        Args:
            mels: Log-mel features of each clip, shape (frames, 80), float32, on the device.
            with_image: Whether the clip's request has an image, which chooses the projection.

        Returns:
            One tensor (ceil(frames / 8), decoder hidden) per clip.
        """
        lengths = torch.tensor([len(mel) for mel in mels], device=mels[0].device)
        states = self.encoder(nn.utils.rnn.pad_sequence(list(mels), batch_first=True), lengths)
        return [
            self.audio_projection["vision" if beside else "speech"](
                own[: -(-len(mel) // FRAMES_PER_ROW)]
            )
            for own, mel, beside in zip(states, mels, with_image, strict=True)
        ]


def _is_real(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """Mark the positions below each length; shape (n, size), bool."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
