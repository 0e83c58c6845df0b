"""Phi-4-multimodal's audio encoder: convolutional stem, conformer blocks and projections.

Module and parameter names are the checkpoint's, below `model.embed_tokens_extend.audio_embed`.
Padding is masked at every place where it could reach a real frame, so a clip's rows do not depend
on the clips beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from phicorpus.models.phi4_multimodal.audio import BLOCK_ROWS, FRAMES_PER_ROW, NUM_MELS
from phicorpus.models.phi4_multimodal.conformer import Block, ConformerConfig

NUM_STRIDES = 3


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

    def forward(
        self,
        features: torch.Tensor,
        lengths: torch.Tensor,
        attends_filling: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encode a padded batch.

        Clips of more than 500 rows, 40 s, are encoded in blocks of 500; rows of zeros, behind the
        convolutions, fill up a clip's last block. The original code makes an attention mask only
        for a request of two clips or more: without one a clip attends to that filling.

        Args:
            features: shape (n, frames, 80), float32.
            lengths: shape (n,), real frames of each clip.
            attends_filling: shape (n,), bool: what a clip of more than 500 rows does. None: no clip
                does.

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
            # The stem's last layer has a bias: rows behind a clip are not zero yet.
            states = states * _is_real(lengths, num_rows)[..., None]
            states = functional.pad(states, (0, 0, 0, -num_rows % BLOCK_ROWS))
            if attends_filling is None:
                attends_filling = torch.zeros_like(lengths, dtype=torch.bool)
            filled = torch.div(lengths - 1, BLOCK_ROWS, rounding_mode="floor") + 1
            lengths = lengths.where(~attends_filling | (lengths <= BLOCK_ROWS), filled * BLOCK_ROWS)
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
        self,
        mels: Sequence[torch.Tensor],
        with_image: Sequence[bool],
        attends_filling: Sequence[bool] | None = None,
    ) -> list[torch.Tensor]:
        """Encode a batch of clips, padded to the longest of them.

        Args:
            mels: Log-mel features of each clip, shape (frames, 80), float32, on the device.
            with_image: Whether the clip's request has an image, which chooses the projection.
            attends_filling: See `Slot.attends_filling`. None: no clip does.

        Returns:
            One tensor (ceil(frames / 8), decoder hidden) per clip.
        """
        lengths = torch.tensor([len(mel) for mel in mels], device=mels[0].device)
        attends = [False] * len(mels) if attends_filling is None else attends_filling
        states = self.encoder(
            nn.utils.rnn.pad_sequence(list(mels), batch_first=True),
            lengths,
            torch.tensor(attends, device=mels[0].device),
        )
        return [
            self.audio_projection["vision" if beside else "speech"](
                own[: -(-len(mel) // FRAMES_PER_ROW)]
            )
            for own, mel, beside in zip(states, mels, with_image, strict=True)
        ]


def _is_real(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """Mark the positions below each length; shape (n, size), bool."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]
