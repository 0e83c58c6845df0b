"""A small random Phi-4-multimodal checkpoint, in the hub's own layout: for tests and first tries.

Its answers make no sense, but they come in milliseconds on a CPU, and every part of the way is
real: shards, adapters, tokenizer, vision tower, conformer, LongRoPE.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from phicorpus.models.architectures import ARCHITECTURES
from phicorpus.models.expected_tensors import Shape
from phicorpus.models.phi4_multimodal.layout import IMAGE_PREFIX
from phicorpus.models.shards import INDEX

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|endoftext10|>",
    "<|endoftext11|>",
    "<|endofprompt|>",
    "<|assistant|>",
    "<|end|>",
    "<|user|>",
    "<|system|>",
    "<|tool|>",
    "<|/tool|>",
)
# As in the published tokenizer: these swallow the white space behind them.
SWALLOWING = ("<|assistant|>", "<|end|>", "<|user|>", "<|system|>")
NUM_BYTES = 256
VOCAB_SIZE = 320
HIDDEN, FEED_FORWARD, LAYERS, HEADS, KV_HEADS = 64, 96, 3, 4, 2
NUM_FREQUENCIES = HIDDEN // HEADS * 3 // 4 // 2
CROP_PX, PATCH_PX, TOWER_LAYERS = 224, 14, 3
CONFORMER_BLOCKS, BIAS_DISTANCE, NUM_MELS = 2, 500, 80
VISION_RANK, SPEECH_RANK = 8, 12
LORA_LAYERS = r"layers.*((self_attn\.(qkv_proj|o_proj))|(mlp\.(gate_up|down)_proj))"


def write_tiny(folder: Path, seed: int) -> None:
    """Write a checkpoint of about 2 MB; the same files for the same seed.

    Args:
        folder: Made if it is not there; files in it are replaced.
        seed: Of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config_json())
    _write_json(folder / "tokenizer.json", _tokenizer())
    ids = _special_ids()
    _write_json(
        folder / "generation_config.json",
        {
            "eos_token_id": [ids["<|end|>"], ids["<|endoftext|>"]],
            "bos_token_id": ids["<|endoftext|>"],
        },
    )
    _write_json(
        folder / "preprocessor_config.json",
        {"dynamic_hd": 36, "image_processor_type": "Phi4MMImageProcessor"},
    )
    shards: tuple[dict[str, npt.NDArray[np.float32]], ...] = ({}, {})
    for name, shape in _shapes():
        shards[name.startswith("model.layers.")][name] = _values(name, shape, seed)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    total = sum(value.nbytes for shard in shards for value in shard.values())
    _write_json(
        folder / INDEX,
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
    )


# The first rule whose pattern is found: constant + spread * normal, over sqrt(fan in) or not.
RULES: tuple[tuple[str, float, float, bool], ...] = (
    (r"(norm\d?|layer_norm_att)\.weight$", 1.0, 0.0, False),
    (r"(norm\d?|layer_norm_att)\.bias$", 0.0, 0.0, False),
    (r"embed_tokens\.weight$", 0.0, 0.25, False),
    (r"global_mean$", 9.0, 0.0, False),
    (r"global_invstd$", 0.3, 0.0, False),
    (r"position_embedding\.weight$|_GN$|bias_values\.weight$", 0.0, 0.7, False),
    (r"(bias|\.b1|\.b2)$", 0.0, 0.05, False),
    (r"(qkv|q|k)_proj", 0.0, 1.8, True),
    (r"", 0.0, 1.2, True),
)


def _values(name: str, shape: Shape, seed: int) -> npt.NDArray[np.float32]:
    """Draw a tensor, at a scale that lets differences of the input reach the answer."""
    _, constant, spread, over_fan_in = next(rule for rule in RULES if re.search(rule[0], name))
    scale = spread / np.sqrt(np.prod(shape[1:])) if over_fan_in else spread
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = constant + np.float32(scale) * generator.standard_normal(shape, dtype=np.float32)
    if name == "model.embed_tokens.weight":
        values *= _prominence()[:, None]
    return values.astype(np.float32)


