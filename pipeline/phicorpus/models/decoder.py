"""The decoder of every Phi model: transformers' Phi3ForCausalLM, its LongRoPE regime pinned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Phi3Config, Phi3ForCausalLM

from phicorpus.errors import CheckpointError
from phicorpus.models import decoder_shape
from phicorpus.models.model import Regime

# generate() drops its cache at this length to change factors; with a pinned regime it never must.
NEVER = 1 << 30


def decoder_config(config: Mapping[str, Any]) -> Phi3Config:
    """Make the decoder's config from a Phi checkpoint's config.json, of whatever model type.

    Raises:
        CheckpointError: as `decoder_shape.sizes` and `decoder_shape.rope_parameters`.
    """
    sizes = decoder_shape.sizes(config)
    window = decoder_shape.sliding_window(config)
    limits: dict[str, Any] = {} if window is None else {"sliding_window": window}
    rope = decoder_shape.rope_parameters(config)
    return Phi3Config(
        **sizes,
        **limits,
        rope_parameters=rope,
        # transformers copies this into the rotary parameters, so it has to be the true one here.
        original_max_position_embeddings=rope.get("original_max_position_embeddings", NEVER),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        attention_dropout=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=config.get("bos_token_id"),
        eos_token_id=config.get("eos_token_id"),
        pad_token_id=config.get("pad_token_id"),
    )


def build(config: Phi3Config, *, attention: str) -> Phi3ForCausalLM:
    """Build a decoder without weights, on the meta device, for inference.

    Raises:
        CheckpointError: the attention's package is not installed.
    """
    try:
        with torch.device("meta"):
            decoder = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    except ImportError as error:
        raise CheckpointError(f"attention {attention!r} is not installed: {error}") from error
    return decoder.eval()


def finish(decoder: Phi3ForCausalLM, device: torch.device) -> None:
    """Complete a filled decoder: tie the head where it is tied, and pin the rotary embedding."""
    if decoder.config.tie_word_embeddings:
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    # setattr: transformers declares the attribute as its own class.
    setattr(decoder.model, "rotary_emb", PinnedRotary(decoder.config).to(device))  # noqa: B010
    decoder.config.original_max_position_embeddings = NEVER


def tied(config: Phi3Config) -> frozenset[str]:
    """Name the parameters that a checkpoint may leave out, because they are another's."""
    return frozenset({"lm_head.weight"}) if config.tie_word_embeddings else frozenset()


def regime_length(config: Phi3Config) -> int:
    """Return up to which length the short factors serve; 0: the model has one set of factors."""
    return int(_rope(config).get("original_max_position_embeddings") or 0)


class PinnedRotary(nn.Module):
    """Rotary embedding whose LongRoPE factors change only when told to.

    The original picks the factors by the longest row of a batch, so that a short request beside a
    long one is answered differently than alone. Here the regime is chosen per request, and pinned.

    Attributes:
        is_long: shape (tokens,), bool: those that take the long factors; None: all as pinned.
        inv_freq: shape (rotated dimensions / 2,), float32; the factors that are pinned.
        short_inv_freq: The frequencies up to the original length.
        long_inv_freq: Those beyond; equal to the short ones without LongRoPE.
        attention_scaling: Multiplies cosine and sine; the same in both regimes.
    """

    inv_freq: torch.Tensor
    short_inv_freq: torch.Tensor
    long_inv_freq: torch.Tensor

    def __init__(self, config: Phi3Config) -> None:
        super().__init__()
        rope = _rope(config)
        head_size = config.hidden_size // config.num_attention_heads
        num_rotated = int(head_size * rope["partial_rotary_factor"])
        exponents = torch.arange(0, num_rotated, 2, dtype=torch.float32) / num_rotated
        wavelengths = rope["rope_theta"] ** exponents
        short, long = (
            1.0 / (torch.tensor(rope.get(key, 1.0), dtype=torch.float32) * wavelengths)
            for key in ("short_factor", "long_factor")
        )
        self.attention_scaling = _attention_scaling(config)
        self.is_long: torch.Tensor | None = None
        self.register_buffer("short_inv_freq", short, persistent=False)
        self.register_buffer("long_inv_freq", long, persistent=False)
        self.register_buffer("inv_freq", short.clone(), persistent=False)

    def pin(self, regime: Regime) -> None:
        """Use one regime's factors from the next forward pass on."""
        self.is_long = None
        self.inv_freq.copy_(self.short_inv_freq if regime == "short" else self.long_inv_freq)

    @torch.no_grad()
    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute cosine and sine, shape (batch, length, rotated dimensions), in `x`'s dtype."""
        inv_freq = self.inv_freq
        if self.is_long is not None:
            inv_freq = torch.where(self.is_long[:, None], self.long_inv_freq, self.short_inv_freq)
        angles = position_ids[..., None].float() * inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        cosine, sine = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cosine.to(x.dtype), sine.to(x.dtype)


def pin_regime(decoder: Phi3ForCausalLM, regime: Regime) -> None:
    """Pin the LongRoPE factors of a finished decoder."""
    _rotary(decoder).pin(regime)


def choose_regimes(decoder: Phi3ForCausalLM, is_long: torch.Tensor) -> None:
    """Choose the LongRoPE factors of each token, shape (tokens,), of a finished decoder."""
    _rotary(decoder).is_long = is_long


def _rotary(decoder: Phi3ForCausalLM) -> PinnedRotary:
    rotary = decoder.model.rotary_emb
    if not isinstance(rotary, PinnedRotary):
        raise TypeError(f"the decoder's rotary embedding is a {type(rotary).__name__}")
    return rotary


def _rope(config: Phi3Config) -> dict[str, Any]:
    return cast("dict[str, Any]", config.rope_parameters)


def _attention_scaling(config: Phi3Config) -> float:
    """Compute LongRoPE's sqrt(1 + ln(stretch) / ln(original length)); without LongRoPE 1."""
    original = regime_length(config)
    stretch = config.max_position_embeddings / original if original else 1.0
    return math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
