"""Phi3's decoder layer with everything but its products and attention in fused kernels.

Between such layers the hidden states travel in two parts, a layer's output and the residual, which
the next layer's first kernel adds; the norm behind the last layer puts them together again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer, Phi3RMSNorm

from phicorpus.engine.attention.layout import Step
from phicorpus.engine.kernels.rms_norm import add_and_normalize
from phicorpus.engine.kernels.rotary import Rotation, rotate_and_write
from phicorpus.engine.kernels.silu import silu_and_multiply


@dataclass(frozen=True, slots=True)
class Stream:
    """Hidden states between layers.

    Attributes:
        output: Of the layer before, shape (tokens, width).
        residual: To be added, as `output`.
        num_tokens: Of the step.
        asked: The tokens that are left; None: all of the step.
    """

    output: torch.Tensor
    residual: torch.Tensor
    num_tokens: int
    asked: torch.Tensor | None


class FusedLayer(nn.Module):
    """A decoder layer in place of transformers' own, with the same parts under the same names.

    Args:
        layer: Its projections are called as the modules that they are.
        is_last: Behind attention, work on for the tokens of `logits_indices` alone; of the others
            nothing but key and value is needed.
    """

    def __init__(self, layer: Phi3DecoderLayer, *, is_last: bool = False) -> None:
        super().__init__()
        self.self_attn, self.mlp = layer.self_attn, layer.mlp
        self.input_layernorm = layer.input_layernorm
        self.post_attention_layernorm = layer.post_attention_layernorm
        self._place = layer.self_attn.layer_idx or 0
        self._is_last = is_last

    def forward(
        self,
        hidden_states: torch.Tensor | Stream,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        step: Step,
        kv_pages: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]],
        logits_indices: torch.Tensor | None = None,
        **_kwargs: Any,  # noqa: ANN401 what transformers hands to every layer besides
    ) -> Stream:
        """Compute a layer.

        Args:
            hidden_states: shape (1, tokens, width), or what another fused layer returned.
            position_embeddings: Cosine and sine, shape (1, tokens, rotated dimensions).
            step: The attention of the step.
            kv_pages: Keys and values by layer, each (pages, page size, key heads, head size).
            logits_indices: The tokens whose logits are read; None: all.
        """
        is_first = not isinstance(hidden_states, Stream)
        output = hidden_states[0] if is_first else hidden_states.output
        residual = None if is_first else hidden_states.residual
        states, residual = normalize(self.input_layernorm, output, residual)
        projected = self.self_attn.qkv_proj(states)
        pages = kv_pages[0][self._place], kv_pages[1][self._place]
        rotation = Rotation(position_embeddings[0][0], position_embeddings[1][0])
        new = rotate_and_write(projected, rotation, pages, step.slots)
        query, key, value = (part.transpose(0, 1) for part in new)
        states = step.attend_written((query, key, value), pages, self.self_attn.scaling).flatten(1)
        num_tokens, asked = len(states), None
        if self._is_last and logits_indices is not None and len(logits_indices) < num_tokens:
            asked = logits_indices
            states, residual = states[asked], residual[asked]
        output = self.self_attn.o_proj(states)
        states, residual = normalize(self.post_attention_layernorm, output, residual)
        states = silu_and_multiply(self.mlp.gate_up_proj(states))
        return Stream(self.mlp.down_proj(states), residual, num_tokens, asked)


class FusedNorm(nn.Module):
    """The norm behind the last fused layer."""

    def __init__(self, norm: Phi3RMSNorm) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = norm.weight, norm.variance_epsilon

    def forward(self, stream: Stream) -> torch.Tensor:
        """Return the normalised states, shape (1, tokens, width); 0 for tokens not asked for."""
        states, _ = normalize(self, stream.output, stream.residual)
        if stream.asked is None:
            return states[None]
        wide = states.new_zeros(1, stream.num_tokens, states.shape[1])
        wide[0, stream.asked] = states
        return wide


def normalize(
    norm: Phi3RMSNorm | FusedNorm, output: torch.Tensor, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of output and residual, normalised, and the sum."""
    return add_and_normalize(output, residual, norm.weight, norm.variance_epsilon)
