"""The call of a step's attention by the decoder, through transformers' own interface."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import AttentionInterface

from phicorpus.engine.attention.layout import Step

NAME = "phicorpus_paged"


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
    kv_pages: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]],
    **_others: object,
) -> tuple[torch.Tensor, None]:
    """Attend in one layer, for packed sequences: a batch of one."""
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    pages = kv_pages[0][layer], kv_pages[1][layer]
    return step.attend((query[0], key[0], value[0]), pages, scaling)[None], None
