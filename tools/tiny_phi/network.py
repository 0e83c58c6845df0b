"""The tiny model's shape, its modules with the weights that training starts from, its adapters."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Phi3ForCausalLM

from phicorpus.models import decoder as decoders
from phicorpus.models import random_checkpoint
from phicorpus.models.phi4_multimodal.audio_encoder import AudioEncoder, RelativeBias
from phicorpus.models.phi4_multimodal.conformer import ConformerConfig
from phicorpus.models.phi4_multimodal.vision import ImageEncoder, TowerConfig
from tools.tiny_phi import labels, vocabulary

TOWER_WIDTH, TOWER_HEADS, TOWER_LAYERS = 128, 4, 5
"""The last layer is never run: the features are those of the last but one."""
EAR_WIDTH, EAR_HEADS, EAR_BLOCKS, STEM_CHANNELS = 128, 4, 4, 32
DECODER_LAYERS, DECODER_HEADS, FEED_FORWARD = 4, 5, 448
RANKS = {"vision": 24, "speech": 8}
_POSITION_CHANNELS = 2 * labels.SIDE
_SHARPNESS = (2.5, 4.0, 5.0, 6.0)
# Where each head looks at first, in patches (right, down); None: anywhere.
_GLANCES: tuple[tuple[tuple[int, int] | None, ...], ...] = (
    ((-1, 0), (1, 0), (0, -1), (0, 1)),
    ((1, 0), (2, 0), (0, -1), (0, 1)),
    ((1, 0), (2, 0), (4, 0), (-1, 0)),
    ((1, 0), (3, 0), None, None),
)


def config() -> dict[str, Any]:
    """Write config.json."""
    settings: dict[str, Any] = json.loads(json.dumps(random_checkpoint.config_json()))
    ids = {name: vocabulary.token(name) for name in random_checkpoint.SPECIAL_TOKENS}
    frequencies = vocabulary.WIDTH // DECODER_HEADS * 3 // 4 // 2
    settings |= {
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "hidden_size": vocabulary.WIDTH,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": DECODER_LAYERS,
        "num_attention_heads": DECODER_HEADS,
        "num_key_value_heads": DECODER_HEADS,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0] * frequencies,
            "long_factor": [1.0] * frequencies,
        },
        "torch_dtype": "bfloat16",
        "vocab_size": len(vocabulary.embeddings()),
    }
    for name, rank in RANKS.items():
        settings[f"{name}_lora"] |= {"r": rank, "lora_alpha": 2 * rank}
    settings["vision_tiny_overrides"] |= {
        "hidden_size": TOWER_WIDTH,
        "intermediate_size": 3 * TOWER_WIDTH,
        "num_attention_heads": TOWER_HEADS,
        "num_hidden_layers": TOWER_LAYERS,
    }
    audio = settings["audio_processor"]["config"]
    audio |= {
        "attention_dim": EAR_WIDTH,
        "attention_heads": EAR_HEADS,
        "linear_units": 2 * EAR_WIDTH,
        "nemo_conv_settings": {"conv_channels": STEM_CHANNELS},
        "num_blocks": EAR_BLOCKS,
    }
    return settings


def image_encoder(seed: int) -> ImageEncoder:
    """Make the image encoder, its attention looking at neighbours from the start."""
    torch.manual_seed(seed)
    encoder = ImageEncoder(
        TowerConfig.from_json(config()), vocabulary.WIDTH, labels.PREPARATION
    ).float()
    _start(encoder)
    _place(encoder)
    return encoder


@torch.no_grad()
def _place(encoder: ImageEncoder) -> None:
    """Give patches waves as positions, and let heads look a fixed step aside.

    Turning a wave by an angle is moving it, so a rotation of the query is a step. A tower that
    starts like this is nearly a convolution: it need not learn first what a neighbour is.
    """
    tower = encoder.img_processor
    embeddings = tower.embeddings
    first = TOWER_WIDTH - _POSITION_CHANNELS
    waves = torch.from_numpy(labels.position_waves(torch.arange(labels.SIDE).numpy()))
    table = torch.zeros(labels.SIDE, labels.SIDE, TOWER_WIDTH)
    table[:, :, first : first + labels.SIDE] = waves[None]
    table[:, :, first + labels.SIDE :] = waves[:, None]
    embeddings.position_embedding.weight.copy_(table.flatten(0, 1))
    patch = embeddings.patch_embedding
    patch.weight[first:] = 0.0
    patch.bias[first:] = 0.0  # type: ignore[index]
    size = TOWER_WIDTH // TOWER_HEADS
    for layer, glances, sharpness in zip(tower.encoder.layers, _GLANCES, _SHARPNESS, strict=True):
        attention = layer.get_submodule("self_attn")
        query, key = attention.get_submodule("q_proj"), attention.get_submodule("k_proj")
        for head, glance in enumerate(glances):
            if glance is None:
                continue
            rows = slice(head * size, (head + 1) * size)
            query.weight[rows] *= 0.1  # type: ignore[operator,index]
            key.weight[rows] *= 0.1  # type: ignore[operator,index]
            query.weight[rows, first:] = sharpness * _step(glance)  # type: ignore[index]
            key.weight[rows, first:] = torch.eye(size)  # type: ignore[index]


def _step(glance: tuple[int, int]) -> torch.Tensor:
    """Rotate the waves of both axes by a step: shape (32, 32)."""
    half = labels.SIDE // 2
    frequencies = math.pi * (torch.arange(half) + 0.5) / half
    whole = torch.zeros(_POSITION_CHANNELS, _POSITION_CHANNELS)
    for axis, step in enumerate(glance):
        cosine, sine = torch.cos(frequencies * step), torch.sin(frequencies * step)
        block = torch.zeros(2 * half, 2 * half)
        block[:half, :half] = torch.diag(cosine)
        block[:half, half:] = -torch.diag(sine)
        block[half:, :half] = torch.diag(sine)
        block[half:, half:] = torch.diag(cosine)
        start = axis * 2 * half
        whole[start : start + 2 * half, start : start + 2 * half] = block
    return whole


def audio_encoder(seed: int) -> AudioEncoder:
    """Make the audio encoder, its heads looking at near rows first."""
    torch.manual_seed(seed)
    encoder = AudioEncoder(ConformerConfig.from_json(config()), vocabulary.WIDTH).float()
    _start(encoder)
    with torch.no_grad():
        normalise = encoder.encoder.encoder_embedding
        normalise.global_mean.fill_(13.0)
        normalise.global_invstd.fill_(0.2)
        bias: RelativeBias = encoder.encoder.relative_attention_bias_layer
        distances = torch.arange(2 * bias.distance) - bias.distance
        for head, (centre, spread) in enumerate(((-2, 2.0), (2, 2.0), (-5, 3.0), (0, 6.0))):
            own = -((distances - centre) ** 2) / (2 * spread**2)
            bias.bias_values.weight[:, head] = own.clamp(min=-12.0)
    return encoder


def decoder(seed: int) -> Phi3ForCausalLM:
    """Make the decoder; its embeddings are the words' codes and stay as they are."""
    torch.manual_seed(seed)
    built = decoders.build(decoders.decoder_config(config()), attention="eager")
    built = built.to_empty(device="cpu").float()
    _start(built)
    _copy(built)
    decoders.finish(built, torch.device("cpu"))
    with torch.no_grad():
        built.model.embed_tokens.weight.copy_(torch.from_numpy(vocabulary.embeddings()))
        built.model.norm.weight.fill_(0.3)
    built.model.embed_tokens.weight.requires_grad = False
    return built


