"""A model's decoder as files that vLLM reads, and what its token choice needs beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as Backend
from torch import nn
from transformers import Phi3ForCausalLM

from phicorpus.engine.encoder_cache import word_embedding
from phicorpus.models.model import Model

STEERING = "steering.json"
SHARD_BYTES = 2 * 1024**3
ARCHITECTURE = "Phi3ForCausalLM"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What choosing a token needs to know of the model.

    Attributes:
        size: Ids are below it.
        stop_ids: Any of them ends an answer.
        banned_ids: Never generated.
        tokenizer: tokenizer.json; None where the model has none that grammars can be made for.
    """

    size: int
    stop_ids: tuple[int, ...]
    banned_ids: tuple[int, ...]
    tokenizer: str | None

    @classmethod
    def of(cls, model: Model) -> Self:
        """Describe a loaded model's."""
        backend = getattr(model.tokenizer, "backend", None)
        return cls(
            size=word_embedding(model.decoder).num_embeddings,
            stop_ids=tuple(sorted(model.stop_ids)),
            banned_ids=tuple(sorted(model.banned_ids)),
            tokenizer=backend.to_str() if isinstance(backend, Backend) else None,
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read it from where `write` has put it."""
        values = json.loads((folder / STEERING).read_text("utf-8"))
        return cls(
            size=values["size"],
            stop_ids=tuple(values["stop_ids"]),
            banned_ids=tuple(values["banned_ids"]),
            tokenizer=values["tokenizer"],
        )


def write(model: Model, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a model's decoder as a text model's checkpoint.

    Args:
        model: Loaded, adapters merged.
        folder: An empty one.
        shard_bytes: Upper bound of a file, and of the memory that writing takes.
    """
    decoder = model.decoder
    (folder / "config.json").write_text(json.dumps(_config(decoder)), "utf-8")
    (folder / STEERING).write_text(json.dumps(asdict(Vocabulary.of(model))), "utf-8")
    for number, shard in enumerate(_shards(decoder, shard_bytes), start=1):
        save_file(shard, folder / f"model-{number:05}.safetensors", metadata={"format": "pt"})


def remove_weights(folder: Path) -> None:
    """Delete what only the loading needed."""
    for file in folder.glob("*.safetensors"):
        file.unlink()


def take_apart(decoder: Phi3ForCausalLM) -> None:
    """Free the decoder's weights; it still tells its sizes, its device and its type."""
    words = word_embedding(decoder).weight
    nothing = nn.Parameter(words[:0].clone(), requires_grad=False)
    decoder.model.layers = nn.ModuleList()
    word_embedding(decoder).weight = nothing
    decoder.lm_head.weight = nothing
    if words.is_cuda:
        torch.cuda.empty_cache()


def _config(decoder: Phi3ForCausalLM) -> dict[str, Any]:
    """The decoder's config.json; vLLM takes the LongRoPE factors by its `max_model_len`."""
    config = cast("dict[str, Any]", decoder.config.to_dict())
    rope = cast("Mapping[str, Any]", decoder.config.rope_parameters)
    longest = config["max_position_embeddings"]
    config["original_max_position_embeddings"] = rope.get(
        "original_max_position_embeddings", longest
    )
    config["architectures"] = [ARCHITECTURE]
    config["dtype"] = str(decoder.dtype).removeprefix("torch.")
    if config.get("sliding_window") is not None:
        config["layer_types"] = ["sliding_attention"] * config["num_hidden_layers"]
    return config


def _shards(decoder: Phi3ForCausalLM, shard_bytes: int) -> Iterator[dict[str, torch.Tensor]]:
    """Give the weights in pieces that fit in memory once more; a tied head is left out."""
    tied = decoder.lm_head.weight is word_embedding(decoder).weight
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name, value in decoder.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        if shard and size + value.nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = value.detach().cpu().contiguous()
        size += value.nbytes
    yield shard
