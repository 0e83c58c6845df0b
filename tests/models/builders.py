"""Checkpoints derived from others: another layout, adapters beside or on top."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from phicorpus.models.phi4_multimodal.transformers_layout import transformers_name

Arrays = dict[str, npt.NDArray[Any]]


def all_tensors(folder: Path) -> Arrays:
    tensors: Arrays = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def write_adapter(folder: Path, tensors: Mapping[str, npt.NDArray[Any]], **config: object) -> Path:
    """A peft folder; tensors by module and half: "model.layers.0.mlp.down_proj.lora_A"."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8} | config)
    )
    named = {f"base_model.model.{key}.weight": value for key, value in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    return folder


def adapter_halves(module: str, shape: tuple[int, int], *, rank: int = 4, seed: int = 0) -> Arrays:
    generator = np.random.default_rng(seed)
    num_out, num_in = shape
    return {
        f"{module}.lora_A": generator.normal(size=(rank, num_in)).astype("f4"),
        f"{module}.lora_B": generator.normal(size=(num_out, rank)).astype("f4"),
    }


def native_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config that transformers' own classes save for a checkpoint in the hub's layout."""
    audio = config["audio_processor"]["config"]
    tower = {k: v for k, v in config["vision_tiny_overrides"].items() if k != "model_type"}
    rope = {
        **config["rope_scaling"],
        "rope_type": "longrope",
        "rope_theta": config["rope_theta"],
        "partial_rotary_factor": config["partial_rotary_factor"],
        "original_max_position_embeddings": config["original_max_position_embeddings"],
    }
    hub_only = {"embd_layer", "audio_processor", "vision_lora", "speech_lora", "rope_scaling",
                "vision_tiny_overrides", "img_processor", "architectures"}  # fmt: skip
    return {
        **{key: value for key, value in config.items() if key not in hub_only},
        "model_type": "phi4_multimodal",
        "sliding_window": None,
        "rope_parameters": rope,
        "vision_config": {
            **tower,
            "model_type": "phi4_multimodal_vision",
            "crop_size": config["embd_layer"]["image_embd_layer"]["crop_size"],
        },
        "audio_config": {
            "model_type": "phi4_multimodal_audio",
            "hidden_size": audio["attention_dim"],
            "num_attention_heads": audio["attention_heads"],
            "intermediate_size": audio["linear_units"],
            "num_blocks": audio["num_blocks"],
            "kernel_size": audio["kernel_size"],
            "nemo_conv_channels": audio["nemo_conv_settings"]["conv_channels"],
            "ext_pw_out_channel": audio["attention_dim"],
            "depthwise_separable_out_channel": audio["attention_dim"],
            "bias_max_distance": audio["relative_attention_bias_args"]["t5_bias_max_distance"],
        },
    }


def split_adapters(tensors: Mapping[str, npt.NDArray[Any]]) -> tuple[Arrays, dict[str, Arrays]]:
    """Take the adapters out of a checkpoint's tensors; native layout's way of keeping them."""
    base: Arrays = {}
    adapters: dict[str, Arrays] = {"vision": {}, "speech": {}}
    for name, value in tensors.items():
        if ".lora_" not in name:
            base[name.replace(".base_layer.", ".")] = value
            continue
        module, half, adapter, _ = name.rsplit(".", 3)
        adapters[adapter][f"{module}.{half}"] = value
    return base, adapters


def write_native(source: Path, folder: Path) -> Path:
    """The same checkpoint in the layout that transformers' own classes save."""
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(native_config(config)))
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    base, adapters = split_adapters(all_tensors(source))
    save_file({transformers_name(k): v for k, v in base.items()}, folder / "model.safetensors")
    for name, tensors in adapters.items():
        section = config[f"{name}_lora"]
        write_adapter(
            folder / f"{name}-lora", tensors, r=section["r"], lora_alpha=section["lora_alpha"]
        )
    return folder
