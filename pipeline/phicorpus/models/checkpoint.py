"""Find a checkpoint by its name, and load it.

`resolve` is light: the driver and CPU workers call it, and send the result on. `load` brings torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from phicorpus.errors import CheckpointError
from phicorpus.models import config_json, decoder_shape, peft, shards
from phicorpus.models.architectures import ARCHITECTURES, Architecture, architecture_of
from phicorpus.models.catalog import CATALOG, SHIPPED
from phicorpus.models.hub import download_file, download_files
from phicorpus.models.preparation import Preparation

if TYPE_CHECKING:
    from phicorpus.config import Device, DType, Modality, Quantization
    from phicorpus.models.model import Model

WANTED_FILES = ("*.safetensors", "*.safetensors.index.json", *shards.DESCRIPTIONS)
# In the hub's layout adapters come with the shards; folders beside them are for other programs.
UNWANTED_FILES = ("*/*",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedAdapter:
    """A low-rank adapter of the user's, found and identified; picklable.

    Attributes:
        name: Hub name, or folder.
        path: The folder, if it is a local one; None for the hub.
        digest: The hub's commit, or a hash of the folder's content.
    """

    name: str
    path: Path | None
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A checkpoint, found and identified; picklable.

    Attributes:
        name: Hub name, or folder.
        path: The folder, if it is a local one; None for the hub.
        revision: The hub's commit; None for a folder.
        architecture: Its name in `ARCHITECTURES`.
        modalities: What it can be loaded for.
        preparation: How it wants images; None if it takes none.
        digest: Identifies the weights: the commit, or a hash of the folder's content; with
            adapters, a hash of that and theirs.
        adapters: Merged on top of the checkpoint, in this order.
        quantization: Of the decoder's layers, when they are loaded.
    """

    name: str
    path: Path | None
    revision: str | None
    architecture: str
    modalities: tuple[Modality, ...]
    preparation: Preparation | None
    digest: str
    adapters: tuple[ResolvedAdapter, ...] = ()
    quantization: Quantization = "none"


def resolve(
    name: str,
    revision: str | None = None,
    adapters: Sequence[str] = (),
    quantization: Quantization = "none",
) -> Resolved:
    """Find a checkpoint and read what it is, but not its weights.

    A name that is an existing folder is one; "tiny" is the small model that comes with the package;
    any other is looked up on the Hugging Face hub, or in its cache where the hub cannot be reached
    or HF_HUB_OFFLINE is set.

    Args:
        name: Folder, "tiny", or "owner/name".
        revision: Branch, tag or commit of a hub name; None: the catalogue's, else the newest.
        adapters: Folders or hub names of low-rank adapters in peft's layout, to be merged on top.
        quantization: Of the decoder's layers, when they are loaded.

    Raises:
        CheckpointError: it cannot be found, or is of an architecture that is not supported.
    """
    resolved = replace(_resolve(name, revision), quantization=quantization)
    if not adapters:
        return resolved
    found = tuple(_resolve_adapter(adapter) for adapter in adapters)
    together = ",".join([resolved.digest, *(adapter.digest for adapter in found)])
    digest = hashlib.sha256(together.encode()).hexdigest()[:32]
    return replace(resolved, adapters=found, digest=digest)


def _resolve(name: str, revision: str | None) -> Resolved:
    path = Path(name)
    if not path.is_dir():
        path = SHIPPED.get(name, path)
    if path.is_dir():
        if revision is not None:
            raise CheckpointError(f"{name} is a folder; revision {revision!r} applies to hub names")
        folder = path.resolve()
        return describe(name, folder, digest=shards.digest(folder))
    if revision is None and name in CATALOG:
        revision = CATALOG[name].commit
    # The hub's cache keeps each file in a folder named after its commit.
    folder = download_file(name, "config.json", revision).parent
    if _architecture(name, folder).preparation is not None:
        download_file(name, "preprocessor_config.json", folder.name)
    return describe(name, folder, digest=folder.name, is_local=False)


def _resolve_adapter(name: str) -> ResolvedAdapter:
    path = Path(name)
    if path.is_dir():
        folder = path.resolve()
        peft.read_low_rank(name, folder)  # a broken one is found before any worker starts
        digest = shards.digest_of([folder / peft.CONFIG, folder / peft.WEIGHTS])
        return ResolvedAdapter(name=name, path=folder, digest=digest)
    commit = download_file(name, peft.CONFIG, None).parent.name
    return ResolvedAdapter(name=name, path=None, digest=commit)


