"""The layout in which transformers' own classes save Phi-4-multimodal, read as the hub's. No torch.

Names and config differ, weights do not. The adapters are not among them: they are in folders.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from phicorpus.models.config_json import check_native_sections
from phicorpus.models.vision_config import SiglipConfig

MODEL_TYPE = "phi4_multimodal"
HUB_MODEL_TYPE = "phi4mm"
_AUDIO = r"(\Amodel\.embed_tokens_extend\.audio_embed\.)"
_IMAGE = r"(\Amodel\.embed_tokens_extend\.image_embed\.)"
_BLOCK = _AUDIO[:-1] + r"encoder\.encoders\.\d+\.)"
# (pattern of the native name, its hub form, pattern of the hub name, its native form)
_RULES = tuple(
    (
        re.compile(prefix + native),
        r"\1" + hub.replace("\\", ""),
        re.compile(prefix + hub),
        r"\1" + native.replace("\\", ""),
    )
    for prefix, native, hub in (
        *(
            (_BLOCK, rf"feed_forward_{side}\.{native}\.", rf"feed_forward_{side}\.{hub}\.")
            for side in ("in", "out")
            for native, hub in (("gate_up_proj", r"net\.0\.linear"), ("down_proj", r"net\.2"))
        ),
        *(
            (_BLOCK, rf"self_attn\.{native}\.", rf"self_attn\.{hub}\.")
            for native, hub in (
                ("q_proj", "linear_q"),
                ("k_proj", "linear_k"),
                ("v_proj", "linear_v"),
                ("o_proj", "linear_out"),
            )
        ),
        *(
            (_AUDIO, rf"{way}_proj_for_{native}\.", rf"audio_projection\.{hub}\.{number}\.")
            for native, hub in (("speech", "speech"), ("vision_speech", "vision"))
            for way, number in (("up", 0), ("down", 2))
        ),
        (_IMAGE, r"img_projection_up\.", r"img_projection\.0\."),
        (_IMAGE, r"img_projection_down\.", r"img_projection\.2\."),
        (_IMAGE, "global_img_feature_extensor", "glb_GN"),
        (_IMAGE, "sub_img_feature_extensor", "sub_GN"),
    )
)
# The defaults of transformers' config classes, which a saved config may leave out.
VISION_DEFAULTS = asdict(SiglipConfig())
AUDIO_DEFAULTS = {
    "hidden_size": 1024,
    "intermediate_size": 1536,
    "num_blocks": 24,
    "num_attention_heads": 16,
    "input_size": 80,
    "kernel_size": 3,
    "time_reduction": 8,
    "nemo_conv_channels": 1024,
    "bias_max_distance": 1000,
    "bias_symmetric": False,
}


def hub_name(name: str) -> str:
    """Return a tensor's name in the hub's layout; names that are the same, or the hub's, stay.

    Example:
        >>> hub_name("model.embed_tokens_extend.audio_embed.up_proj_for_speech.bias")
        'model.embed_tokens_extend.audio_embed.audio_projection.speech.0.bias'
    """
    for pattern, form, _, _ in _RULES:
        name = pattern.sub(form, name)
    return name


def transformers_name(name: str) -> str:
    """Return a tensor's name in transformers' layout, the opposite of `hub_name`.

    Example:
        >>> transformers_name("model.embed_tokens_extend.image_embed.glb_GN")
        'model.embed_tokens_extend.image_embed.global_img_feature_extensor'
    """
    for _, _, pattern, form in _RULES:
        name = pattern.sub(form, name)
    return name


def is_transformers_layout(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is of transformers' layout."""
    return config.get("model_type") == MODEL_TYPE


def hub_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Write a config.json in the hub's keys; one that is the hub's already stays as it is.

    Raises:
        CheckpointError: a section is not one.
    """
    if not is_transformers_layout(config):
        return dict(config)
    check_native_sections(config)
    vision = VISION_DEFAULTS | (config.get("vision_config") or {})
    audio = AUDIO_DEFAULTS | (config.get("audio_config") or {})
    return {
        **{key: value for key, value in config.items() if not key.endswith("_config")},
        "model_type": HUB_MODEL_TYPE,
        "embd_layer": {"image_embd_layer": {"crop_size": vision.get("crop_size", 448)}},
        "vision_tiny_overrides": {key: vision[key] for key in VISION_DEFAULTS},
        "audio_processor": {
            "config": {
                "attention_dim": audio["hidden_size"],
                "attention_heads": audio["num_attention_heads"],
                "linear_units": audio["intermediate_size"],
                "num_blocks": audio["num_blocks"],
                "input_size": audio["input_size"],
                "kernel_size": audio["kernel_size"],
                "time_reduction": audio["time_reduction"],
                "nemo_conv_settings": {"conv_channels": audio["nemo_conv_channels"]},
                "relative_attention_bias_args": {
                    "type": "t5",
                    "t5_bias_max_distance": audio["bias_max_distance"],
                    "t5_bias_symmetric": audio["bias_symmetric"],
                },
            }
        },
    }
