"""Low-rank adapters in the folders that the peft library writes. No torch, no peft."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phicorpus.errors import CheckpointError
from phicorpus.models.shards import Tensor, few, header, read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
# base_model.model.<module>[.base_layer].lora_A[.<adapter>].weight
_HALF = re.compile(
    r"\A(?:base_model\.model\.)?(?P<module>.+?)(?:\.base_layer)?\.lora_(?P<half>[AB])(?:\.\w+)?\.weight\Z"
)
# What changes more than W + scale * B @ A, and is therefore refused.
_UNSUPPORTED = ("use_dora", "alpha_pattern", "modules_to_save", "trainable_token_indices")


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """An adapter on disk: W + scale * B @ A at some places.

    Attributes:
        name: Folder or hub name, for errors.
        rank: Rows of A, columns of B.
        scale: alpha / rank; with rank-stabilised adapters alpha / sqrt(rank).
        halves: A and B, by the full name of the weight that they change.
    """

    name: str
    rank: int
    scale: float
    halves: Mapping[str, tuple[Tensor, Tensor]]


def read_low_rank(name: str, folder: Path) -> LowRank:
    """Read an adapter's config and the headers of its weights.

    Args:
        name: For errors.
        folder: With adapter_config.json and adapter_model.safetensors.

    Raises:
        CheckpointError: a file is missing or damaged, a half is missing, or the adapter is of a
            kind that cannot be merged.
    """
    config = read_json(folder / CONFIG)
    rank, alpha = _sizes(name, config)
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"adapter {name} has no {WEIGHTS}; pickles are not read")
    found: dict[str, dict[str, Tensor]] = {}
    foreign: list[str] = []
    for tensor in header(folder / WEIGHTS).values():
        part = _HALF.match(tensor.name)
        if part is None:
            foreign.append(tensor.name)
        else:
            found.setdefault(part["module"] + ".weight", {})[part["half"]] = tensor
    single = [place for place, halves in found.items() if len(halves) == 1]
    misshapen = [
        place
        for place, halves in found.items()
        if len(halves) > 1 and (halves["A"].shape[0], halves["B"].shape[-1]) != (rank, rank)
    ]
    problems = [
        f"{what}: {few(sorted(names))}"
        for what, names in (
            ("tensors that are not halves of linear layers", foreign),
            ("places with one half only", single),
            (f"places whose rank is not {rank}", misshapen),
        )
        if names
    ]
    if problems or not found:
        raise CheckpointError(f"adapter {name}: {'; '.join(problems) or 'it has no tensors'}")
    root = math.sqrt(rank) if config.get("use_rslora") else rank
    return LowRank(
        name=name,
        rank=rank,
        scale=alpha / root,
        halves={place: (halves["A"], halves["B"]) for place, halves in found.items()},
    )


def inlined(
    tensors: Mapping[str, Tensor], adapter: LowRank, adapter_name: str
) -> dict[str, Tensor]:
    """Write a checkpoint's own adapter among its tensors, in the hub's names.

    Args:
        tensors: Of the checkpoint.
        adapter: Read from a folder beside them.
        adapter_name: "vision" or "speech".

    Raises:
        CheckpointError: the adapter changes what the checkpoint does not have.
    """
    whole = dict(tensors)
    for place, (half_a, half_b) in adapter.halves.items():
        stem = place.removesuffix(".weight")
        base = f"{stem}.base_layer.weight"
        if place in whole:
            whole[base] = whole.pop(place)
        elif base not in whole:
            raise CheckpointError(f"adapter {adapter.name}: the checkpoint has no {place}")
        whole[f"{stem}.lora_A.{adapter_name}.weight"] = half_a
        whole[f"{stem}.lora_B.{adapter_name}.weight"] = half_b
    return whole


def renamed(adapter: LowRank, names: Mapping[str, str]) -> LowRank:
    """Move an adapter's places, where `names` has another name for them."""
    halves = {names.get(place, place): pair for place, pair in adapter.halves.items()}
    return replace(adapter, halves=halves)


def _sizes(name: str, config: Mapping[str, Any]) -> tuple[int, float]:
    """Read rank and alpha, and refuse what cannot be merged by them."""
    kind, rank, alpha = config.get("peft_type", "LORA"), config.get("r"), config.get("lora_alpha")
    if kind != "LORA" or not isinstance(rank, int) or rank < 1 or alpha is None:
        raise CheckpointError(
            f"adapter {name}: {CONFIG} has peft_type {kind!r}, r {rank!r},"
            f" lora_alpha {alpha!r}; only LORA with both can be merged"
        )
    given = [key for key in (*_UNSUPPORTED, "rank_pattern") if config.get(key)]
    if config.get("bias", "none") != "none":
        given.append("bias")
    if given:
        raise CheckpointError(f"adapter {name}: {', '.join(given)} of {CONFIG} cannot be merged")
    return rank, float(alpha)
