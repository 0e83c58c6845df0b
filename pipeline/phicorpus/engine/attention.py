"""The decoder's attention over KV pages: how it is called, and on a CPU by what."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from transformers import AttentionInterface, Phi3ForCausalLM

from phicorpus.config import EngineConfig
from phicorpus.engine.cpu_attention import PagedStep, StepLayout

NAME = "phicorpus_paged"

Layer = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one layer, each of shape (pages, page size, key heads, head size)."""


class Step(Protocol):
    """The attention of one step, for all layers."""

    def attend(
        self, new: tuple[torch.Tensor, torch.Tensor, torch.Tensor], cache: Layer, scaling: float
    ) -> torch.Tensor:
        """Write the new keys and values to their pages, and attend causally in each sequence.

        Args:
            new: query (heads, tokens, head size), key and value (key heads, tokens, head size), of
                the tokens of one sequence after the other.
            cache: The layer's pages.
            scaling: Of the scores.

        Returns:
            shape (tokens, heads, head size).
        """
        ...


class Attention(Protocol):
    """A way to attend, on one device.

    Attributes:
        name: For the log.
        is_graph_safe: True where `decode_step` may be captured in a CUDA graph.
    """

    name: str
    is_graph_safe: bool

    def step(self, layout: StepLayout) -> Step:
        """Prepare a step."""
        ...


class CpuAttention:
    """Attention on a CPU.

    Args:
        dtype: Of keys and queries.
    """

    name = "sdpa over pages, by groups of like length"
    is_graph_safe = False

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def step(self, layout: StepLayout) -> PagedStep:
        """Prepare a step."""
        return PagedStep(layout, self._dtype)


def choose(decoder: Phi3ForCausalLM, config: EngineConfig) -> Attention:
    """Choose the attention for a decoder, on its device."""
    if decoder.device.type == "cpu" and decoder.config.sliding_window is None:
        return CpuAttention(decoder.dtype)
    raise NotImplementedError(config.page_size)


def register() -> None:
    """Make `NAME` known to transformers; repeating it does no harm.

    No mask is registered with it: transformers then makes none.
    """
    AttentionInterface.register(NAME, _attend)


def _attend(  # noqa: PLR0913 as transformers calls it
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    *,
    scaling: float,
    step: Step,
    cache: list[Layer],
    **_others: object,
) -> tuple[torch.Tensor, None]:
    """Attend in one layer, as transformers asks for it, for packed sequences: a batch of one."""
    pages = cache[int(module.layer_idx)]  # type: ignore[arg-type]
    return step.attend((query[0], key[0], value[0]), pages, scaling)[None], None
