"""Phi-3-mini, Phi-4-mini and their like: a decoder alone."""

from __future__ import annotations

from phicorpus.models import decoder as decoders
from phicorpus.models.language_model import LanguageModel
from phicorpus.models.loading import Placement, Source
from phicorpus.models.model import Modality
from phicorpus.models.phi3.prompt import ChatFormat
from phicorpus.models.weights import Plan, Target, fill


def load(source: Source, modality: Modality, placement: Placement) -> LanguageModel:
    """Load a text model.

    Raises:
        CheckpointError: config, tensors or tokenizer are not those of this architecture.
    """
    prompt = ChatFormat(source.tokenizer)
    config = decoders.decoder_config(source.config)
    decoder = decoders.build(config, attention=placement.attention)
    plan = Plan(
        targets=[Target(decoder, "", quantization=placement.quantization)],
        tied=decoders.tied(config),
        on_top=source.adapters,
    )
    fill(source.tensors, plan, device=placement.device, dtype=placement.dtype)
    decoders.finish(decoder, placement.device)
    return LanguageModel(source, modality, decoder, prompt)
