"""Fill modules from a checkpoint: each tensor read once, merged in float32, cast once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from phicorpus.config import Quantization
from phicorpus.errors import CheckpointError
from phicorpus.models.decoder_shape import QUANTIZED
from phicorpus.models.peft import LowRank
from phicorpus.models.quantization import put_quantized
from phicorpus.models.shards import Tensor, few

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
        quantization: Of the decoder's linear layers.
    """

    module: nn.Module
    prefix: str
    wanted: bool = True
    quantization: Quantization = "none"


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
        on_top: Further adapters, merged after the checkpoint's own.
    """

    targets: list[Target]
    adapters: tuple[Adapter, ...] = ()
    adapted: str = r"(?!)"
    merged: str | None = None
    unused: tuple[str, ...] = ()
    tied: frozenset[str] = frozenset()
    float32: frozenset[str] = field(default_factory=frozenset)
    on_top: tuple[LowRank, ...] = ()


def fill(
    tensors: Mapping[str, Tensor], plan: Plan, *, device: torch.device, dtype: torch.dtype
) -> None:
    """Fill every parameter and buffer of the plan's modules, and account for every tensor.

    Tensors whose full name is in `plan.float32` keep float32; all others get `dtype`, or 8 bits.

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
    _check_on_top(places, plan)
    adapter = next((adapter for adapter in plan.adapters if adapter.name == plan.merged), None)
    # One file after the other: the pages of a file count as this process's memory while it is open.
    in_order = sorted(sources.items(), key=lambda item: str(tensors[item[1]].file))
    with _Reader() as reader:
        for place, source in in_order:
            target, name, _ = places[place]
            if not target.wanted:
                continue
            value = reader(tensors[source]).to(device)
            for changed in _changes(tensors, place, source, (adapter, plan.on_top)):
                value = _merged(reader, value, changed)
            if target.quantization != "none" and QUANTIZED.fullmatch(name):
                put_quantized(target.module, name, value, (target.quantization, dtype))
                continue
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


Change = tuple[Tensor, Tensor, float]  # A, B, scale


def _check_on_top(places: Mapping[str, tuple[Target, str, torch.Tensor]], plan: Plan) -> None:
    """Check that further adapters change what the model has; a lost part would fail silently."""
    for adapter in plan.on_top:
        lost = [place for place in adapter.halves if place not in places or place in plan.tied]
        wrong = [
            place
            for place, (half_a, half_b) in adapter.halves.items()
            if place in places
            and tuple(places[place][2].shape) != (half_b.shape[0], half_a.shape[1])
        ]
        if lost or wrong:
            raise CheckpointError(
                f"adapter {adapter.name} is not one of this model; places that it lacks:"
                f" {few(sorted(lost))}; places of another shape: {few(sorted(wrong))}"
            )


def _changes(
    tensors: Mapping[str, Tensor],
    place: str,
    source: str,
    adapters: tuple[Adapter | None, tuple[LowRank, ...]],
) -> Iterator[Change]:
    """Find what is merged into a place: the checkpoint's own adapter, then the further ones."""
    own, on_top = adapters
    if own is not None and source.endswith(BASE):
        half_a, half_b = _halves(source, own.name)
        yield tensors[half_a], tensors[half_b], own.scale
    for adapter in on_top:
        if place in adapter.halves:
            yield (*adapter.halves[place], adapter.scale)


class _Reader:
    """Reads tensors, one file open at a time."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._file: Path | None = None
        self._open: safe_open | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, tensor: Tensor) -> torch.Tensor:
        opened = self._open
        if opened is None or tensor.file != self._file:
            self._stack.close()
            opened = self._stack.enter_context(_open(tensor.file))
            self._file, self._open = tensor.file, opened
        try:
            return opened.get_tensor(tensor.name)
        except SafetensorError as error:
            raise CheckpointError(f"{tensor.file}: {tensor.name}: {error}") from error


def _open(file: Path) -> safe_open:
    try:
        return safe_open(str(file), framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from error


def _merged(reader: _Reader, value: torch.Tensor, change: Change) -> torch.Tensor:
    """Add a low-rank change in float32."""
    half_a, half_b = (reader(half).to(value.device).float() for half in change[:2])
    return value.float().addmm(half_b, half_a, alpha=change[2])


def _assign(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Put a tensor in a parameter's or buffer's place."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    else:
        owner._buffers[leaf] = value
