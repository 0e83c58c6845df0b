"""Phi-4-multimodal with random weights, drawn on the device: nothing is written to disk or read.

Decoder, image encoder and audio encoder are those that a checkpoint is loaded into.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phicorpus.models import decoder as decoders
from phicorpus.models.loading import Placement, Source
from phicorpus.models.model import Modality
from phicorpus.models.phi4_multimodal.audio_encoder import AudioEncoder
from phicorpus.models.phi4_multimodal.conformer import ConformerConfig
from phicorpus.models.phi4_multimodal.image import ImagePreparation
from phicorpus.models.phi4_multimodal.model import Modules, Phi4Multimodal
from phicorpus.models.phi4_multimodal.prompt import PromptFormat
from phicorpus.models.phi4_multimodal.vision import ImageEncoder, TowerConfig
from phicorpus.models.random_checkpoint import config_json, write_tiny

Json = Mapping[str, Any]
SPREAD = 0.02
ENCODE_BATCH = 16
LONGROPE = {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
DECODER: Json = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 131_072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
}
PHI4_MULTIMODAL: Json = {
    **DECODER,
    "model_type": "phi4mm",
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {"type": "longrope", **LONGROPE},
    "tie_word_embeddings": True,
    "vocab_size": 200_064,
    "vision_lora": {"r": 256, "lora_alpha": 512},
    "speech_lora": {"r": 320, "lora_alpha": 640},
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


def random_model(modality: Modality, *, rehearse: bool) -> Phi4Multimodal:
    """Build the model in full size on the GPU in bfloat16, or the tiny one on the CPU."""
    config = config_json() if rehearse else PHI4_MULTIMODAL
    placement = Placement(
        device=torch.device("cpu" if rehearse else "cuda"),
        dtype=torch.float32 if rehearse else torch.bfloat16,
        attention="sdpa",
        encode_batch=ENCODE_BATCH,
    )
    preparation = ImagePreparation.from_json(config, {})
    decoder = decoders.build(decoders.decoder_config(config), attention=placement.attention)
    hidden_size = decoder.config.hidden_size
    with torch.device("meta"):
        image = ImageEncoder(TowerConfig.from_json(config), hidden_size, preparation)
        audio = AudioEncoder(ConformerConfig.from_json(config), hidden_size)
    torch.manual_seed(0)
    for part in (decoder, image, audio):
        _draw(part, placement)
    statistics = audio.encoder.encoder_embedding
    statistics.float()
    statistics.global_mean.zero_()
    statistics.global_invstd.fill_(0.25)
    decoders.finish(decoder, placement.device)
    with tempfile.TemporaryDirectory() as folder:
        write_tiny(Path(folder), seed=0)
        source = Source.from_folder("random Phi-4-multimodal", Path(folder))
    return Phi4Multimodal(
        source,
        modality,
        modules=Modules(decoder, image, audio),
        prompt=PromptFormat(source.tokenizer, preparation, modality),
        placement=placement,
    )


def kv_token_bytes(model: Phi4Multimodal) -> int:
    """Count the bytes of one token's keys and values."""
    sizes = model.decoder.config
    heads = sizes.num_key_value_heads or sizes.num_attention_heads
    head_size = sizes.hidden_size // sizes.num_attention_heads
    return 2 * sizes.num_hidden_layers * heads * head_size * model.decoder.dtype.itemsize


def _draw(part: nn.Module, placement: Placement) -> None:
    """Fill a module that is on the meta device: norms with ones, all else at random."""
    part.requires_grad_(requires_grad=False).eval()
    part.to(placement.dtype).to_empty(device=placement.device)
    for name, tensor in part.state_dict().items():
        if "norm" in name and name.endswith("weight"):
            tensor.fill_(1.0)
        else:
            tensor.normal_(std=SPREAD)
