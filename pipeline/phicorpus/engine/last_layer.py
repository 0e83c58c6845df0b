"""The last decoder layer, computed in full only for tokens whose logits are read.

There, a token whose logits are not read needs only its key and value: its output projection and
MLP, nine tenths of the layer's products, are skipped. That saves nearly one layer's cost of every
prompt.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from transformers import Phi3ForCausalLM


class LastLayer:
    """Narrows the last layer of a decoder that continuous batching runs, until it is released.

    Steps without `logits_indices`, as those of a plain `generate`, are left as they are.

    Args:
        decoder: Its weights and names stay what they are.
    """

    def __init__(self, decoder: Phi3ForCausalLM) -> None:
        layer = decoder.model.layers[-1]
        self._asked: torch.Tensor | None = None
        self._num_tokens = 0
        self._handles = [layer.register_forward_pre_hook(self._note, with_kwargs=True)]
        for name in ("self_attn.o_proj", "mlp"):
            part = layer.get_submodule(name)
            self._handles.append(part.register_forward_pre_hook(self._narrow))
            self._handles.append(part.register_forward_hook(self._widen))

    def release(self) -> None:
        """Compute the layer for every token again; repeating it does no harm."""
        for handle in self._handles:
            handle.remove()

    def _note(
        self, _layer: nn.Module, args: tuple[torch.Tensor, ...], kwargs: Mapping[str, torch.Tensor]
    ) -> None:
        asked = kwargs.get("logits_indices")
        self._num_tokens = args[0].shape[1]
        self._asked = None if asked is None or len(asked) == self._num_tokens else asked

    def _narrow(
        self, _part: nn.Module, args: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...] | None:
        return None if self._asked is None else (args[0][:, self._asked],)

    def _widen(self, _part: nn.Module, _args: object, output: torch.Tensor) -> torch.Tensor | None:
        """Put the rows back where they were, shape (1, tokens, width); the others are zero."""
        if self._asked is None:
            return None
        wide = output.new_zeros(1, self._num_tokens, output.shape[-1])
        wide[:, self._asked] = output
        return wide
