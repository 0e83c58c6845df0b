"""The arguments of every loader: a checkpoint's parts, and where the model is to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phicorpus.config import Quantization
from phicorpus.errors import CheckpointError
from phicorpus.models.peft import LowRank
from phicorpus.models.quantization import check_device
from phicorpus.models.shards import Tensor, check_regular, preprocessor, read_json, tensors
from phicorpus.models.tokenizer import PromptTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checkpoint, its weights not yet read.

    Attributes:
        name: Hub name or folder, for errors and for the loaded model.
        config: config.json.
        preprocessor: preprocessor_config.json; empty if there is none.
        stop_ids: The end-of-sequence ids of generation_config.json and config.json.
        tensors: Every tensor of its files.
        tokenizer: From tokenizer.json.
        folder: Where all this was read.
        adapters: To be merged on top of the checkpoint's own.
    """

    name: str
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    stop_ids: frozenset[int]
    tensors: Mapping[str, Tensor]
    tokenizer: PromptTokenizer
    folder: Path
    adapters: tuple[LowRank, ...] = ()

    @classmethod
    def from_folder(cls, name: str, folder: Path, adapters: tuple[LowRank, ...] = ()) -> Source:
        """Read a checkpoint's descriptions and headers.

        Raises:
            CheckpointError: a part is missing or damaged.
        """
        config = read_json(folder / "config.json")
        check_regular(folder / "tokenizer.json")
        stop_ids = _stop_ids(config)
        if (folder / "generation_config.json").exists():
            stop_ids |= _stop_ids(read_json(folder / "generation_config.json"))
        return cls(
            name=name,
            config=config,
            preprocessor=preprocessor(folder),
            stop_ids=stop_ids,
            tensors=tensors(folder),
            tokenizer=PromptTokenizer.from_folder(folder),
            folder=folder,
            adapters=adapters,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and how a model runs.

    Attributes:
        device: Of weights and features.
        dtype: Of weights and features.
        attention: Name of the decoder's attention in transformers.
        encode_batch: Upper bound of the crops, or clips, encoded in one pass.
        quantization: Of the decoder's layers.
    """

    device: torch.device
    dtype: torch.dtype
    attention: str
    encode_batch: int
    quantization: Quantization = "none"


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTIONS = {"auto": "sdpa", "sdpa": "sdpa", "flash": "flash_attention_2"}
# bfloat16 tensor cores came with Ampere (compute capability 8.0); before, float16 is the fast one.
BFLOAT16_CAPABILITY = (8, 0)


def place(
    *,
    device: str,
    dtype: str,
    attention: str,
    encode_batch: int,
    quantization: Quantization = "none",
) -> Placement:
    """Choose device, dtype and attention; "auto" takes the accelerator, if there is one.

    On the CPU float32; on NVIDIA GPUs before Ampere float16; on every other accelerator bfloat16.

    Raises:
        CheckpointError: the named device is not there.
        ConfigError: it cannot multiply by weights that are quantized like this.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device == "auto":
        chosen = accelerator or torch.device("cpu")
    elif device == "cpu" or (accelerator is not None and accelerator.type == device):
        chosen = torch.device(device)
    else:
        there = accelerator.type if accelerator is not None else "none"
        raise CheckpointError(f"device {device!r} is not available; accelerator found: {there}")
    chosen_dtype = DTYPES[dtype] if dtype != "auto" else _fast_dtype(chosen)
    check_device(quantization, chosen, chosen_dtype)
    if chosen.type == "cuda" and chosen_dtype == torch.float32:
        # Convolutions would take TensorFloat-32, ten bits, for float32; who asks for it wants it.
        torch.backends.cudnn.allow_tf32 = False
    return Placement(
        device=chosen,
        dtype=chosen_dtype,
        attention=ATTENTIONS[attention],
        encode_batch=encode_batch,
        quantization=quantization,
    )


def _fast_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and torch.cuda.get_device_capability() < BFLOAT16_CAPABILITY:
        return torch.float16
    return torch.bfloat16


def _stop_ids(config: Mapping[str, Any]) -> frozenset[int]:
    ids = config.get("eos_token_id")
    if ids is None:
        return frozenset()
    return frozenset(ids) if isinstance(ids, list) else frozenset({ids})
