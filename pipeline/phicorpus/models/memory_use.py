"""Estimate a model's use of a device's memory, by its config alone. No torch.

Weights are counted; what the computation holds for a moment is estimated from above, by what the
forward passes keep at their widest place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from phicorpus.config import Modality, Quantization
from phicorpus.errors import CheckpointError
from phicorpus.models.architectures import ARCHITECTURES
from phicorpus.models.decoder_shape import QUANTIZED
from phicorpus.models.expected_tensors import PARTS, Json, count_elements

_FLOAT32 = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes.

    Attributes:
        weights: Of what one modality loads; quantized to int8, with one of them widened.
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
    architecture: str,
    config: Json,
    modality: Modality,
    *,
    itemsize: int,
    quantization: Quantization = "none",
) -> Footprint:
    """Estimate what a model takes of a device's memory.

    Args:
        architecture: Its name in `ARCHITECTURES`.
        config: config.json, in the hub's keys.
        modality: What it is loaded for.
        itemsize: Bytes per number: 4 for float32, 2 for the 16-bit types.
        quantization: Of the decoder's layers.

    Raises:
        CheckpointError: the config lacks a size.
    """
    entry, parts = ARCHITECTURES[architecture], PARTS[modality]
    shapes = entry.expected_tensors(config)
    own = {
        part: itemsize * count_elements(s for n, s in shapes.items() if entry.part_of(n) == part)
        for part in parts
    }
    if quantization != "none":
        quantized = [shape for name, shape in shapes.items() if QUANTIZED.fullmatch(name)]
        own["decoder"] -= (itemsize - 1) * count_elements(quantized)
        own["decoder"] += sum(_FLOAT32 * num_out for num_out, _ in quantized)
        if quantization == "int8":
            own["decoder"] += itemsize * max(map(math.prod, quantized))
    try:
        hidden, wide = config["hidden_size"], config["intermediate_size"]
        head = hidden // config["num_attention_heads"]
        one_layer = 2 * config["num_key_value_heads"] * head * itemsize
        encoders = [
            encoder.item_bytes(config, itemsize)
            for part, encoder in entry.encoders.items()
            if part in parts
        ]
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
            encoded_item=max(encoders, default=0),
            context_tokens=config["max_position_embeddings"],
            short_tokens=_short_tokens(config),
            takes_media=bool(encoders),
        )
    except KeyError as error:
        raise CheckpointError(f"config.json lacks a size: {error}") from error


def _short_tokens(config: Json) -> int:
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if scaling.get("rope_type", scaling.get("type", "default")) == "default":
        return 0
    name = "original_max_position_embeddings"
    return scaling.get(name) or config.get(name) or 0
