"""The names of a Phi-3-vision checkpoint's tensors. No torch.

The hub's checkpoints are of one form. Fine-tuned ones differ from it in two names, by the program
that saved them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from phicorpus.models.peft import LowRank, renamed
from phicorpus.models.shards import Tensor

IMAGE_PREFIX = "model.vision_embed_tokens."
EMBEDDING = "model.embed_tokens.weight"
# The original code's image encoder holds the token embedding too, so that it has a second name.
SECOND_NAME = "model.vision_embed_tokens.wte.weight"
# transformers 5 has no such level in CLIP.
_FLAT = re.compile(r"\A(model\.vision_embed_tokens\.img_processor\.)(?!vision_model\.)")


def hub_name(name: str) -> str:
    """Return a tensor's name as the hub has it.

    Example:
        >>> hub_name("model.vision_embed_tokens.img_processor.pre_layrnorm.bias")
        'model.vision_embed_tokens.img_processor.vision_model.pre_layrnorm.bias'
    """
    return _FLAT.sub(r"\1vision_model.", name)


def in_hub_layout(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a checkpoint's tensors under the hub's names, the token embedding once."""
    whole = {hub_name(name): tensor for name, tensor in tensors.items()}
    again = whole.pop(SECOND_NAME, None)
    if again is not None:
        whole.setdefault(EMBEDDING, again)
    return whole


def in_hub_names(adapter: LowRank) -> LowRank:
    """Read an adapter's places under the hub's names."""
    return renamed(adapter, {place: hub_name(place) for place in adapter.halves})
