"""The two encoders by their config alone: tensors, and the memory they take. No torch."""

from __future__ import annotations

import re

from phicorpus.models.expected_tensors import (
    Json,
    Shapes,
    linear_tensors,
    norm_tensors,
    projection_tensors,
    tower_tensors,
    unread_tower_tensors,
)
from phicorpus.models.phi4_multimodal.audio import FRAMES_PER_ROW
from phicorpus.models.phi4_multimodal.layout import AUDIO_PREFIX, IMAGE_PREFIX
from phicorpus.models.vision_config import SiglipConfig

_FLOAT32 = 4
_LONGEST_CLIP_FRAMES = 4000  # 40 s, the longest window of `audio.max_window_s`


def image_tensors(config: Json) -> Shapes:
    """List the tensors of the image encoder."""
    hidden, tower = config["hidden_size"], SiglipConfig.from_json(config)
    size, patch = tower.hidden_size, tower.patch_size
    prefix = IMAGE_PREFIX + "img_processor."
    yield IMAGE_PREFIX + "glb_GN", (1, 1, size)
    yield IMAGE_PREFIX + "sub_GN", (1, 1, 1, size)
    yield from linear_tensors(prefix + "embeddings.patch_embedding", size, 3, patch, patch)
    positions = (tower.image_size // patch) ** 2
    yield prefix + "embeddings.position_embedding.weight", (positions, size)
    yield from tower_tensors(prefix, tower)
    yield from projection_tensors(IMAGE_PREFIX + "img_projection", hidden, size)


def audio_tensors(config: Json) -> Shapes:
    """List the tensors of the audio encoder."""
    hidden, audio = config["hidden_size"], config["audio_processor"]["config"]
    size, mels = audio["attention_dim"], audio["input_size"]
    channels = audio["nemo_conv_settings"]["conv_channels"]
    prefix = AUDIO_PREFIX + "encoder."
    for name in ("global_mean", "global_invstd"):
        yield f"{prefix}encoder_embedding.{name}", (mels,)
    yield from linear_tensors(prefix + "embed.conv.0", channels, 1, 3, 3)
    for depthwise in (2, 5):
        yield from linear_tensors(f"{prefix}embed.conv.{depthwise}", channels, 1, 3, 3)
        yield from linear_tensors(f"{prefix}embed.conv.{depthwise + 1}", channels, channels, 1, 1)
    yield from linear_tensors(
        prefix + "embed.out", size, channels * mels // audio["time_reduction"]
    )
    distances = 2 * audio["relative_attention_bias_args"]["t5_bias_max_distance"]
    bias = prefix + "relative_attention_bias_layer.bias_values.weight"
    yield bias, (distances, audio["attention_heads"])
    for block in range(audio["num_blocks"]):
        yield from _conformer_block(f"{prefix}encoders.{block}.", audio)
    for kind in ("speech", "vision"):
        yield from projection_tensors(f"{AUDIO_PREFIX}audio_projection.{kind}", hidden, size)


def _conformer_block(prefix: str, audio: Json) -> Shapes:
    size, wide, kernel = audio["attention_dim"], audio["linear_units"], audio["kernel_size"]
    for name in ("feed_forward_in", "feed_forward_out"):
        yield from norm_tensors(f"{prefix}{name}.layer_norm", size)
        yield from linear_tensors(f"{prefix}{name}.net.0.linear", 2 * wide, size)
        yield from linear_tensors(f"{prefix}{name}.net.2", size, wide)
    for name in ("linear_q", "linear_k", "linear_v", "linear_out"):
        yield from linear_tensors(f"{prefix}self_attn.{name}", size, size)
    yield from norm_tensors(prefix + "conv.layer_norm", size)
    yield prefix + "conv.glu.b1", (1, size, 1)
    yield prefix + "conv.glu.b2", (1, size, 1)
    yield from linear_tensors(prefix + "conv.glu.ext_pw_conv_1d", 2 * size, size, 1)
    yield from linear_tensors(prefix + "conv.ext_pw_conv_1d", size, size, 1)
    yield from linear_tensors(prefix + "conv.dw_sep_conv_1d.dw_conv", size, 1, kernel)
    yield from linear_tensors(prefix + "conv.dw_sep_conv_1d.pw_conv", size, size, 1)
    yield from norm_tensors(prefix + "layer_norm_att", size)
    yield from norm_tensors(prefix + "layer_norm", size)


def unread_image_tensors(config: Json) -> re.Pattern[str]:
    """Match the image encoder's tensors that no answer depends on."""
    return unread_tower_tensors(SiglipConfig.from_json(config))


def crop_bytes(config: Json, itemsize: int) -> int:
    """Estimate the memory that encoding holds for each crop."""
    return SiglipConfig.from_json(config).crop_bytes(itemsize)


def clip_bytes(config: Json, itemsize: int) -> int:
    """Estimate the memory that encoding holds for each clip of the longest window."""
    audio = config["audio_processor"]["config"]
    rows, mels = _LONGEST_CLIP_FRAMES // FRAMES_PER_ROW, audio["input_size"]
    channels = audio["nemo_conv_settings"]["conv_channels"]
    # The stem's first convolution, its activation and the masked copy; later ones are a quarter.
    stem = 3 * channels * (_LONGEST_CLIP_FRAMES // 2) * (mels // 2) * itemsize
    scores = 3 * audio["attention_heads"] * rows**2 * _FLOAT32
    block = rows * (4 * audio["linear_units"] + 8 * audio["attention_dim"]) * itemsize
    return max(stem, scores + block)
