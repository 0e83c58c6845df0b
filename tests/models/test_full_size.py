"""The published sizes, built without weights: tensors and bytes must be those of the hub."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from phicorpus.models import decoder as decoders
from phicorpus.models.phi3_vision.image import ImagePreparation as Phi3Preparation
from phicorpus.models.phi3_vision.vision import ImageEncoder as Phi3ImageEncoder
from phicorpus.models.phi3_vision.vision import TowerConfig as ClipConfig
from phicorpus.models.phi4_multimodal.audio_encoder import AudioEncoder
from phicorpus.models.phi4_multimodal.conformer import ConformerConfig
from phicorpus.models.phi4_multimodal.image import ImagePreparation
from phicorpus.models.phi4_multimodal.vision import ImageEncoder, TowerConfig

LONGROPE = {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
PHI3_VISION: Mapping[str, Any] = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 131_072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_scaling": LONGROPE | {"type": "su"},
    "sliding_window": 131_072,
    "vocab_size": 32_064,
}
PHI4_MULTIMODAL: Mapping[str, Any] = {
    **PHI3_VISION,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.75,
    "rope_scaling": LONGROPE,
    "sliding_window": 262_144,
    "tie_word_embeddings": True,
    "vocab_size": 200_064,
    "audio_processor": {
        "config": {
            "attention_dim": 1024,
            "attention_heads": 16,
            "input_size": 80,
            "kernel_size": 3,
            "linear_units": 1536,
            "nemo_conv_settings": {"conv_channels": 1024},
            "num_blocks": 24,
            "relative_attention_bias_args": {"t5_bias_max_distance": 500, "type": "t5"},
            "time_reduction": 8,
        }
    },
}


def num_parameters(*modules: nn.Module) -> int:
    return sum(value.numel() for module in modules for value in module.parameters())


def test_phi3_vision_has_the_tensors_and_bytes_of_the_hub() -> None:
    config = decoders.decoder_config(PHI3_VISION)
    decoder = decoders.build(config, attention="sdpa")
    with torch.device("meta"):
        encoder = Phi3ImageEncoder(ClipConfig.from_json({}), 3072, Phi3Preparation())
        unused = [encoder.img_processor.vision_model.encoder.layers[0], nn.LayerNorm(1024)]

    modules = [decoder, encoder, *unused]

    # total_size of model.safetensors.index.json, in bfloat16
    assert 2 * num_parameters(*modules) == 8_293_242_880
    assert sum(len(list(module.parameters())) for module in modules) == 592
    assert config.sliding_window is None
    assert decoders.regime_length(config) == 4096


def test_phi4_multimodal_has_the_sizes_that_are_published() -> None:
    config = decoders.decoder_config(PHI4_MULTIMODAL)
    decoder = decoders.build(config, attention="sdpa")
    with torch.device("meta"):
        image = ImageEncoder(TowerConfig.from_json({}), 3072, ImagePreparation())
        audio = AudioEncoder(ConformerConfig.from_json(PHI4_MULTIMODAL), 3072)

    per_layer = [(3072, 5120), (3072, 3072), (3072, 2 * 8192), (8192, 3072)]
    adapters = 32 * sum(num_in + num_out for num_in, num_out in per_layer) * (256 + 320)
    unused = num_parameters(image.img_processor.encoder.layers[0]) + 2 * 1152
    pooling = 1152 + 4 * (1152**2 + 1152) + 2 * 1152 + 2 * 1152 * 4304 + 4304 + 1152
    encoders = num_parameters(image, audio) + 2 * 80
    total = num_parameters(decoder) + adapters + encoders + unused + pooling

    assert total == 5_574_460_384  # the model page's count: 5.57 B
    assert config.sliding_window is None


def test_attention_is_scaled_as_published() -> None:
    rotary = decoders.PinnedRotary(decoders.decoder_config(PHI4_MULTIMODAL))

    assert round(rotary.attention_scaling, 4) == 1.1902
    assert rotary.inv_freq.shape == (48,)
