"""A decoder's layers by fused kernels, where these are there and compute rightly."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
import torch
from transformers import Phi3ForCausalLM

from phicorpus.engine.attention.backends import why_no_kernel
from phicorpus.engine.attention.check import Heads, why_untrusted
from phicorpus.engine.attention.layout import StepLayout
from phicorpus.engine.attention.paged_sdpa import PagedStep

_TOKENS = 5  # of the check

log = logging.getLogger(__name__)


class FusedLayers:
    """Puts fused layers in the places of a decoder's own, until they are released.

    They take the arguments `step`, `kv_pages` and `logits_indices`, and do what `LastLayer`
    does. Weights and their names stay what they are.

    Args:
        decoder: Its activation is SiLU.
    """

    def __init__(self, decoder: Phi3ForCausalLM) -> None:
        from phicorpus.engine.fused_layer import FusedLayer, FusedNorm  # noqa: PLC0415 Triton

        self._model = decoder.model
        self._layers, self._norm = list(self._model.layers), self._model.norm
        for place, layer in enumerate(self._layers):
            is_last = place == len(self._layers) - 1
            self._model.layers[place] = FusedLayer(cast("Any", layer), is_last=is_last)
        self._put_norm(FusedNorm(self._norm))

    def release(self) -> None:
        """Put the decoder's own layers back; repeating it does no harm."""
        for place, layer in enumerate(self._layers):
            self._model.layers[place] = layer
        self._put_norm(self._norm)

    def _put_norm(self, norm: torch.nn.Module) -> None:
        # setattr: transformers declares the attribute as its own class.
        setattr(self._model, "norm", norm)  # noqa: B010


def fuse(decoder: Phi3ForCausalLM) -> FusedLayers | None:
    """Fuse a decoder's layers where kernels serve it, after a trial; None: it stays as it is."""
    if why_no_kernel(decoder) or decoder.config.hidden_act != "silu" or not find_spec("triton"):
        return None
    reason = why_untrusted(lambda: deviation(decoder))
    if reason is not None:
        log.warning("the decoder's layers are not fused", extra={"reason": f"a layer {reason}"})
        return None
    return FusedLayers(decoder)


@torch.no_grad()
def deviation(decoder: Phi3ForCausalLM) -> float:
    """Return how far a fused layer is from the decoder's own, by what the layer computes."""
    from phicorpus.engine.fused_layer import FusedLayer  # noqa: PLC0415 needs Triton

    heads = Heads.of(decoder.config, decoder.device, decoder.dtype)
    layout = StepLayout(
        new=np.array([_TOKENS]), past=np.array([0]), pages=np.array([[0]]), page_size=_TOKENS
    )
    states = heads.draw(1, 1, _TOKENS, decoder.config.hidden_size)
    positions = torch.arange(_TOKENS, device=decoder.device)[None]
    shape = 1, 1, _TOKENS, heads.num_key_heads, heads.size
    arguments = {
        "attention_mask": None,
        "position_embeddings": decoder.model.rotary_emb(states, positions),
        "step": PagedStep(layout, decoder.dtype, decoder.device),
        "kv_pages": (states.new_zeros(shape), states.new_zeros(shape)),
    }
    layer = decoder.model.layers[0]
    wanted = layer(states, **arguments)[0].float()
    found = FusedLayer(cast("Any", layer))(states, **arguments)
    difference = found.output.float() + found.residual.float() - wanted
    return float(difference.norm() / wanted.norm())
