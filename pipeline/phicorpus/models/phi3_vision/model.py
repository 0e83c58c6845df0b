"""Phi-3-vision and Phi-3.5-vision, loaded for images or for text alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import Phi3ForCausalLM

from phicorpus.errors import CheckpointError
from phicorpus.models import decoder as decoders
from phicorpus.models.language_model import LanguageModel, Prompt
from phicorpus.models.loading import Placement, Source
from phicorpus.models.model import Canvas, Modality, Slot
from phicorpus.models.phi3.prompt import ChatFormat
from phicorpus.models.phi3_vision.image import ImagePreparation
from phicorpus.models.phi3_vision.layout import IMAGE_PREFIX, in_hub_layout, in_hub_names
from phicorpus.models.phi3_vision.vision import ImageEncoder, TowerConfig
from phicorpus.models.weights import Plan, Target, fill


class Phi3Vision(LanguageModel):
    """The decoder and its image encoder; requests without images are answered as well.

    Attributes:
        image_encoder: Canvases to feature rows.
    """

    def __init__(
        self,
        source: Source,
        decoder: Phi3ForCausalLM,
        prompt: Prompt,
        *,
        image_encoder: ImageEncoder,
        encode_batch: int,
    ) -> None:
        super().__init__(source, "vision", decoder, prompt)
        self.image_encoder = image_encoder
        self._encode_batch = encode_batch

    @torch.no_grad()
    def encode(self, slots: Sequence[Slot]) -> list[torch.Tensor]:
        """Encode images to feature rows, batched over the crops of all of them.

        Returns:
            One tensor of shape (slot.num_rows, hidden) per slot, on the decoder's device and in its
            dtype.
        """
        canvases = [slot.media for slot in slots if isinstance(slot.media, Canvas)]
        return self.image_encoder(canvases, self._encode_batch) if canvases else []


def load(source: Source, modality: Modality, placement: Placement) -> LanguageModel:
    """Load a checkpoint in the hub's layout, or as training programs save it.

    Raises:
        CheckpointError: config, tensors or tokenizer are not those of this architecture.
    """
    preparation = ImagePreparation.from_json(source.config, source.preprocessor)
    prompt = ChatFormat(source.tokenizer, preparation if modality == "vision" else None)
    config = decoders.decoder_config(source.config)
    decoder = decoders.build(config, attention=placement.attention)
    encoder = _build_encoder(source.config, config.hidden_size, preparation)
    num_used = len(encoder.img_processor.vision_model.encoder.layers)
    tower = IMAGE_PREFIX + "img_processor.vision_model."
    plan = Plan(
        targets=[
            Target(decoder, "", quantization=placement.quantization),
            Target(encoder, IMAGE_PREFIX, wanted=modality == "vision"),
        ],
        # The features are those of the last layer but one.
        unused=(
            re.escape(f"{tower}encoder.layers.{num_used}."),
            re.escape(f"{tower}post_layernorm."),
        ),
        tied=decoders.tied(config),
        on_top=tuple(map(in_hub_names, source.adapters)),
    )
    fill(in_hub_layout(source.tensors), plan, device=placement.device, dtype=placement.dtype)
    decoders.finish(decoder, placement.device)
    if modality == "text":
        return LanguageModel(source, modality, decoder, prompt)
    return Phi3Vision(
        source,
        decoder,
        prompt,
        image_encoder=encoder,
        encode_batch=placement.encode_batch,
    )


def _build_encoder(
    config: Mapping[str, Any], decoder_size: int, preparation: ImagePreparation
) -> ImageEncoder:
    """Build the image encoder without weights, on the meta device."""
    tower = TowerConfig.from_json(config)
    layout = (config.get("embd_layer") or {}).get("hd_transform_order", "sub_glb")
    if layout != "sub_glb":
        raise CheckpointError(f"config.json: hd_transform_order {layout!r}; supported: 'sub_glb'")
    with torch.device("meta"):
        encoder = ImageEncoder(tower, decoder_size, preparation)
    return encoder.requires_grad_(requires_grad=False).eval()
