"""The expected tensors that all architectures share, by their config alone. No torch.

Names are those of the hub's layout. What no answer depends on (the last layer of a vision tower,
its pooling) is not listed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from phicorpus.config import Modality
from phicorpus.models.vision_config import TowerConfig

Shape = tuple[int, ...]
Part = Literal["decoder", "image", "audio"]
Shapes = Iterator[tuple[str, Shape]]
Json = Mapping[str, Any]

PARTS: Mapping[Modality, frozenset[Part]] = {
    "vision": frozenset({"decoder", "image", "audio"}),
    "speech": frozenset({"decoder", "audio"}),
    "text": frozenset({"decoder"}),
}
"""The parts that are loaded for each modality, where the model has them."""


def count_elements(shapes: Iterable[Shape]) -> int:
    """Count the elements of tensors."""
    return sum(math.prod(shape) for shape in shapes)


def decoder_tensors(config: Json) -> Shapes:
    """List the tensors of the decoder."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    head = hidden // config["num_attention_heads"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    yield "model.norm.weight", (hidden,)
    if not config.get("tie_word_embeddings"):
        yield "lm_head.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        qkv = hidden + 2 * head * config["num_key_value_heads"]
        yield prefix + "self_attn.qkv_proj.weight", (qkv, hidden)
        yield prefix + "self_attn.o_proj.weight", (hidden, hidden)
        yield prefix + "mlp.gate_up_proj.weight", (2 * wide, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, wide)


def linear_tensors(name: str, num_out: int, *inner: int) -> Shapes:
    """List weight and bias of a linear layer or a convolution."""
    yield name + ".weight", (num_out, *inner)
    yield name + ".bias", (num_out,)


def norm_tensors(name: str, size: int) -> Shapes:
    """List weight and bias of a normalisation."""
    yield name + ".weight", (size,)
    yield name + ".bias", (size,)


def tower_tensors(prefix: str, tower: TowerConfig) -> Shapes:
    """List the tensors of a vision tower's layers but the last, whose output is not used."""
    size, wide = tower.hidden_size, tower.intermediate_size
    for number in range(tower.num_hidden_layers - 1):
        layer = f"{prefix}encoder.layers.{number}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear_tensors(f"{layer}self_attn.{name}", size, size)
        yield from norm_tensors(layer + "layer_norm1", size)
        yield from norm_tensors(layer + "layer_norm2", size)
        yield from linear_tensors(layer + "mlp.fc1", wide, size)
        yield from linear_tensors(layer + "mlp.fc2", size, wide)


def projection_tensors(name: str, hidden: int, size: int) -> Shapes:
    """List the tensors of a projection of two layers."""
    yield from linear_tensors(name + ".0", hidden, size)
    yield from linear_tensors(name + ".2", hidden, hidden)


def unread_tower_tensors(tower: TowerConfig) -> re.Pattern[str]:
    """Match a vision tower's last layer, norm and pooling head, whose output is not used."""
    last = rf"encoder\.layers\.{tower.num_hidden_layers - 1}"
    return re.compile(rf".*\bimg_processor\..*(post_layernorm|head|{last})\.")
