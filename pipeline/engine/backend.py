"""What a job needs to know of the model that answers it, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pipeline.config import EngineConfig, ModelConfig, RunConfig
from pipeline.engine.scripted import Script, load_scripted
from pipeline.engine.vllm import requirement
from pipeline.models.catalog import CATALOG
from pipeline.models.checkpoint import Resolved, resolve
from pipeline.models.preparation import Preparation

if TYPE_CHECKING:
    from pipeline.engine.engine import Engine
    from pipeline.models.model import Modality


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A model, resolved: small, and sent to every worker.

    Attributes:
        label: For people and for the `model` column: name and revision.
        identity: Everything about the model that can change an answer; part of the fingerprint.
        modalities: What it can be asked.
        preparation: Images to canvases, on CPU workers; None if it takes no images.
        load: Loads weights and starts an engine; called once per actor.
    """

    label: str
    identity: str
    modalities: frozenset[Modality]
    preparation: Preparation | None
    load: Callable[[Modality], Engine]


def phi_backend(config: RunConfig) -> Backend:
    """Resolve the config's model: hub name to commit, or folder to digest. Loads nothing.

    Raises:
        ConfigError: the engine that the config names cannot run.
        CheckpointError: there is no such model, or it is not one that this project runs.
    """
    if config.engine.name == "vllm":
        requirement.check(config)
    resolved = resolve(config.model.name, config.model.revision, config.model.adapters)
    preparation = resolved.preparation
    identity = resolved.digest
    max_crops = config.images.max_crops
    if max_crops is None and (max_crops := _crops_alone(resolved.name)) is not None:
        identity += f":{max_crops}"  # nothing else in the fingerprint would tell
    if preparation is not None and max_crops is not None:
        preparation = preparation.with_max_crops(max_crops)
    names = "+".join([resolved.name, *(adapter.name for adapter in resolved.adapters)])
    version = resolved.digest if resolved.adapters else resolved.revision or resolved.digest
    return Backend(
        label=f"{names}@{version[:12]}",
        identity=identity,
        modalities=frozenset(resolved.modalities),
        preparation=preparation,
        load=partial(_load, resolved=resolved, model=config.model, engine=config.engine),
    )


def _crops_alone(name: str) -> int | None:
    """Give the card's crops of a lone image; a job's requests have one image each.

    Of a folder nobody knows which card is its own: there preprocessor_config.json is what counts.
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


def _load_scripted(_modality: Modality, *, script: Script) -> Engine:
    return load_scripted(script)


def _load(
    modality: Modality, *, resolved: Resolved, model: ModelConfig, engine: EngineConfig
) -> Engine:
    """Load in the actor; torch is first imported here."""
    from pipeline.engine.load import load_engine  # noqa: PLC0415  (torch, in actors only)
    from pipeline.models.checkpoint import load  # noqa: PLC0415  (torch, in actors only)

    loaded = load(
        resolved,
        modality=modality,
        device=model.device,
        dtype=model.dtype,
        attention=model.attention,
        encode_batch=engine.encode_batch,
    )
    return load_engine(loaded, engine)
