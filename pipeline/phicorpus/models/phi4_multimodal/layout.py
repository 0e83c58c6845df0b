"""The names of a Phi-4-multimodal checkpoint's tensors and adapters. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phicorpus.models.peft import LowRank, inlined, read_low_rank, renamed
from phicorpus.models.phi4_multimodal import transformers_layout
from phicorpus.models.shards import Tensor

IMAGE_PREFIX = "model.embed_tokens_extend.image_embed."
AUDIO_PREFIX = "model.embed_tokens_extend.audio_embed."
ADAPTERS = ("vision", "speech")
# The weights that each of them changes.
ADAPTED = r"\Amodel\.layers\.\d+\.(self_attn\.(qkv|o)_proj|mlp\.(gate_up|down)_proj)\.weight\Z"


def in_hub_layout(
    name: str, folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint of either layout as the hub's, its adapters among its tensors.

    Adapters that are not in the shards are looked for in the folders `vision-lora`, `speech-lora`.

    Args:
        name: For errors.
        folder: Of the checkpoint.
        config: config.json, in either layout's keys.
        tensors: In either layout's names.

    Returns:
        Config and tensors, in the hub's.

    Raises:
        CheckpointError: such a folder is damaged, or not this checkpoint's.
    """
    found = transformers_layout.hub_config(config)
    whole = {transformers_layout.hub_name(key): tensor for key, tensor in tensors.items()}
    for adapter_name in ADAPTERS:
        own = folder / f"{adapter_name}-lora"
        if own.is_dir() and not any(f".lora_A.{adapter_name}." in key for key in whole):
            adapter = in_hub_names(read_low_rank(f"{name}/{own.name}", own))
            whole = inlined(whole, adapter, adapter_name)
            alpha = adapter.scale * adapter.rank
            found[f"{adapter_name}_lora"] = {"r": adapter.rank, "lora_alpha": alpha}
    return found, whole


def in_hub_names(adapter: LowRank) -> LowRank:
    """Read an adapter of either layout as the hub's."""
    return renamed(
        adapter, {place: transformers_layout.hub_name(place) for place in adapter.halves}
    )
