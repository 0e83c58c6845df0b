"""Load a replica: plan its memory, load the model, start an engine on it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping

from phicorpus.config import RunConfig
from phicorpus.engine.accelerator import check_accelerator
from phicorpus.engine.loaded import LoadedReplica
from phicorpus.engine.memory import MemoryPlan, SecondDecoder, least_bytes, plan_memory
from phicorpus.engine.memory_budget import Budget, DeviceKind, cpu_budget, gpu_budget, has_gpu
from phicorpus.engine.registry import ENGINES, load_engine
from phicorpus.engine.slots import ReplicaSlots
from phicorpus.media.kinds import length_setting
from phicorpus.models.architectures import ARCHITECTURES
from phicorpus.models.checkpoint import Resolved, hub_config
from phicorpus.models.memory_use import Footprint, footprint
from phicorpus.models.model import Modality
from phicorpus.tasks import TASKS
from phicorpus.tasks.question import Question, about_text, questions

log = logging.getLogger(__name__)

_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_ITEM_BYTES_BY_DEVICE: Mapping[DeviceKind, int] = {"gpu": 2, "cpu": 4}
_FORMAT_TOKENS = 32  # of the chat format: roles, ends, line breaks
_ALONE = ReplicaSlots()


def load_replica(
    modality: Modality, slots: ReplicaSlots = _ALONE, *, resolved: Resolved, config: RunConfig
) -> LoadedReplica:
    """Load a model in an actor and start its engine; torch is first imported here.

    The memory plan is logged before any weight is read.

    Raises:
        ConfigError: the model and the least sizes do not fit in what the replica may take, or torch
            does not see the GPU that it was given.
        CheckpointError: see `checkpoint.load`.
    """
    from phicorpus.models.checkpoint import load  # noqa: PLC0415  (torch, in actors only)
    from phicorpus.models.loading import place  # noqa: PLC0415  (torch, in actors only)

    check_accelerator(slots.gpus)
    model, engine = config.model, config.engine
    placement = place(
        device=model.device,
        dtype=model.dtype,
        attention=model.attention,
        encode_batch=1,
        quantization=resolved.quantization,
    )
    if placement.device.type == "cuda":
        budget = gpu_budget(engine.memory_share, slots.gpus)
    else:
        budget = cpu_budget(engine.memory_share, slots.num_replicas)
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
    engine_started = load_engine(loaded, plan.config, attention=model.attention)
    return LoadedReplica(engine_started, plan)


def plan_here(modality: Modality, *, resolved: Resolved, config: RunConfig) -> MemoryPlan | None:
    """Plan a replica's memory before anything starts; None where it runs on another machine.

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
    wanted = config.cluster.replicas
    budget = cpu_budget(config.engine.memory_share, 1 if wanted == "auto" else wanted)
    itemsize = _ITEM_BYTES.get(config.model.dtype, 4)
    return _plan(modality, resolved, config, budget, itemsize)


def least_memory(resolved: Resolved) -> Iterator[str]:
    """Describe, one line per modality, the least memory of a replica; more makes it faster."""
    config = hub_config(resolved)
    for modality in resolved.modalities:
        gpu, cpu, small_gpu, small_cpu = (
            least_bytes(
                footprint(
                    resolved.architecture,
                    config,
                    modality,
                    itemsize=itemsize,
                    quantization=quantization,
                ),
                kind,
            )
            / 1e9
            for quantization in ("none", "int8")
            for kind, itemsize in _ITEM_BYTES_BY_DEVICE.items()
        )
        yield (
            f"a replica for {modality} takes at least {gpu:.1f} GB of a GPU, in bfloat16, or"
            f" {cpu:.1f} GB of memory on a CPU, in float32; with model.quantization: int8"
            f" {small_gpu:.1f} or {small_cpu:.1f} GB"
        )


def _plan(
    modality: Modality, resolved: Resolved, config: RunConfig, budget: Budget, itemsize: int
) -> MemoryPlan:
    size = footprint(
        resolved.architecture,
        hub_config(resolved),
        modality,
        itemsize=itemsize,
        quantization=resolved.quantization,
    )
    label = f"a replica of {resolved.name} for {modality}"
    second = _second_decoder(modality, resolved, config, size)
    return plan_memory(size, config.engine, budget, label=label, second=second)


def _second_decoder(
    modality: Modality, resolved: Resolved, config: RunConfig, size: Footprint
) -> SecondDecoder | None:
    """Return why the engine may start a second decoder; None where no request can be so long."""
    entry = ENGINES.get(config.engine.name)
    if entry is None or not entry.capabilities.decoder_per_regime or not size.short_tokens:
        return None
    count_rows = ARCHITECTURES[resolved.architecture].segment_rows.get(modality)
    segment_rows = count_rows(config, resolved.preparation) if count_rows else 0
    longest, task = longest_request(modality, config, segment_rows)
    cache_tokens = config.engine.kv_cache_tokens or size.context_tokens
    if min(longest, cache_tokens, size.context_tokens) <= size.short_tokens:
        return None
    return SecondDecoder(
        why=f"requests of more than {size.short_tokens} tokens get a second decoder, and task"
        f" {task} may have some of {longest}",
        instead=f"keep them shorter, by {length_setting(modality)} or"
        f" tasks.{task}.max_new_tokens, or refuse them, by engine.kv_cache_tokens:"
        f" {size.short_tokens}",
    )


def longest_request(modality: Modality, config: RunConfig, segment_rows: int) -> tuple[int, str]:
    """Bound prompt and answer of what a job asks of one modality.

    A text of n bytes is counted as n tokens: of some languages it has as many.

    Args:
        modality: The tasks' modality.
        config: The job's config.
        segment_rows: Upper bound of the feature rows of an image or window; 0 for texts.

    Returns:
        (tokens, task): the bound, and the task that has it; (0, "") if there is none.
    """
    bounds = {
        name: _bound(question, config, segment_rows)
        for name, question in questions(config.tasks, TASKS).items()
        if question.task.modality == modality and question.prompt is not None
    }
    longest = max(bounds, key=lambda name: bounds[name], default="")
    return bounds.get(longest, 0), longest


def _bound(question: Question, config: RunConfig, segment_rows: int) -> int:
    prompt = question.prompt or ""
    if question.task.modality == "text":
        asked = config.texts.max_passage_bytes + len(about_text("", prompt).encode())
    else:
        asked = segment_rows + len(prompt.encode())
    return asked + _FORMAT_TOKENS + question.max_new_tokens
