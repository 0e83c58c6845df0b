"""Which tensors a checkpoint has to have, by its config alone. No torch.

Names are those of the hub's layout. What no answer depends on (the last layer of a vision tower,
its pooling) is not listed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from phicorpus.errors import CheckpointError
from phicorpus.models.model import Modality
from phicorpus.models.phi4_multimodal.layout import ADAPTED, ADAPTERS
from phicorpus.models.vision_config import ClipConfig, SiglipConfig, TowerConfig

if TYPE_CHECKING:
    from phicorpus.models.checkpoint import Architecture

Shape = tuple[int, ...]
Part = Literal["decoder", "image", "audio"]
Shapes = Iterator[tuple[str, Shape]]
Json = Mapping[str, Any]

PHI4_IMAGE = "model.embed_tokens_extend.image_embed."
PHI4_AUDIO = "model.embed_tokens_extend.audio_embed."
PHI3_IMAGE = "model.vision_embed_tokens."
# Which parts each modality loads, where the model has them.
PARTS: Mapping[Modality, frozenset[Part]] = {
    "vision": frozenset({"decoder", "image", "audio"}),
    "speech": frozenset({"decoder", "audio"}),
    "text": frozenset({"decoder"}),
}
# May be there, and is not read.
UNREAD = re.compile(r".*\bimg_processor\..*(post_layernorm|head)\.")


def inventory(architecture: Architecture, config: Json) -> dict[str, Shape]:
    """List the tensors of a checkpoint, adapters left out, with their shapes.

    Args:
        architecture: Which of our loaders reads it.
        config: config.json, in the hub's keys.

    Raises:
        CheckpointError: the config lacks a size.
    """
    try:
        shapes = dict(_decoder(config))
        if architecture == "phi4_multimodal":
            shapes |= _siglip(config["hidden_size"], tower(architecture, config))
            shapes |= _audio(config["hidden_size"], config["audio_processor"]["config"])
        elif architecture == "phi3_vision":
            shapes |= _clip(config["hidden_size"], tower(architecture, config))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"config.json lacks a size: {error}") from error
    return shapes


def with_adapters(architecture: Architecture, config: Json) -> Shapes:
    """Give what `inventory` lists as a checkpoint on the hub has it: with its adapters apart."""
    for name, shape in inventory(architecture, config).items():
        if architecture != "phi4_multimodal" or not re.match(ADAPTED, name):
            yield name, shape
            continue
        (num_out, num_in), stem = shape, name.removesuffix(".weight")
        yield f"{stem}.base_layer.weight", shape
        for adapter in ADAPTERS:
            rank = config[f"{adapter}_lora"]["r"]
            yield f"{stem}.lora_A.{adapter}.weight", (rank, num_in)
            yield f"{stem}.lora_B.{adapter}.weight", (num_out, rank)


def part_of(name: str) -> Part:
    """Tell which part of a model a tensor belongs to."""
    if name.startswith((PHI4_IMAGE, PHI3_IMAGE)):
        return "image"
    return "audio" if name.startswith(PHI4_AUDIO) else "decoder"


def sliding_window(config: Json) -> int | None:
    """Tell how many tokens a decoder looks back; None: as many as a request can have.

    Phi-3-mini-4k has a window of 2047 of its 4096 tokens. The others' are wider than any request.

    Args:
        config: config.json, in the hub's keys.
    """
    window = config.get("sliding_window")
    if window is None or window >= config["max_position_embeddings"] - 1:
        return None
    return int(window)


def tower(architecture: Architecture, config: Json) -> TowerConfig:
    """Give the shape of a vision model's tower."""
    if architecture == "phi4_multimodal":
        return SiglipConfig.from_json(config)
    return ClipConfig.from_json(config)


def unread_layer(architecture: Architecture, config: Json) -> re.Pattern[str]:
    """Match the vision tower's last layer, whose output is not used."""
    last = tower(architecture, config).num_hidden_layers - 1
    return re.compile(rf".*\bimg_processor\..*encoder\.layers\.{last}\.")


def count(shapes: Iterator[Shape]) -> int:
    """Count the elements of tensors."""
    return sum(math.prod(shape) for shape in shapes)


def _decoder(config: Json) -> Shapes:
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


def _linear(name: str, num_out: int, *inner: int) -> Shapes:
    yield name + ".weight", (num_out, *inner)
    yield name + ".bias", (num_out,)


def _norm(name: str, size: int) -> Shapes:
    yield name + ".weight", (size,)
    yield name + ".bias", (size,)


