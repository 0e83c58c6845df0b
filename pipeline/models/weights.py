"""Fill modules from a checkpoint: each tensor read once, merged in float32, cast once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from pipeline.errors import CheckpointError
from pipeline.models.shards import Tensor, few

# What adapters put between a layer's name and its weight.
BASE = ".base_layer.weight"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A low-rank adapter to merge: W + scale * B @ A.

    Attributes:
        name: As in the tensors' names: `lora_A.<name>.weight`.
        rank: Rows of A, columns of B.
        scale: alpha / rank.
    """

    name: str
    rank: int
    scale: float


@dataclass(slots=True)
class Target:
    """A module and where its tensors are in the checkpoint.

    Attributes:
        module: Built on the meta device; its parameter names are the checkpoint's, less the prefix.
        prefix: What the checkpoint puts before the module's names.
        wanted: False: the tensors must be there but are not read.
    """

    module: nn.Module
    prefix: str
    wanted: bool = True


@dataclass(slots=True)
class Plan:
    """What becomes of each tensor of a checkpoint.

    Attributes:
        targets: Modules to fill.
        adapters: All adapters that the checkpoint must hold, for each of the adapted tensors.
        adapted: Pattern of the places that adapters change.
        merged: The name of the adapter to merge, if any.
        unused: Patterns, matched from the start, of tensors that no answer depends on.
        tied: Parameters (full names) that the checkpoint may leave out, because they are another's.
        float32: Tensors (full names) that stay float32 whatever the dtype.
    """

    targets: list[Target]
    adapters: tuple[Adapter, ...] = ()
    adapted: str = r"(?!)"
    merged: str | None = None
    unused: tuple[str, ...] = ()
    tied: frozenset[str] = frozenset()
    float32: frozenset[str] = field(default_factory=frozenset)


def fill(
    tensors: Mapping[str, Tensor], plan: Plan, *, device: torch.device, dtype: torch.dtype
) -> None:
    """Fill every parameter and buffer of the plan's modules, and account for every tensor.

    Tensors whose full name is in `plan.float32` keep float32; all others get `dtype`.

    Raises:
        CheckpointError: a tensor has no place, a place has no tensor, or shapes differ. Nothing
            has been read then.
    """
    places = {
        target.prefix + name: (target, name, tensor)
        for target in plan.targets
        for name, tensor in target.module.state_dict().items()
    }
    sources = _match(tensors, places, plan)
    adapter = next((adapter for adapter in plan.adapters if adapter.name == plan.merged), None)
    with ExitStack() as stack:
        reader = _Reader(tensors, stack)
        for place, source in sources.items():
            target, name, _ = places[place]
            if not target.wanted:
                continue
            value = _merged(reader, source, adapter, device=device)
            kept = torch.float32 if place in plan.float32 else dtype
            _assign(target.module, name, value.to(device=device, dtype=kept))


def _match(
    tensors: Mapping[str, Tensor],
    places: Mapping[str, tuple[Target, str, torch.Tensor]],
    plan: Plan,
) -> dict[str, str]:
    """Find the source of each place, and check that nothing is left over.

    Returns:
        Place -> name of the tensor, both in full.
    """
    sources: dict[str, str] = {}
    surplus: list[str] = []
    halves = {
        half
        for name in tensors
        if name.endswith(BASE)
        for adapter in plan.adapters
        for half in _halves(name, adapter.name)
    }
    for name in tensors:
        place = name.replace(".base_layer.", ".")
        if name in halves:
            continue
        if place in places and place not in sources:
            sources[place] = name
        elif not any(re.match(pattern, name) for pattern in plan.unused):
            surplus.append(name)
    missing = [place for place in places if place not in sources and place not in plan.tied]
    wrong = [
        f"{sources[place]} {list(tensors[sources[place]].shape)} instead of {list(tensor.shape)}"
        for place, (_, _, tensor) in places.items()
        if place in sources and tensors[sources[place]].shape != tuple(tensor.shape)
    ]
    bare = [
        place
        for place, source in sources.items()
        if re.search(plan.adapted, place) and not source.endswith(BASE)
    ]
    problems = [
        f"{what}: {few(sorted(names))}"
        for what, names in (
            ("tensors without a place", surplus),
            ("places without a tensor", missing),
            ("tensors without their adapters", bare),
            ("adapter parts missing or misshapen", _incomplete(tensors, plan.adapters)),
            ("shapes that differ", wrong),
        )
        if names
    ]
    if problems:
        raise CheckpointError("the checkpoint does not fit the model; " + "; ".join(problems))
    return sources


def _incomplete(tensors: Mapping[str, Tensor], adapters: Iterable[Adapter]) -> list[str]:
    """Name the layers whose adapter lacks a half, or has halves that do not fit.

    A forgotten adapter would fail silently: the model would answer, and worse.
    """
    problems: list[str] = []
    for name, base in tensors.items():
        if not name.endswith(BASE):
            continue
        for adapter in adapters:
            half_a, half_b = (tensors.get(part) for part in _halves(name, adapter.name))
            if half_a is None or half_b is None:
                problems.append(f"{name} ({adapter.name})")
            elif (half_b.shape, half_a.shape) != (
                (base.shape[0], adapter.rank),
                (adapter.rank, base.shape[1]),
            ):
                found = f"A {list(half_a.shape)}, B {list(half_b.shape)}, rank {adapter.rank}"
                problems.append(f"{name} ({adapter.name}: {found})")
    return problems


def _halves(base: str, adapter: str) -> tuple[str, str]:
    stem = base.removesuffix(BASE)
    return f"{stem}.lora_A.{adapter}.weight", f"{stem}.lora_B.{adapter}.weight"


class _Reader:
    """Reads tensors by name, each file opened once."""

    def __init__(self, tensors: Mapping[str, Tensor], stack: ExitStack) -> None:
        self._tensors = tensors
        self._stack = stack
        self._open: dict[Path, safe_open] = {}

    def __call__(self, name: str) -> torch.Tensor:
        file = self._tensors[name].file
        if file not in self._open:
            self._open[file] = self._stack.enter_context(safe_open(str(file), framework="pt"))
        return self._open[file].get_tensor(name)


def _merged(
    reader: _Reader, source: str, adapter: Adapter | None, *, device: torch.device
) -> torch.Tensor:
    """Read a tensor, with its adapter merged in float32 where it has one."""
    value = reader(source).to(device)
    if adapter is None or not source.endswith(BASE):
        return value
    half_a, half_b = (reader(part).to(device).float() for part in _halves(source, adapter.name))
    return value.float().addmm_(half_b, half_a, alpha=adapter.scale)


def _assign(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Put a tensor in a parameter's or buffer's place."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    else:
        owner._buffers[leaf] = value
