"""The interface to a model: its media, prompts, encoders and decoder.

One idea serves every Phi model: encoders turn media into feature rows, one decoder reads token ids.
This module is light: no torch on import, so that CPU workers can prepare media without it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from phicorpus.config import Modality

if TYPE_CHECKING:
    import torch
    from transformers import Phi3ForCausalLM

Role = Literal["system", "user", "assistant"]
Projection = Literal["image", "speech", "vision_speech"]
Regime = Literal["short", "long"]
"""Which LongRoPE factors a request is answered with."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Canvas:
    """An image as the model's encoder needs it: resized and padded, still uint8.

    Crops and normalisation are views and arithmetic made on the device.

    Attributes:
        pixels: shape (height, width, 3), uint8 RGB; both sides are multiples of the crop size.
        valid_width_px: Columns, from the left, that hold image rather than padding.
        valid_height_px: Rows, from the top, that hold image rather than padding.
        key: Content hash. Equal keys are encoded once and share their KV cache.
    """

    pixels: npt.NDArray[np.uint8]
    valid_width_px: int
    valid_height_px: int
    key: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Clip:
    """A window of sound: mono.

    Attributes:
        samples: shape (n,), float32 in [-1, 1].
        key: Content hash. Equal keys are encoded once and share their KV cache.
        rate_hz: Of the samples: 16,000, or 8,000 where the recording has no more.
    """

    samples: npt.NDArray[np.float32]
    key: str
    rate_hz: int = 16_000


Media = Canvas | Clip


@dataclass(frozen=True, slots=True)
class Tools:
    """The functions that a model may call, in a system turn.

    Attributes:
        definitions: A JSON list: name, description and parameters of each, as the card of
            Phi-4-mini-instruct describes them.
    """

    definitions: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation: its role, and its text, media and tools in order."""

    role: Role
    content: tuple[str | Canvas | Clip | Tools, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A place in the token sequence that the rows of one medium fill.

    Attributes:
        media: What to encode.
        projection: Which projection its rows go through. By request, never by batch: audio beside
            an image takes "vision_speech".
        num_rows: Exactly how many rows `Model.encode` gives for it.
        attends_filling: Whether a clip's rows attend to what fills up its last block of rows. By
            request, never by batch: the original code does so where a request has one clip only.
    """

    media: Canvas | Clip
    projection: Projection
    num_rows: int
    attends_filling: bool = False

    @property
    def key(self) -> Hashable:
        """The key of its rows: slots of equal keys are encoded once."""
        return self.media.key, self.projection, self.num_rows, self.attends_filling


class Tokenizer(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of `token_ids`."""
        ...


class Model(Protocol):
    """One loaded model, for one modality, adapters merged."""

    name: str
    modality: Modality
    decoder: Phi3ForCausalLM
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    banned_ids: frozenset[int]  # placeholders: never generated
    max_length: int  # prompt + answer, tokens
    regime_length: int  # up to here the short LongRoPE factors serve; 0: no LongRoPE

    def tokenize(self, turns: Sequence[Turn]) -> list[int | Slot]:
        """Turn a conversation into token ids and slots, the generation prompt at the end.

        Raises:
            RequestRefused: media that this model and modality do not take.
        """
        ...

    def encode(self, slots: Sequence[Slot]) -> list[torch.Tensor]:
        """Encode media to feature rows, batched over the flat list of crops and clips.

        Returns:
            One tensor of shape (slot.num_rows, hidden) per slot, on the decoder's device and in its
            dtype; independent of what else is in the list.
        """
        ...

    def set_regime(self, regime: Regime) -> None:
        """Pin the decoder's LongRoPE factors for the forward passes to come."""
        ...

    def set_regimes(self, is_long: torch.Tensor) -> None:
        """Choose the LongRoPE factors of each token of the forward passes to come.

        Args:
            is_long: shape (tokens,), bool: True where the long factors are taken.
        """
        ...
