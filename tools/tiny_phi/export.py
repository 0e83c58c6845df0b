"""Write the trained parts as a checkpoint in the hub's layout."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from phicorpus.models import random_checkpoint
from phicorpus.models.phi4_multimodal.model import AUDIO_PREFIX, IMAGE_PREFIX, NORMALISATION
from phicorpus.models.shards import INDEX
from tools.tiny_phi import ears, eyes, network, vocabulary
from tools.tiny_phi.training import reached

Tensors = dict[str, torch.Tensor]
_ADAPTED = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


def gather(folder: Path, seed: int) -> tuple[Tensors, dict[str, Tensors]]:
    """Collect what the runs in a folder reached.

    A part that is not trained yet is as training starts; a modality whose joining has not begun
    gets adapters that change nothing.

    Returns:
        The tensors by the hub's names, and each adapter's halves by the name of their layer.
    """
    decoder = network.decoder(seed)
    decoder.load_state_dict(reached(folder, "mind"), strict=False)
    reader = eyes.Reader(network.image_encoder(seed))
    reader.load_state_dict(reached(folder, "eyes"), strict=False)
    listener = ears.Listener(network.audio_encoder(seed))
    listener.load_state_dict(reached(folder, "ears"), strict=False)
    encoders: dict[str, nn.Module] = {"vision": reader.encoder, "speech": listener.encoder}
    adapters: dict[str, Tensors] = {}
    for sense, encoder in encoders.items():
        joined = reached(folder, sense)
        own = {k.removeprefix("encoder."): v for k, v in joined.items() if k.startswith("encoder.")}
        if own:
            encoder.load_state_dict(own)
        adapters[sense] = _halves(decoder, joined, network.RANKS[sense])
    image, audio = reader.encoder, listener.encoder
    speaking = audio.audio_projection["speech"].state_dict()
    audio.audio_projection["vision"].load_state_dict(speaking)
    tensors = {_based(name): value for name, value in decoder.state_dict().items()}
    tensors = {name: value for name, value in tensors.items() if name != "lm_head.weight"}
    tensors |= {IMAGE_PREFIX + name: value for name, value in image.state_dict().items()}
    tensors |= _never_run(image)
    tensors |= {AUDIO_PREFIX + name: value for name, value in audio.state_dict().items()}
    for sense, halves in adapters.items():
        for name, value in halves.items():
            layer, half = name.rsplit(".", 1)
            tensors[f"{layer}.{half}.{sense}.weight"] = value
    return tensors, adapters


def _based(name: str) -> str:
    stem = name.removesuffix(".weight")
    return f"{stem}.base_layer.weight" if stem.endswith(_ADAPTED) else name


def _halves(decoder: nn.Module, joined: Mapping[str, torch.Tensor], rank: int) -> Tensors:
    """Name an adapter's halves `model.layers.0.mlp.down_proj.lora_A`; zeros where it has none."""
    halves: Tensors = {}
    for name, weight in decoder.state_dict().items():
        stem = name.removesuffix(".weight")
        if not stem.endswith(_ADAPTED):
            continue
        for half, shape in (
            ("lora_A", (rank, weight.shape[1])),
            ("lora_B", (weight.shape[0], rank)),
        ):
            halves[f"{stem}.{half}"] = joined.get(f"decoder.{stem}.{half}", torch.zeros(shape))
    return halves


def _never_run(image: nn.Module) -> Tensors:
    """Make what the hub's checkpoint has and no answer depends on: last layer, last norm."""
    tower = IMAGE_PREFIX + "img_processor."
    layer = f"{tower}encoder.layers.{network.TOWER_LAYERS - 1}."
    first = "img_processor.encoder.layers.0."
    empty = {
        layer + name.removeprefix(first): torch.zeros_like(value)
        for name, value in image.state_dict().items()
        if name.startswith(first)
    }
    for name in ("weight", "bias"):
        empty[f"{tower}post_layernorm.{name}"] = torch.zeros(network.TOWER_WIDTH)
    return empty


def write(folder: Path, output: Path, *, seed: int) -> None:
    """Write the checkpoint: two shards in bfloat16, descriptions, tokenizer, adapters' folders."""
    tensors, adapters = gather(folder, seed)
    output.mkdir(parents=True, exist_ok=True)
    shards: tuple[Tensors, Tensors] = ({}, {})
    for name, value in sorted(tensors.items()):
        exact = name.rpartition(".")[2] in NORMALISATION
        kept = value.detach().contiguous().to(torch.float32 if exact else torch.bfloat16)
        shards[name.startswith("model.layers.")][name] = kept.clone()
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, output / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    total = sum(value.nbytes for shard in shards for value in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    _write(output / INDEX, index)
    _write_descriptions(output)
    for sense, halves in adapters.items():
        _write_adapter(output / f"{sense}-lora", halves, network.RANKS[sense])


def _write_descriptions(output: Path) -> None:
    ids = {name: vocabulary.token(name) for name in random_checkpoint.SPECIAL_TOKENS}
    definition = vocabulary.tokenizer_json()
    parts: dict[str, Any] = json.loads(definition)
    end = "<|endoftext|>"
    stops = {"eos_token_id": [ids["<|end|>"], ids[end]], "bos_token_id": ids[end]}
    settings = {
        "added_tokens_decoder": {str(t["id"]): t for t in parts["added_tokens"]},
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        "unk_token": end,
        "model_max_length": 131072,
        "tokenizer_class": "GPT2TokenizerFast",
    }
    merges = [m if isinstance(m, str) else " ".join(m) for m in parts["model"]["merges"]]
    _write(output / "config.json", network.config())
    _write(output / "generation_config.json", stops)
    _write(
        output / "preprocessor_config.json",
        {
            "dynamic_hd": 1,
            "image_processor_type": "Phi4MMImageProcessor",
            "feature_extractor_type": "Phi4MMAudioFeatureExtractor",
            "audio_compression_rate": 8,
            "audio_downsample_rate": 1,
            "audio_feat_stride": 1,
        },
    )
    _write(output / "processor_config.json", {"processor_class": "Phi4MMProcessor"})
    _write(output / "tokenizer_config.json", settings)
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    _write(output / "special_tokens_map.json", dict.fromkeys(names, end))
    _write(output / "added_tokens.json", ids)
    _write(output / "vocab.json", parts["model"]["vocab"])
    (output / "tokenizer.json").write_text(definition, "utf-8")
    (output / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")


def _write_adapter(output: Path, halves: Tensors, rank: int) -> None:
    """Write an adapter in peft's layout, as the hub has it beside the shards."""
    output.mkdir(exist_ok=True)
    named = {
        f"base_model.model.{name}.weight": value.detach().contiguous().to(torch.bfloat16)
        for name, value in halves.items()
    }
    save_file(named, output / "adapter_model.safetensors", metadata={"format": "pt"})
    _write(
        output / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": rank,
            "lora_alpha": 2 * rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": random_checkpoint.LORA_LAYERS,
        },
    )


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", "utf-8")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(options.folder, options.output, seed=options.seed)


if __name__ == "__main__":
    main()
