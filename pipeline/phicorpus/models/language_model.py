"""The base of every loaded model: a decoder, its tokenizer and its chat format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import Phi3ForCausalLM

from phicorpus.models import decoder as decoders
from phicorpus.models.loading import Source
from phicorpus.models.model import Media, Modality, Regime, Slot, Tokenizer, Turn


class Prompt(Protocol):
    """A chat format."""

    stop_ids: frozenset[int]
    banned_ids: frozenset[int]

    def write(self, turns: Sequence[Turn]) -> list[int | Slot]:
        """Write a conversation, ready for the assistant's answer.

        Raises:
            RequestRefused: there is nothing to answer, or the media are not the model's.
        """
        ...

    def slots(self, media: Sequence[Media]) -> list[Slot]:
        """Make the slots of a request's media.

        Raises:
            RequestRefused: the media are not the model's.
        """
        ...

    def read(self, prompt: str, media: Sequence[Media]) -> list[int | Slot]:
        """Tokenize a prompt in the original processor's notation.

        Raises:
            RequestRefused: its places do not fit the media, or the media are not the model's.
        """
        ...


class LanguageModel:
    """A model without encoders; models with encoders add `encode`.

    Attributes:
        name: Hub name or folder.
        modality: What it is loaded for.
        decoder: Ids to logits.
        tokenizer: Of the decoder's vocabulary.
        stop_ids: Any of them ends an answer.
        banned_ids: Placeholders, never to be generated.
        max_length: Prompt and answer together, tokens.
        regime_length: Up to here the short LongRoPE factors serve; 0: the model has no others.
    """

    def __init__(
        self, source: Source, modality: Modality, decoder: Phi3ForCausalLM, prompt: Prompt
    ) -> None:
        self.name = source.name
        self.modality: Modality = modality
        self.decoder: Phi3ForCausalLM = decoder
        self.tokenizer: Tokenizer = source.tokenizer
        self.stop_ids = prompt.stop_ids | source.stop_ids
        self.banned_ids = prompt.banned_ids
        self.max_length: int = decoder.config.max_position_embeddings
        self.regime_length = decoders.regime_length(decoder.config)
        self._prompt = prompt

    def tokenize(self, turns: Sequence[Turn]) -> list[int | Slot]:
        """Turn a conversation into token ids and slots, the generation prompt at the end.

        Raises:
            RequestRefused: media that this modality does not take, or nothing to answer.
        """
        return self._prompt.write(turns)

    def slots(self, media: Sequence[Media]) -> list[Slot]:
        """Make the slots of a request's media, as `tokenize` does.

        Raises:
            RequestRefused: media that this modality does not take.
        """
        return self._prompt.slots(media)

    def tokenize_prompt(self, prompt: str, media: Sequence[Media]) -> list[int | Slot]:
        """Turn a prompt in the original processor's notation into token ids and slots.

        Args:
            prompt: Such as `<|user|><|image_1|>What is shown?<|end|><|assistant|>`. Its author
                writes special tokens: a document's text must not be part of it.
            media: In the order in which the request lists them.

        Raises:
            RequestRefused: media that this modality does not take, or that have no place.
        """
        return self._prompt.read(prompt, media)

    def set_regime(self, regime: Regime) -> None:
        """Pin the decoder's LongRoPE factors for the forward passes to come."""
        decoders.pin_regime(self.decoder, regime)

    def set_regimes(self, is_long: torch.Tensor) -> None:
        """Choose the LongRoPE factors of each token of the forward passes to come."""
        decoders.choose_regimes(self.decoder, is_long)

    def encode(self, slots: Sequence[Slot]) -> list[torch.Tensor]:
        """Encode nothing: prompts of this model have no slots.

        Raises:
            TypeError: there are slots, which this model's `tokenize` never makes.
        """
        if slots:
            raise TypeError(f"{self.name}, loaded for {self.modality}, encodes no media")
        return []