def _tower_layers(prefix: str, tower: TowerConfig) -> Shapes:
    size, wide = tower.hidden_size, tower.intermediate_size
    for number in range(tower.num_hidden_layers - 1):
        layer = f"{prefix}encoder.layers.{number}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}self_attn.{name}", size, size)
        yield from _norm(layer + "layer_norm1", size)
        yield from _norm(layer + "layer_norm2", size)
        yield from _linear(layer + "mlp.fc1", wide, size)
        yield from _linear(layer + "mlp.fc2", size, wide)


def _projection(name: str, hidden: int, size: int) -> Shapes:
    yield from _linear(name + ".0", hidden, size)
    yield from _linear(name + ".2", hidden, hidden)


def _siglip(hidden: int, tower: TowerConfig) -> Shapes:
    size, patch = tower.hidden_size, tower.patch_size
    prefix = PHI4_IMAGE + "img_processor."
    yield PHI4_IMAGE + "glb_GN", (1, 1, size)
    yield PHI4_IMAGE + "sub_GN", (1, 1, 1, size)
    yield from _linear(prefix + "embeddings.patch_embedding", size, 3, patch, patch)
    positions = (tower.image_size // patch) ** 2
    yield prefix + "embeddings.position_embedding.weight", (positions, size)
    yield from _tower_layers(prefix, tower)
    yield from _projection(PHI4_IMAGE + "img_projection", hidden, size)


def _clip(hidden: int, tower: TowerConfig) -> Shapes:
    size, patch = tower.hidden_size, tower.patch_size
    prefix = PHI3_IMAGE + "img_processor.vision_model."
    yield PHI3_IMAGE + "glb_GN", (1, 1, 4 * size)
    yield PHI3_IMAGE + "sub_GN", (1, 1, 1, 4 * size)
    yield prefix + "embeddings.class_embedding", (size,)
    yield prefix + "embeddings.patch_embedding.weight", (size, 3, patch, patch)
    positions = (tower.image_size // patch) ** 2 + 1
    yield prefix + "embeddings.position_embedding.weight", (positions, size)
    yield from _norm(prefix + "pre_layrnorm", size)
    yield from _tower_layers(prefix, tower)
    yield from _projection(PHI3_IMAGE + "img_projection", hidden, 4 * size)


def _audio(hidden: int, audio: Json) -> Shapes:
    size, mels = audio["attention_dim"], audio["input_size"]
    channels = audio["nemo_conv_settings"]["conv_channels"]
    prefix = PHI4_AUDIO + "encoder."
    for name in ("global_mean", "global_invstd"):
        yield f"{prefix}encoder_embedding.{name}", (mels,)
    yield from _linear(prefix + "embed.conv.0", channels, 1, 3, 3)
    for depthwise in (2, 5):
        yield from _linear(f"{prefix}embed.conv.{depthwise}", channels, 1, 3, 3)
        yield from _linear(f"{prefix}embed.conv.{depthwise + 1}", channels, channels, 1, 1)
    yield from _linear(prefix + "embed.out", size, channels * mels // audio["time_reduction"])
    distances = 2 * audio["relative_attention_bias_args"]["t5_bias_max_distance"]
    bias = prefix + "relative_attention_bias_layer.bias_values.weight"
    yield bias, (distances, audio["attention_heads"])
    for block in range(audio["num_blocks"]):
        yield from _conformer_block(f"{prefix}encoders.{block}.", audio)
    for kind in ("speech", "vision"):
        yield from _projection(f"{PHI4_AUDIO}audio_projection.{kind}", hidden, size)


def _conformer_block(prefix: str, audio: Json) -> Shapes:
    size, wide, kernel = audio["attention_dim"], audio["linear_units"], audio["kernel_size"]
    for name in ("feed_forward_in", "feed_forward_out"):
        yield from _norm(f"{prefix}{name}.layer_norm", size)
        yield from _linear(f"{prefix}{name}.net.0.linear", 2 * wide, size)
        yield from _linear(f"{prefix}{name}.net.2", size, wide)
    for name in ("linear_q", "linear_k", "linear_v", "linear_out"):
        yield from _linear(f"{prefix}self_attn.{name}", size, size)
    yield from _norm(prefix + "conv.layer_norm", size)
    yield prefix + "conv.glu.b1", (1, size, 1)
    yield prefix + "conv.glu.b2", (1, size, 1)
    yield from _linear(prefix + "conv.glu.ext_pw_conv_1d", 2 * size, size, 1)
    yield from _linear(prefix + "conv.ext_pw_conv_1d", size, size, 1)
    yield from _linear(prefix + "conv.dw_sep_conv_1d.dw_conv", size, 1, kernel)
    yield from _linear(prefix + "conv.dw_sep_conv_1d.pw_conv", size, size, 1)
    yield from _norm(prefix + "layer_norm_att", size)
    yield from _norm(prefix + "layer_norm", size)
