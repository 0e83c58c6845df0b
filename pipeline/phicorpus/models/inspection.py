"""Inspect a checkpoint: its parts, its cost in memory, its faults. No torch.

Only descriptions and the headers of weights are read; nothing is downloaded but descriptions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from phicorpus.config import Modality
from phicorpus.errors import CheckpointError
from phicorpus.models import shards
from phicorpus.models.architectures import ARCHITECTURES, Architecture
from phicorpus.models.checkpoint import (
    SHIPPED,
    WANTED_FILES,
    Resolved,
    describe,
    descriptions,
    resolve,
)
from phicorpus.models.expected_tensors import PARTS, Json, count_elements
from phicorpus.models.shards import Tensor, few
from phicorpus.models.tokenizer import PromptTokenizer

BFLOAT16, FLOAT32 = 2, 4
MANY = 100_000_000
"""From here on parameters are told in billions, and bytes in GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one modality loads, its adapter merged: weights only."""

    modality: Modality
    num_parameters: int
    bfloat16_bytes: int
    float32_bytes: int


@dataclass(slots=True, kw_only=True)
class Examination:
    """What was found; what could not be told is None or empty.

    Attributes:
        layout: "hub": the publisher's own. "transformers": as its native classes save.
        digest: The hub's commit, or a hash of the folder's content.
        num_parameters: Of the checkpoint, adapters included.
        dtypes: Tensors by type, as safetensors names it.
        adapters: Rank by name.
        loads: By modality.
        kv_bytes_per_token: In bfloat16; twice as much in float32.
        row_bytes: Of one feature row, which is one prompt token, in bfloat16.
        notes: Worth knowing, and not wrong.
        problems: Why it cannot be loaded; empty: it can, as far as headers tell.
    """

    name: str
    architecture: str | None = None
    layout: str | None = None
    revision: str | None = None
    digest: str | None = None
    num_parameters: int | None = None
    dtypes: dict[str, int] = field(default_factory=dict)
    adapters: dict[str, int] = field(default_factory=dict)
    context_tokens: int | None = None
    loads: list[Load] = field(default_factory=list)
    kv_bytes_per_token: int | None = None
    row_bytes: int | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def examine(name: str, revision: str | None = None) -> Examination:
    """Look at a checkpoint, broken or not.

    Args:
        name: Folder, "tiny", or hub name.
        revision: Of a hub name.
    """
    found = Examination(name=name)
    folder = Path(name) if Path(name).is_dir() else SHIPPED.get(name)
    try:
        resolved = resolve(name, revision) if folder is None else describe(name, folder, digest="")
        folder = folder or _cached(resolved, found)
        architecture = ARCHITECTURES[resolved.architecture]
        config = _describe(found, resolved, architecture)
    except CheckpointError as error:
        found.problems.append(str(error))
        return found
    if folder is not None:
        for check in (_check_digest, _check_tokenizer, _check_tensors):
            try:
                check(found, architecture, folder, config)
            except CheckpointError as error:
                found.problems.append(str(error))
        _note_code(found, folder)
    found.problems = list(dict.fromkeys(found.problems))
    return found


def describe_examination(found: Examination) -> Iterator[str]:
    """Describe what was found, line by line."""
    if found.architecture is not None:
        yield f"{found.name}: {found.architecture}, in the layout of the {found.layout}"
        yield f"version: {found.revision or found.digest or 'unknown'}"
    if found.num_parameters is not None:
        kinds = ", ".join(f"{count} tensors of {kind}" for kind, count in found.dtypes.items())
        yield f"holds {_number(found.num_parameters)} parameters ({kinds})"
    if found.adapters:
        ranks = ", ".join(f"{name} of rank {rank}" for name, rank in found.adapters.items())
        yield f"adapters, merged when loaded: {ranks}"
    for load in found.loads:
        yield (
            f"for {load.modality}: {_number(load.num_parameters)} parameters, "
            f"{_size(load.bfloat16_bytes)} in bfloat16, {_size(load.float32_bytes)} in float32"
        )
    if found.kv_bytes_per_token is not None and found.row_bytes is not None:
        yield (
            f"beside the weights: {found.kv_bytes_per_token / 1e6:.3f} MB of KV cache per token "
            f"and {found.row_bytes / 1e3:.1f} kB per feature row in bfloat16, twice that in "
            f"float32; up to {found.context_tokens} tokens per request"
        )
    yield from (f"note: {note}" for note in found.notes)
    yield from (f"wrong: {problem}" for problem in found.problems)
    if not found.problems:
        yield "nothing is wrong with it"


def _number(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= MANY else f"{count / 1e6:.1f} million"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= MANY else f"{num_bytes / 1e6:.1f} MB"


def _cached(resolved: Resolved, found: Examination) -> Path | None:
    """Find a hub checkpoint's weights on this disk."""
    try:
        folder = Path(
            snapshot_download(
                resolved.name,
                revision=resolved.revision,
                allow_patterns=list(WANTED_FILES),
                local_files_only=True,
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
        folder = None
    if folder is None or not any(folder.glob("*.safetensors")):
        found.notes.append("its weights are not on this disk yet: only its config was looked at")
        return None
    return folder


def _describe(found: Examination, resolved: Resolved, architecture: Architecture) -> dict[str, Any]:
    """Note what follows from config.json, and return it in the hub's keys."""
    raw = shards.read_json(descriptions(resolved) / "config.json")
    config = architecture.hub_config(raw)
    found.architecture, found.layout = architecture.name, architecture.layout(raw)
    found.revision, found.digest = resolved.revision, resolved.digest or None
    shapes = architecture.expected_tensors(config)
    for modality in resolved.modalities:
        parts = PARTS[modality]
        num = count_elements(s for n, s in shapes.items() if architecture.part_of(n) in parts)
        found.loads.append(
            Load(
                modality=modality,
                num_parameters=num,
                bfloat16_bytes=BFLOAT16 * num,
                float32_bytes=FLOAT32 * num,
            )
        )
    head = config["hidden_size"] // config["num_attention_heads"]
    per_layer = 2 * config["num_key_value_heads"] * head
    found.kv_bytes_per_token = BFLOAT16 * config["num_hidden_layers"] * per_layer
    found.row_bytes = BFLOAT16 * config["hidden_size"]
    found.context_tokens = config.get("max_position_embeddings")
    return config


def _check_digest(
    found: Examination, _architecture: Architecture, folder: Path, _config: Json
) -> None:
    if found.digest is None:
        found.digest = shards.digest(folder)


def _check_tokenizer(
    _found: Examination, architecture: Architecture, folder: Path, config: Json
) -> None:
    tokenizer = PromptTokenizer.from_folder(folder)
    architecture.chat_format(tokenizer, config, shards.preprocessor(folder))


def _check_tensors(
    found: Examination, architecture: Architecture, folder: Path, config: Json
) -> None:
    """Compare the headers with what the config promises."""
    config, tensors = architecture.hub_layout(found.name, folder, config, shards.tensors(folder))
    found.num_parameters = count_elements(tensor.shape for tensor in tensors.values())
    found.dtypes = dict(Counter(tensor.dtype for tensor in tensors.values()).most_common())
    wanted = architecture.expected_tensors(config)
    present: dict[str, Tensor] = {}
    foreign: list[str] = []
    for name, tensor in tensors.items():
        plain = name.replace(".base_layer.", ".")
        if plain in wanted and plain not in present:
            present[plain] = tensor
        elif not (
            _is_adapter(name, architecture)
            or architecture.is_unread(name, config)
            or name == "lm_head.weight"  # tied, and there all the same
        ):
            foreign.append(name)
    wrong = [
        f"{name} {list(tensor.shape)} instead of {list(wanted[name])}"
        for name, tensor in present.items()
        if tensor.shape != wanted[name]
    ]
    for what, names in (
        ("tensors that this model does not have", foreign),
        ("tensors that it lacks", sorted(wanted.keys() - present.keys())),
        ("tensors of another shape", wrong),
    ):
        if names:
            found.problems.append(f"{what}: {few(names)}")
    _check_adapters(found, architecture, tensors, config)


def _check_adapters(
    found: Examination, architecture: Architecture, tensors: Mapping[str, Tensor], config: Json
) -> None:
    layers = config["num_hidden_layers"]
    for name in architecture.adapters:
        halves = {
            half: [t for key, t in tensors.items() if key.endswith(f".lora_{half}.{name}.weight")]
            for half in "AB"
        }
        rank = int((config.get(f"{name}_lora") or {}).get("r") or 0)
        if {len(own) for own in halves.values()} != {4 * layers}:
            counts = f"{len(halves['A'])} A and {len(halves['B'])} B"
            found.problems.append(
                f"adapter {name}: {counts} halves, expected {4 * layers} of each; without it"
                " answers would be worse, and nothing would say so"
            )
        elif {tensor.shape[0] for tensor in halves["A"]} != {rank}:
            found.problems.append(f"adapter {name}: its rank is not config.json's, {rank}")
        else:
            found.adapters[name] = rank


def _is_adapter(name: str, architecture: Architecture) -> bool:
    endings = [f".lora_{half}.{own}.weight" for half in "AB" for own in architecture.adapters]
    return name.endswith(tuple(endings))


def _note_code(found: Examination, folder: Path) -> None:
    code = sorted(path.name for path in folder.glob("*.py"))
    pickles = sorted(path.name for pattern in shards.PICKLES for path in folder.glob(pattern))
    if code:
        found.notes.append(f"its Python files are never run: {few(code)}")
    if pickles and found.num_parameters is not None:
        found.notes.append(f"its pickles are not read: {few(pickles)}")