def load(
    resolved: Resolved,
    *,
    modality: Modality,
    device: Device = "auto",
    dtype: DType = "auto",
    attention: Literal["auto", "flash", "sdpa"] = "auto",
    encode_batch: int = 16,
) -> Model:
    """Load a checkpoint for one modality, its adapter merged; downloads what is not in the cache.

    Args:
        resolved: What to load.
        modality: What for; one of `resolved.modalities`.
        device: "auto" takes the accelerator, if there is one.
        dtype: "auto": float32 on the CPU, else the device's fast 16-bit type.
        attention: Of the decoder; "auto" is sdpa.
        encode_batch: Upper bound of the crops, or clips, encoded in one pass.

    Raises:
        CheckpointError: the modality is not one of the checkpoint's, or the checkpoint is not
            complete, or not what its config says.
        ConfigError: the device cannot multiply by weights that are quantized like this.
    """
    # Here, so that `resolve` needs no torch.
    from phicorpus.models.loading import Source, place  # noqa: PLC0415

    if modality not in resolved.modalities:
        raise CheckpointError(
            f"{resolved.name} serves {', '.join(resolved.modalities)}, not {modality}"
        )
    placement = place(
        device=device,
        dtype=dtype,
        attention=attention,
        encode_batch=encode_batch,
        quantization=resolved.quantization,
    )
    adapters = tuple(
        peft.read_low_rank(adapter.name, _adapter_folder(adapter)) for adapter in resolved.adapters
    )
    source = Source.from_folder(resolved.name, _checkpoint_folder(resolved), adapters)
    return ARCHITECTURES[resolved.architecture].load(source, modality, placement)


def describe(name: str, folder: Path, *, digest: str, is_local: bool = True) -> Resolved:
    """Read what a checkpoint is from its descriptions alone, whether its weights are there or not.

    Args:
        name: For errors and labels.
        folder: With config.json.
        digest: Identifies the weights.
        is_local: The folder is the user's; not the hub's cache.

    Raises:
        CheckpointError: config.json is missing, damaged, or of an architecture not supported; or it
            describes a decoder that is not Phi's.
    """
    architecture = _architecture(name, folder)
    prepare = architecture.preparation
    config = architecture.hub_config(shards.read_json(folder / "config.json"))
    decoder_shape.sizes(config)
    config_json.check_config(config)
    decoder_shape.rope_parameters(config)
    config_json.check_preprocessor(shards.preprocessor(folder))
    if (folder / "generation_config.json").exists():
        config_json.check_generation(shards.read_json(folder / "generation_config.json"))
    return Resolved(
        name=name,
        path=folder if is_local else None,
        revision=None if is_local else digest,
        architecture=architecture.name,
        modalities=architecture.modalities,
        preparation=prepare(config, shards.preprocessor(folder)) if prepare else None,
        digest=digest,
    )


def descriptions(resolved: Resolved) -> Path:
    """Find the folder of a checkpoint's config.json; of a hub name, in the hub's cache.

    Raises:
        CheckpointError: it cannot be downloaded.
    """
    return resolved.path or download_file(resolved.name, "config.json", resolved.revision).parent


def _architecture(name: str, folder: Path) -> Architecture:
    return architecture_of(name, shards.read_json(folder / "config.json"))


def hub_config(resolved: Resolved) -> dict[str, Any]:
    """Read a checkpoint's config.json, in the hub's keys.

    Raises:
        CheckpointError: it cannot be downloaded, or is damaged.
    """
    config = shards.read_json(descriptions(resolved) / "config.json")
    return ARCHITECTURES[resolved.architecture].hub_config(config)


def _checkpoint_folder(resolved: Resolved) -> Path:
    """Find the checkpoint's files on this disk, downloading those that are not there."""
    if resolved.path is not None:
        return resolved.path
    folder = download_files(resolved.name, resolved.revision, WANTED_FILES, UNWANTED_FILES)
    config = shards.read_json(folder / "config.json")
    if ARCHITECTURES[resolved.architecture].layout(config) == "transformers":
        download_files(resolved.name, resolved.revision, (shards.ADAPTER_FILES,))
    return folder


def _adapter_folder(adapter: ResolvedAdapter) -> Path:
    if adapter.path is not None:
        return adapter.path
    return download_files(adapter.name, adapter.digest, (peft.WEIGHTS, peft.CONFIG))
