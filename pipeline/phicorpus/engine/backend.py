"""A job's model, resolved before any weight is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from phicorpus.config import RunConfig
from phicorpus.engine.loaded import LoadedReplica, LoadReplica
from phicorpus.engine.slots import ReplicaSlots
from phicorpus.models.catalog import CATALOG

if TYPE_CHECKING:
    from phicorpus.engine.memory import MemoryPlan
    from phicorpus.engine.scripted import Script
    from phicorpus.models.model import Modality
    from phicorpus.models.preparation import Preparation, SoundPreparation


def _nothing_to_plan(_modality: Modality) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A model, resolved: small, and sent to every worker.

    Attributes:
        label: For people and for the `model` column: name and revision.
        identity: Everything about the model that can change an answer; part of the fingerprint.
        modalities: What it can be asked.
        preparation: Images to canvases, on CPU workers; None if it takes no images.
        sound: Sound to features, on CPU workers; None: it gets the samples.
        load: Loads a replica.
        plan_memory: Plans a replica's memory on this machine, or raises ConfigError where it does
            not fit; None where replicas run on another machine.
    """

    label: str
    identity: str
    modalities: frozenset[Modality]
    preparation: Preparation | None
    load: LoadReplica
    sound: SoundPreparation | None = None
    plan_memory: Callable[[Modality], MemoryPlan | None] = _nothing_to_plan


def phi_backend(config: RunConfig) -> Backend:
    """Resolve the config's model: hub name to commit, or folder to digest. Loads nothing.

    Raises:
        ConfigError: the engine that the config names cannot run here, or not this model.
        CheckpointError: there is no such model, or it is not one that this project runs.
    """
    # Those who only read an output need none of these, nor the model hub's package.
    from phicorpus.engine.registry import check_config, check_model  # noqa: PLC0415
    from phicorpus.engine.replica import load_replica, plan_here  # noqa: PLC0415
    from phicorpus.models.architectures import ARCHITECTURES  # noqa: PLC0415
    from phicorpus.models.checkpoint import hub_config, resolve  # noqa: PLC0415

    check_config(config)
    quantization = config.model.quantization
    resolved = resolve(
        config.model.name, config.model.revision, config.model.adapters, quantization
    )
    if config.engine.name != "auto":
        check_model(config.engine.name, hub_config(resolved))
    preparation = resolved.preparation
    identity = resolved.digest
    max_crops = config.images.max_crops
    if max_crops is None and (max_crops := _crops_alone(resolved.name)) is not None:
        identity += f":{max_crops}"  # nothing else in the fingerprint would tell
    identity += "" if quantization == "none" else f":{quantization}"
    if preparation is not None and max_crops is not None:
        preparation = preparation.with_max_crops(max_crops)
        resolved = replace(resolved, preparation=preparation)
    names = "+".join([resolved.name, *(adapter.name for adapter in resolved.adapters)])
    version = resolved.digest if resolved.adapters else resolved.revision or resolved.digest
    return Backend(
        label=f"{names}@{version[:12]}" + ("" if quantization == "none" else f":{quantization}"),
        identity=identity,
        modalities=frozenset(resolved.modalities),
        preparation=preparation,
        load=partial(load_replica, resolved=resolved, config=config),
        sound=ARCHITECTURES[resolved.architecture].sound,
        plan_memory=partial(plan_here, resolved=resolved, config=config),
    )


def _crops_alone(name: str) -> int | None:
    """Return the crops that a model's card gives a lone image; a job's requests have one each.

    A folder has no card: its preprocessor_config.json counts.
    """
    return CATALOG[name].max_crops_alone if name in CATALOG else None


def scripted_backend(script: Script, preparation: Preparation) -> Backend:
    """Answer by rule, without a model: for tests and simulations of a flow."""
    return Backend(
        label="scripted",
        identity="scripted",
        modalities=frozenset({"vision", "speech", "text"}),
        preparation=preparation,
        load=partial(_load_scripted, script=script),
    )


def _load_scripted(
    _modality: Modality, _slots: ReplicaSlots | None = None, *, script: Script
) -> LoadedReplica:
    from phicorpus.engine.scripted import load_scripted  # noqa: PLC0415

    return LoadedReplica(load_scripted(script))
