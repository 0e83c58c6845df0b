"""Encoded media on the CPU, from where they go to vLLM as parts of prompts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from phicorpus.engine.encoder_cache import Features
from phicorpus.engine.sequence import Sequence
from phicorpus.models.model import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt as vLLM takes it.

    Attributes:
        token_ids: One per token; where a feature row stands, any.
        features: shape (tokens, hidden); rows of words are not read. None: there are words only.
        is_word: Where there are features: whether a token is one of the vocabulary.
    """

    token_ids: list[int]
    features: torch.Tensor | None = None
    is_word: list[bool] | None = None


class FeatureRows:
    """The feature rows of an encoder cache.

    Written by the encoder's thread; read by the engine's when they are written.

    Args:
        num_rows: Size of the cache.
        like: A tensor of the rows' size and type.
    """

    def __init__(self, num_rows: int, like: torch.Tensor) -> None:
        self._rows = torch.zeros(num_rows, like.shape[-1], dtype=like.dtype)

    @torch.no_grad()
    def write(self, start: int, rows: torch.Tensor) -> None:
        """Store rows of shape (n, hidden) from absolute row `start`.

        Raises:
            ValueError: one is not finite; in vLLM's cache it could reach others.
        """
        if not bool(rows.isfinite().all()):
            raise ValueError("the encoder computed nan")
        place = start % len(self._rows)
        self._rows[place : place + len(rows)].copy_(rows)

    def read(self, features: Features) -> torch.Tensor:
        """Return one medium's rows, shape (n, hidden)."""
        place = features.start % len(self._rows)
        return self._rows[place : place + features.num_rows]

    def prompt(self, sequence: Sequence) -> Prompt:
        """Build a sequence's prompt as vLLM takes it."""
        if not sequence.slots:
            return Prompt(
                token_ids=[part for part in sequence.prompt if not isinstance(part, Slot)]
            )
        embedded = torch.zeros(sequence.num_tokens, self._rows.shape[1], dtype=self._rows.dtype)
        held = iter(sequence.features)
        token_ids: list[int] = []
        is_word: list[bool] = []
        for part in sequence.prompt:
            if isinstance(part, Slot):
                embedded[len(token_ids) : len(token_ids) + part.num_rows] = self.read(next(held))
                token_ids.extend([0] * part.num_rows)
                is_word.extend([False] * part.num_rows)
            else:
                token_ids.append(part)
                is_word.append(True)
        return Prompt(token_ids=token_ids, features=embedded, is_word=is_word)