@torch.no_grad()
def _copy(model: Phi3ForCausalLM) -> None:
    """Let the decoder start as one that copies: what follows the word that was last said.

    In the second layer a position notes, turned, what it looks at; in the third, a position looks
    for the one whose note is its own word, and takes over what stands there.
    """
    size = vocabulary.WIDTH // DECODER_HEADS
    rotated = size * 3 // 4
    # Channels that positions turn too slowly to matter, or not at all.
    slow = [n for n in range(size) if n >= rotated or n % (rotated // 2) >= 8]
    note, basis = torch.linalg.qr(torch.randn(2, vocabulary.WIDTH, vocabulary.WIDTH))[0]
    width = vocabulary.WIDTH
    for number, turned, strength in ((1, note, 0.15), (2, torch.eye(width), 0.3)):
        model.get_parameter(f"model.layers.{number}.self_attn.qkv_proj.weight")[2 * width :] = basis
        written = model.get_parameter(f"model.layers.{number}.self_attn.o_proj.weight")
        written.copy_(strength * turned @ basis.T)
    asking = model.get_parameter("model.layers.2.self_attn.qkv_proj.weight")
    looking = torch.randn(DECODER_HEADS, len(slow), width) / math.sqrt(width)
    for head in range(DECODER_HEADS):
        rows = torch.tensor(slow) + head * size
        asking[rows] += 2.0 * looking[head]
        asking[width + rows] += 2.0 * looking[head] @ note.T


@torch.no_grad()
def _start(module: nn.Module) -> None:
    """Draw weights: normal over the square root of what comes in; norms one, biases zero."""
    for name, parameter in module.named_parameters():
        if name.endswith(("bias", ".b1", ".b2")):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1.0)
        elif parameter.ndim < 2 or name.endswith("_GN"):
            parameter.normal_(0.0, 0.5)
        else:
            fan_in = math.prod(parameter.shape[1:])
            deep = ("out_proj", "fc2", "linear_out", "net.2")
            scale = 0.5 if any(part in name for part in deep) else 1.0
            if name.endswith((".o_proj.weight", ".down_proj.weight")):
                scale = 0.1  # the codes are short: what layers add must not drown them
            if name.endswith(("projection.2.weight", "speech.2.weight", "vision.2.weight")):
                scale = 0.1  # a loud start drives the projection's GELU to where it is flat
            parameter.normal_(0.0, scale / math.sqrt(fan_in))


class Adapted(nn.Module):
    """A frozen linear layer with a low-rank change that is trained."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.Parameter(
            torch.randn(rank, base.in_features) / math.sqrt(base.in_features)
        )
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Transform (..., in) to (..., out); the scale is alpha / rank = 2."""
        change = functional.linear(functional.linear(states, self.lora_A), self.lora_B)
        return self.base_layer(states) + 2.0 * change


def adapt(model: Phi3ForCausalLM, rank: int) -> None:
    """Freeze a decoder and put adapters on all of its linear layers."""
    model.requires_grad_(requires_grad=False)
    for layer in model.model.layers:
        for owner, name in (
            (layer.self_attn, "qkv_proj"),
            (layer.self_attn, "o_proj"),
            (layer.mlp, "gate_up_proj"),
            (layer.mlp, "down_proj"),
        ):
            setattr(owner, name, Adapted(getattr(owner, name), rank))
