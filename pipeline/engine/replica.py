"""Start a replica: plan its memory, then load the model, then start an engine on it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.config import RunConfig
from pipeline.engine.budget import Budget, DeviceKind, cpu_budget, gpu_budget, has_gpu
from pipeline.engine.memory import MemoryPlan, least_bytes, plan_memory
from pipeline.models import shards
from pipeline.models.checkpoint import Resolved, descriptions
from pipeline.models.footprint import footprint
from pipeline.models.phi4_multimodal import native

if TYPE_CHECKING:
    from pipeline.engine.engine import Engine
    from pipeline.models.model import Modality

log = logging.getLogger(__name__)

_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_ITEM_BYTES_BY_DEVICE: Mapping[DeviceKind, int] = {"gpu": 2, "cpu": 4}


def load_replica(modality: Modality, *, resolved: Resolved, config: RunConfig) -> Engine:
    """Load a model in an actor and start its engine; torch is first imported here.

    The plan of its memory is logged before any weight is read.

    Raises:
        ConfigError: the model and the least sizes do not fit in what the replica may take.
        CheckpointError: see `checkpoint.load`.
    """
    from pipeline.engine.load import load_engine  # noqa: PLC0415  (torch, in actors only)
    from pipeline.models.checkpoint import load  # noqa: PLC0415  (torch, in actors only)
    from pipeline.models.loading import place  # noqa: PLC0415  (torch, in actors only)

    model, engine, cluster = config.model, config.engine, config.cluster
    placement = place(
        device=model.device, dtype=model.dtype, attention=model.attention, encode_batch=1
    )
    if placement.device.type == "cuda":
        budget = gpu_budget(engine.memory_share, cluster.gpus_per_replica)
    else:
        budget = cpu_budget(engine.memory_share, cluster.replicas)
    plan = _plan(modality, resolved, config, budget, placement.dtype.itemsize)
    log.info(
        "replica's memory", extra={"modality": modality, "model": resolved.name, **plan.fields}
    )
    loaded = load(
        resolved,
        modality=modality,
        device=model.device,
        dtype=model.dtype,
        attention=model.attention,
        encode_batch=plan.config.encode_batch,
    )
    return load_engine(loaded, plan.config)


def plan_here(modality: Modality, *, resolved: Resolved, config: RunConfig) -> MemoryPlan | None:
    """Plan a replica's memory before anything starts; None where its machine is another one.

    On a GPU the plan is made when a replica starts there; so it is on the nodes of a cluster.

    Raises:
        ConfigError: see `load_replica`.
    """
    is_local = config.cluster.address is None and not os.environ.get("RAY_ADDRESS")
    on_cpu = config.model.device == "cpu" or (
        config.model.device == "auto" and sys.platform == "linux" and not has_gpu()
    )
    if not (is_local and on_cpu):
        return None
    budget = cpu_budget(config.engine.memory_share, config.cluster.replicas)
    itemsize = _ITEM_BYTES.get(config.model.dtype, 4)
    return _plan(modality, resolved, config, budget, itemsize)


def needs(resolved: Resolved) -> Iterator[str]:
    """Tell, line by line, the least memory that a replica takes; more makes it faster."""
    shape = _shape(resolved)
    for modality in resolved.modalities:
        sizes = {
            kind: least_bytes(
                footprint(resolved.architecture, shape, modality, itemsize=itemsize), kind
            )
            for kind, itemsize in _ITEM_BYTES_BY_DEVICE.items()
        }
        yield (
            f"a replica for {modality} takes at least {sizes['gpu'] / 1e9:.1f} GB of a GPU, in"
            f" bfloat16, or {sizes['cpu'] / 1e9:.1f} GB of memory on a CPU, in float32"
        )


def _shape(resolved: Resolved) -> Mapping[str, Any]:
    return native.hub_config(shards.read_json(descriptions(resolved) / "config.json"))


def _plan(
    modality: Modality, resolved: Resolved, config: RunConfig, budget: Budget, itemsize: int
) -> MemoryPlan:
    size = footprint(resolved.architecture, _shape(resolved), modality, itemsize=itemsize)
    label = f"a replica of {resolved.name} for {modality}"
    return plan_memory(size, config.engine, budget, label=label)
