"""A model's decoder, and its vocabulary, as files that vLLM reads, in a temporary folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
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

VOCABULARY = "steering.json"
SHARD_BYTES = 2 * 1024**3
PREFIX = "phicorpus-vllm-"
ARCHITECTURE = "Phi3ForCausalLM"

_ALIVE = "alive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The ids and the tokenizer that choosing a token needs.

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
        """Return the vocabulary of a loaded model."""
        backend = getattr(model.tokenizer, "backend", None)
        return cls(
            size=word_embedding(model.decoder).num_embeddings,
            stop_ids=tuple(sorted(model.stop_ids)),
            banned_ids=tuple(sorted(model.banned_ids)),
            tokenizer=backend.to_str() if isinstance(backend, Backend) else None,
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read it from the folder of `write`."""
        values = json.loads((folder / VOCABULARY).read_text("utf-8"))
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
    (folder / VOCABULARY).write_text(json.dumps(asdict(Vocabulary.of(model))), "utf-8")
    for number, shard in enumerate(_shards(decoder, shard_bytes), start=1):
        save_file(shard, folder / f"model-{number:05}.safetensors", metadata={"format": "pt"})


def remove_weights(folder: Path) -> None:
    """Delete the files that only loading needs."""
    for file in folder.glob("*.safetensors"):
        file.unlink()


def take_apart(decoder: Phi3ForCausalLM) -> None:
    """Free the decoder's weights; its config, device and dtype stay readable."""
    words = word_embedding(decoder).weight
    nothing = nn.Parameter(words[:0].clone(), requires_grad=False)
    decoder.model.layers = nn.ModuleList()
    word_embedding(decoder).weight = nothing
    decoder.lm_head.weight = nothing
    if words.is_cuda:
        torch.cuda.empty_cache()


class TemporaryFolder:
    """A folder for large files that is removed with its process, even if that was killed.

    A killed process leaves it behind; the next process that makes one removes it. Those of living
    processes are known by an open lock on a file.

    Attributes:
        path: Among the system's temporary files.
    """

    def __init__(self) -> None:
        remove_left_behind()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        new = self.path / "new"
        self._lock = new.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self.path / _ALIVE)  # locked from the first moment that others look at it

    def remove(self) -> None:
        """Delete it with all that is in it; safe to call twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def remove_left_behind() -> None:
    """Delete this user's folders whose processes have ended without removing them."""
    for alive in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{_ALIVE}"):
        try:
            if alive.parent.is_symlink() or alive.stat().st_uid != os.getuid():
                continue
            with alive.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(alive.parent, ignore_errors=True)
        except OSError:  # its process lives, or another was faster
            continue


def _config(decoder: Phi3ForCausalLM) -> dict[str, Any]:
    """Build the decoder's config.json; vLLM takes the LongRoPE factors by its `max_model_len`."""
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
    """Yield the weights in pieces that fit in memory once more; a tied head is left out."""
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
