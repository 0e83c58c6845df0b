"""The decoder by config.json: sizes, activation, rotary embedding. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from phicorpus.errors import CheckpointError

Json = Mapping[str, Any]
LONGROPE_NAMES = ("longrope", "su")
ACTIVATION = "silu"
# Of the decoder's parameters: all but embeddings, head and norms.
QUANTIZED = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "max_position_embeddings",
)


def sizes(config: Json) -> dict[str, Any]:
    """Read the decoder's sizes, of a checkpoint of whatever model type.

    Raises:
        CheckpointError: one is missing or no number above 0, or the activation is not SiLU.
    """
    missing = [key for key in SIZES if config.get(key) is None]
    if missing:
        raise CheckpointError(f"config.json lacks {', '.join(missing)}")
    found = {key: config[key] for key in SIZES}
    wrong = {key: value for key, value in found.items() if not _is_size(value)}
    if wrong:
        raise CheckpointError(f"config.json: expected numbers above 0, found {wrong}")
    activation = config.get("hidden_act", ACTIVATION)
    if activation != ACTIVATION:
        raise CheckpointError(f"config.json: hidden_act {activation!r}; supported: {ACTIVATION!r}")
    return found


def rope_parameters(config: Json) -> dict[str, Any]:
    """Read the rotary embedding, with its LongRoPE factors where it has such.

    Raises:
        CheckpointError: as `sizes`; it is of an unknown type; or it has not one factor for each
            frequency.
    """
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise CheckpointError(f"config.json: rope_scaling is {scaling!r}, expected an object")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    parameters = {
        key: float(scaling.get(key) or config.get(key) or default)
        for key, default in (("rope_theta", 10_000.0), ("partial_rotary_factor", 1.0))
    }
    if kind == "default":
        return {"rope_type": "default", **parameters}
    key = "original_max_position_embeddings"
    original = scaling.get(key) or config.get(key)
    if kind not in LONGROPE_NAMES or original is None:
        raise CheckpointError(
            f"config.json: rotary embedding of type {kind!r}, original length {original};"
            " supported: default, and longrope with original_max_position_embeddings"
        )
    return {
        "rope_type": "longrope",
        **_factors(config, scaling, parameters["partial_rotary_factor"]),
        "original_max_position_embeddings": original,
        "factor": sizes(config)["max_position_embeddings"] / original,
        **parameters,
    }


def sliding_window(config: Json) -> int | None:
    """Read how many tokens a decoder looks back; None: as many as a request can have.

    Phi-3-mini-4k has a window of 2047 of its 4096 tokens. The others' are wider than any request.

    Args:
        config: config.json, in the hub's keys.
    """
    window = config.get("sliding_window")
    if window is None or window >= config["max_position_embeddings"] - 1:
        return None
    return int(window)


def _factors(config: Json, scaling: Json, rotated: float) -> dict[str, Any]:
    shape = sizes(config)
    head_size = shape["hidden_size"] // shape["num_attention_heads"]
    num_frequencies = int(head_size * rotated) // 2
    factors = {key: scaling.get(key) for key in ("short_factor", "long_factor")}
    for key, values in factors.items():
        num_found = len(values) if isinstance(values, list) else "no"
        if num_found != num_frequencies:
            raise CheckpointError(
                f"config.json: rope_scaling has {num_found} {key} for {num_frequencies} frequencies"
                f" (heads of {head_size}, partial_rotary_factor {rotated})"
            )
    return factors


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
