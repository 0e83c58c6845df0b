"""Phi-4-multimodal, loaded for one modality."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from transformers import Phi3ForCausalLM

from phicorpus.config import Quantization
from phicorpus.errors import CheckpointError
from phicorpus.models import decoder as decoders
from phicorpus.models.language_model import LanguageModel
from phicorpus.models.loading import Placement, Source
from phicorpus.models.model import Canvas, Clip, Modality, Slot
from phicorpus.models.phi4_multimodal.audio import log_mel
from phicorpus.models.phi4_multimodal.audio_encoder import AudioEncoder
from phicorpus.models.phi4_multimodal.conformer import ConformerConfig
from phicorpus.models.phi4_multimodal.image import ImagePreparation
from phicorpus.models.phi4_multimodal.layout import (
    ADAPTED,
    ADAPTERS,
    AUDIO_PREFIX,
    IMAGE_PREFIX,
    in_hub_layout,
    in_hub_names,
)
from phicorpus.models.phi4_multimodal.prompt import PromptFormat
from phicorpus.models.phi4_multimodal.vision import ImageEncoder, TowerConfig
from phicorpus.models.weights import Adapter, Plan, Target, fill

NORMALISATION = ("global_mean", "global_invstd")

Part = TypeVar("Part", bound=nn.Module)


class Phi4Multimodal(LanguageModel):
    """One modality's model: the decoder with that modality's adapter merged, and its encoders.

    "vision" is for requests with images, with or without audio; "speech" for audio without images;
    "text" for neither.

    Attributes:
        image_encoder: Canvases to feature rows; without weights unless loaded for vision.
        audio_encoder: Clips to feature rows; without weights if loaded for text.
    """

    def __init__(
        self,
        source: Source,
        modality: Modality,
        *,
        modules: Modules,
        prompt: PromptFormat,
        placement: Placement,
    ) -> None:
        super().__init__(source, modality, modules.decoder, prompt)
        self.image_encoder = modules.image
        self.audio_encoder = modules.audio
        self._placement = placement

    @torch.no_grad()
    def encode(self, slots: Sequence[Slot]) -> list[torch.Tensor]:
        """Encode media to feature rows, batched over crops and over clips of similar length.

        Returns:
            One tensor of shape (slot.num_rows, hidden) per slot, on the decoder's device and in its
            dtype.
        """
        rows: dict[int, torch.Tensor] = {}
        images = [(n, slot.media) for n, slot in enumerate(slots) if isinstance(slot.media, Canvas)]
        if images:
            canvases = [canvas for _, canvas in images]
            encoded = self.image_encoder(canvases, self._placement.encode_batch)
            rows.update(zip([n for n, _ in images], encoded, strict=True))
        clips = [
            (n, slot.media, slot) for n, slot in enumerate(slots) if isinstance(slot.media, Clip)
        ]
        clips.sort(key=lambda clip: clip[2].num_rows)
        for start in range(0, len(clips), self._placement.encode_batch):
            batch = clips[start : start + self._placement.encode_batch]
            encoded = self.audio_encoder(
                [self._features(clip) for _, clip, _ in batch],
                [slot.projection == "vision_speech" for _, _, slot in batch],
                [slot.attends_filling for _, _, slot in batch],
            )
            rows.update(zip([n for n, _, _ in batch], encoded, strict=True))
        return [rows[n] for n in range(len(slots))]

    def _features(self, clip: Clip) -> torch.Tensor:
        mel = clip.features
        if mel is None:
            mel = log_mel(np.asarray(clip.samples, np.float32), clip.rate_hz)
        return torch.tensor(mel, device=self._placement.device)


@dataclass(slots=True)
class Modules:
    """The neural parts. An encoder that the modality has no use for stays without weights."""

    decoder: Phi3ForCausalLM
    image: ImageEncoder
    audio: AudioEncoder


def load(source: Source, modality: Modality, placement: Placement) -> Phi4Multimodal:
    """Load a checkpoint in the hub's or transformers' layout, one modality's adapter merged.

    Raises:
        CheckpointError: config, tensors or tokenizer are not those of this architecture.
    """
    source = _in_hub_layout(source)
    preparation = ImagePreparation.from_json(source.config, source.preprocessor)
    prompt = PromptFormat(source.tokenizer, preparation, modality)
    modules = _build(source.config, preparation, placement.attention)
    plan = _plan(modules, source, modality, placement.quantization)
    fill(source.tensors, plan, device=placement.device, dtype=placement.dtype)
    decoders.finish(modules.decoder, placement.device)
    return Phi4Multimodal(source, modality, modules=modules, prompt=prompt, placement=placement)


def _build(config: Mapping[str, Any], preparation: ImagePreparation, attention: str) -> Modules:
    tower, conformer = TowerConfig.from_json(config), ConformerConfig.from_json(config)
    if (tower.image_size, tower.patch_size) != (
        preparation.crop_size_px,
        preparation.patch_size_px,
    ):
        raise CheckpointError(
            f"config.json: crops of {preparation.crop_size_px} px do not fit a vision tower for"
            f" {tower.image_size} px"
        )
    decoder = decoders.build(decoders.decoder_config(config), attention=attention)
    with torch.device("meta"):
        image = ImageEncoder(tower, decoder.config.hidden_size, preparation)
        audio = AudioEncoder(conformer, decoder.config.hidden_size)
    return Modules(decoder, _frozen(image), _frozen(audio))


def _frozen(part: Part) -> Part:
    return part.requires_grad_(requires_grad=False).eval()


def _in_hub_layout(source: Source) -> Source:
    config, tensors = in_hub_layout(source.name, source.folder, source.config, source.tensors)
    adapters = tuple(map(in_hub_names, source.adapters))
    return replace(source, config=config, tensors=tensors, adapters=adapters)


def _plan(modules: Modules, source: Source, modality: Modality, quantization: Quantization) -> Plan:
    num_used = len(modules.image.img_processor.encoder.layers)
    tower = IMAGE_PREFIX + "img_processor."
    return Plan(
        targets=[
            Target(modules.decoder, "", quantization=quantization),
            Target(modules.image, IMAGE_PREFIX, wanted=modality == "vision"),
            Target(modules.audio, AUDIO_PREFIX, wanted=modality != "text"),
        ],
        adapters=tuple(adapter(source.config, name) for name in ADAPTERS),
        adapted=ADAPTED,
        merged=None if modality == "text" else modality,
        unused=(
            # The features are those of the last layer but one.
            re.escape(f"{tower}encoder.layers.{num_used}."),
            re.escape(tower) + r"(post_layernorm|head)\.",
        ),
        tied=decoders.tied(modules.decoder.config),
        float32=frozenset(f"{AUDIO_PREFIX}encoder.encoder_embedding.{n}" for n in NORMALISATION),
        on_top=source.adapters,
    )


def adapter(config: Mapping[str, Any], name: str) -> Adapter:
    """Read an adapter's scale, alpha / r.

    Raises:
        CheckpointError: config.json does not describe it.
    """
    section = config.get(f"{name}_lora")
    if not isinstance(section, dict) or not section.get("r") or "lora_alpha" not in section:
        raise CheckpointError(f"config.json: {name}_lora needs r and lora_alpha, has {section}")
    return Adapter(name, section["r"], section["lora_alpha"] / section["r"])
