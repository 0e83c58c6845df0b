"""Single steps of the decoder, ready to be run: of rows that decode, of a prompt, and of both.

Plain attention over keys and values that lie side by side: what the decoder takes at the least
without kernels of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, Phi3ForCausalLM

NAME = "phicorpus_benchmark"
Run = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Kept:
    """Keys and values of one layer, of all rows: shape (rows, key heads, tokens, head size)."""

    keys: torch.Tensor
    values: torch.Tensor


class DecoderSteps:
    """Makes steps of one decoder.

    Args:
        decoder: Loaded, on its device.
    """

    def __init__(self, decoder: Phi3ForCausalLM) -> None:
        self._decoder = decoder
        AttentionInterface.register(NAME, _attend)
        decoder.set_attn_implementation(NAME)
        sizes = decoder.config
        self._num_layers: int = sizes.num_hidden_layers
        self._heads: int = sizes.num_key_value_heads or sizes.num_attention_heads
        self._head_size: int = sizes.hidden_size // sizes.num_attention_heads

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values."""
        item_bytes = self._decoder.dtype.itemsize
        return 2 * self._num_layers * self._heads * self._head_size * item_bytes

    def decode(self, rows: int, context: int) -> Run:
        """Return the step of so many rows, each with one new token behind so many others."""
        kept = [self._kept(rows, context + 1) for _ in range(self._num_layers)]
        return self._step(rows, 1, context, kept)

    def prefill(self, tokens: int) -> Run:
        """Return the step of one prompt of so many tokens."""
        return self._step(1, tokens, 0, None)

    def _step(self, rows: int, new: int, context: int, kept: list[Kept] | None) -> Run:
        device = self._decoder.device
        ids = torch.randint(self._decoder.config.vocab_size, (rows, new), device=device)
        positions = torch.arange(context, context + new, device=device).expand(rows, -1)

        @torch.no_grad()
        def run() -> torch.Tensor:
            output = self._decoder(
                input_ids=ids,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=1,
                kept=kept,
            )
            return output.logits

        return run

    def _kept(self, rows: int, tokens: int) -> Kept:
        shape = rows, self._heads, tokens, self._head_size
        place = {"device": self._decoder.device, "dtype": self._decoder.dtype}
        return Kept(torch.randn(shape, **place), torch.randn(shape, **place))


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    *,
    scaling: float,
    kept: list[Kept] | None,
    **_others: object,
) -> tuple[torch.Tensor, None]:
    causal = kept is None
    if kept is not None:
        layer = kept[int(module.layer_idx)]  # type: ignore[arg-type]
        layer.keys[:, :, -1:] = key
        layer.values[:, :, -1:] = value
        key, value = layer.keys, layer.values
    attended = functional.scaled_dot_product_attention(
        query, key, value, scale=scaling, is_causal=causal, enable_gqa=True
    )
    return attended.transpose(1, 2), None
