"""Encoded media kept for the prompts that need them, on the CPU: from here they go to vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from phicorpus.engine.encoder_cache import Features
from phicorpus.engine.sequence import Job
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
    """A table of feature rows.

    Written by the encoder's thread, read by the engine's when it was told so.

    Args:
        num_rows: Size of the table.
        like: Tells the rows' size and type.
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
        """One medium's rows, shape (n, hidden)."""
        place = features.start % len(self._rows)
        return self._rows[place : place + features.num_rows]

    def prompt(self, job: Job) -> Prompt:
        """Write a request's prompt as vLLM takes it."""
        if not job.slots:
            return Prompt(token_ids=_words(job.prompt))
        embedded = torch.zeros(job.num_tokens, self._rows.shape[1], dtype=self._rows.dtype)
        held = iter(job.features)
        token_ids: list[int] = []
        is_word: list[bool] = []
        for part in job.prompt:
            if isinstance(part, Slot):
                embedded[len(token_ids) : len(token_ids) + part.num_rows] = self.read(next(held))
                token_ids.extend([0] * part.num_rows)
                is_word.extend([False] * part.num_rows)
            else:
                token_ids.append(part)
                is_word.append(True)
        return Prompt(token_ids=token_ids, features=embedded, is_word=is_word)


def _words(prompt: Sequence[int | Slot]) -> list[int]:
    return [part for part in prompt if not isinstance(part, Slot)]
