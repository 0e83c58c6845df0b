"""What a model takes of a device's memory, by its config alone. No torch.

Weights are counted; what the computation holds for a moment is estimated from above, by what the
forward passes keep at their widest place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phicorpus.errors import CheckpointError
from phicorpus.models import expected_tensors as inventories
from phicorpus.models.model import Modality
from phicorpus.models.vision_config import TowerConfig

if TYPE_CHECKING:
    from phicorpus.models.checkpoint import Architecture

Json = Mapping[str, Any]
_FLOAT32 = 4
_LONGEST_CLIP_FRAMES = 4000  # 40 s, the longest window of `audio.max_window_s`
_FRAMES_PER_ROW = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes.

    Attributes:
        weights: Of what one modality loads.
        decoder: Of these, the decoder's.
        kv_token: Of a token in the KV cache.
        gathered_token: Of a token's keys and values of one layer, copied for its attention.
        feature_row: Of an encoded row in the feature table.
        batch_token: Held by the decoder for each token of a forward pass.
        logit_row: Of the scores of one request, as they are steered and compared.
        encoded_item: Held by the encoders for each crop or clip that they encode at once.
        context_tokens: Longest prompt and answer, tokens.
        short_tokens: Up to here the short LongRoPE factors serve; 0: there are no others.
        takes_media: Whether there are encoders.
    """

    weights: int
    decoder: int
    kv_token: int
    gathered_token: int
    feature_row: int
    batch_token: int
    logit_row: int
    encoded_item: int
    context_tokens: int
    short_tokens: int
    takes_media: bool


def footprint(
    architecture: Architecture, config: Json, modality: Modality, *, itemsize: int
) -> Footprint:
    """Tell what a model takes.

    Args:
        architecture: Which of our loaders reads it.
        config: config.json, in the hub's keys.
        modality: What it is loaded for.
        itemsize: Bytes per number: 4 for float32, 2 for the 16-bit types.

    Raises:
        CheckpointError: the config lacks a size.
    """
    shapes = inventories.inventory(architecture, config)
    parts = inventories.PARTS[modality]
    own = {part: _count(shapes, part) * itemsize for part in parts}
    there = {part for part, size in own.items() if size}
    try:
        hidden, wide = config["hidden_size"], config["intermediate_size"]
        head = hidden // config["num_attention_heads"]
        one_layer = 2 * config["num_key_value_heads"] * head * itemsize
        encoders = [0]
        if "image" in there:
            encoders.append(_crop_bytes(inventories.tower(architecture, config), itemsize))
        if "audio" in there:
            encoders.append(_clip_bytes(config["audio_processor"]["config"], itemsize))
        return Footprint(
            weights=sum(own.values()),
            decoder=own["decoder"],
            kv_token=config["num_hidden_layers"] * one_layer,
            gathered_token=one_layer,
            feature_row=hidden * itemsize,
            # The two halves of the gated layer, its activation, their product, and the residual
            # stream with its norm in float32.
            batch_token=(4 * wide + 4 * hidden) * itemsize + 3 * hidden * _FLOAT32,
            logit_row=config["vocab_size"] * (itemsize + 4 * _FLOAT32),
            encoded_item=max(encoders),
            context_tokens=config["max_position_embeddings"],
            short_tokens=_short_tokens(config),
            takes_media=len(encoders) > 1,
        )
    except KeyError as error:
        raise CheckpointError(f"config.json lacks a size: {error}") from error


def _count(shapes: Mapping[str, inventories.Shape], part: inventories.Part) -> int:
    return inventories.count(s for name, s in shapes.items() if inventories.part_of(name) == part)


def _short_tokens(config: Json) -> int:
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if scaling.get("rope_type", scaling.get("type", "default")) == "default":
        return 0
    name = "original_max_position_embeddings"
    return scaling.get(name) or config.get(name) or 0


def _crop_bytes(tower: TowerConfig, itemsize: int) -> int:
    patches = (tower.image_size // tower.patch_size) ** 2
    per_patch = (6 * tower.hidden_size + 2 * tower.intermediate_size) * itemsize
    return patches * per_patch + 3 * tower.image_size**2 * (_FLOAT32 + itemsize)


def _clip_bytes(audio: Json, itemsize: int) -> int:
    rows, mels = _LONGEST_CLIP_FRAMES // _FRAMES_PER_ROW, audio["input_size"]
    channels = audio["nemo_conv_settings"]["conv_channels"]
    # The stem's first convolution, its activation and the masked copy; later ones are a quarter.
    stem = 3 * channels * (_LONGEST_CLIP_FRAMES // 2) * (mels // 2) * itemsize
    scores = 3 * audio["attention_heads"] * rows**2 * _FLOAT32
    block = rows * (4 * audio["linear_units"] + 8 * audio["attention_dim"]) * itemsize
    return max(stem, scores + block)