def _prominence() -> npt.NDArray[np.float32]:
    """Make printable ASCII likely and the rest unlikely, so that answers are mostly legible."""
    prominence = np.full(VOCAB_SIZE, 0.1, np.float32)
    tokens = _byte_tokens()
    prominence[[tokens[chr(code)] for code in range(ord("!"), ord("~") + 1)]] = 1.0
    prominence[tokens["Ġ"]] = 1.3
    ids = _special_ids()
    for name in (*SWALLOWING, "<|endoftext10|>", "<|endoftext11|>"):
        prominence[ids[name]] = 0.6
    return prominence


def _shapes() -> Iterator[tuple[str, Shape]]:
    """Name the tensors: all that are read, and the tower's last layer and norm, which are not."""
    for name, shape in ARCHITECTURES["phi4_multimodal"].published_tensors(config_json()):
        yield name, shape
        if ".encoder.layers.0." in name:
            yield name.replace(".0.", f".{TOWER_LAYERS - 1}.", 1), shape
    for end in ("weight", "bias"):
        yield f"{IMAGE_PREFIX}img_processor.post_layernorm.{end}", (HIDDEN,)


def config_json() -> dict[str, Any]:
    """Make config.json, as the hub's but for the sizes."""
    ids = _special_ids()
    return {
        "architectures": ["Phi4MMForCausalLM"],
        "model_type": "phi4mm",
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0 + 0.1 * n for n in range(NUM_FREQUENCIES)],
            "long_factor": [1.5 * 1.7**n for n in range(NUM_FREQUENCIES)],
        },
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "vocab_size": VOCAB_SIZE,
        "vision_lora": {"r": VISION_RANK, "lora_alpha": 2 * VISION_RANK, "layer": LORA_LAYERS},
        "speech_lora": {"r": SPEECH_RANK, "lora_alpha": 2 * SPEECH_RANK, "layer": LORA_LAYERS},
        "embd_layer": {"image_embd_layer": {"crop_size": CROP_PX}},
        "vision_tiny_overrides": {
            "hidden_size": HIDDEN,
            "image_size": CROP_PX,
            "intermediate_size": FEED_FORWARD,
            "num_attention_heads": HEADS,
            "num_hidden_layers": TOWER_LAYERS,
            "patch_size": PATCH_PX,
        },
        "audio_processor": {
            "name": "cascades",
            "config": {
                "attention_dim": HIDDEN,
                "attention_heads": HEADS,
                "input_size": NUM_MELS,
                "kernel_size": 3,
                "linear_units": FEED_FORWARD,
                "nemo_conv_settings": {"conv_channels": HIDDEN},
                "num_blocks": CONFORMER_BLOCKS,
                "relative_attention_bias_args": {
                    "t5_bias_max_distance": BIAS_DISTANCE,
                    "type": "t5",
                },
                "time_reduction": 8,
            },
        },
    }


def _special_ids() -> dict[str, int]:
    return {name: NUM_BYTES + number for number, name in enumerate(SPECIAL_TOKENS)}


def _byte_tokens() -> dict[str, int]:
    """Map GPT-2's 256 stand-in characters for bytes to their ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(NUM_BYTES) if byte not in printable]
    characters = [chr(code) for code in printable] + [
        chr(NUM_BYTES + n) for n in range(len(others))
    ]
    return {character: number for number, character in enumerate(characters)}


def _tokenizer() -> dict[str, Any]:
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    added = [
        {
            "id": number,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": name in SWALLOWING,
            "normalized": False,
            "special": True,
        }
        for name, number in _special_ids().items()
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {**_byte_tokens(), **_special_ids()},
            "merges": [],
        },
    }


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", "utf-8")
