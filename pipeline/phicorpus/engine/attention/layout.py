"""The layout of a step, which sequences' new tokens attend to which pages, and its attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

Numbers = npt.NDArray[np.int64]
New = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # query, key, value of a step's tokens
Cache = tuple[torch.Tensor, torch.Tensor]  # keys and values of one layer


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLayout:
    """The sequences of a step and their KV pages.

    Attributes:
        new: New tokens of each sequence, at least 1.
        past: Tokens of each that are in the pages already.
        pages: Pages of each, in order, shape (sequences, most pages); -1 is none.
        page_size: Tokens per page.
    """

    new: Numbers
    past: Numbers
    pages: Numbers
    page_size: int

    @property
    def known(self) -> Numbers:
        """Tokens of each sequence, the new ones included."""
        return self.past + self.new

    def positions(self) -> Numbers:
        """Return each new token's position in its sequence, sequence after sequence."""
        before = self.new.cumsum() - self.new
        return np.arange(self.new.sum()) + np.repeat(self.past - before, self.new)

    def written(self) -> Numbers:
        """Return the place of each new token's key, counted in tokens from the first page."""
        sequence, position = np.repeat(np.arange(self.new.size), self.new), self.positions()
        page = self.pages[sequence, position // self.page_size]
        return page * self.page_size + position % self.page_size

    def read(self) -> Numbers:
        """Return the places of all tokens' keys, sequence after sequence, counted likewise."""
        offsets = np.arange(self.page_size)
        parts = [
            (row[: -(-length // self.page_size), None] * self.page_size + offsets).ravel()[:length]
            for row, length in zip(self.pages, self.known.tolist(), strict=True)
        ]
        return np.concatenate(parts)

    def rows(self, own: slice) -> StepLayout:
        """Return the layout of some of the sequences."""
        return replace(self, new=self.new[own], past=self.past[own], pages=self.pages[own])


def write(new: New, cache: Cache, slots: torch.Tensor) -> None:
    """Write new keys and values to their pages.

    Args:
        new: query; key and value, shape (key heads, tokens, head size).
        cache: Keys and values, shape (pages, page size, key heads, head size).
        slots: Place of each token's key, counted in tokens from the first page, shape (tokens,).
    """
    for pages, fresh in zip(cache, new[1:], strict=True):
        pages.view(-1, *pages.shape[2:]).index_copy_(0, slots, fresh.transpose(0, 1))


class Step(Protocol):
    """One step's attention, for all layers."""

    @property
    def slots(self) -> torch.Tensor:
        """Return the place of each new token's key, counted in tokens from the first page."""
        ...

    def attend(self, new: New, cache: Cache, scaling: float) -> torch.Tensor:
        """Write the new keys and values to their pages, and attend causally in each sequence.

        Args:
            new: query (heads, tokens, head size), key and value (key heads, tokens, head size).
            cache: Keys and values, shape (pages, page size, key heads, head size).
            scaling: Of the scores.

        Returns:
            shape (tokens, heads, head size).
        """
        ...

    def attend_written(self, new: New, cache: Cache, scaling: float) -> torch.Tensor:
        """Attend as `attend` does, where the new keys and values are in their pages already."""
        ...
