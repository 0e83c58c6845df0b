"""Attention over keys and values in pages, by torch alone: few calls instead of one per sequence.

The way of a CPU, and of any device without a kernel that reads pages. Sequences that decode are
attended together, grouped by length, so that little is padding; each prompt, or part of one, by
itself. What depends on a step's layout alone is computed once, not once per layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

_MAX_PADDING = 1.25  # keys read by those needed, in a group

Numbers = npt.NDArray[np.int64]
New = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # query, key, value of a step's tokens
Cache = tuple[torch.Tensor, torch.Tensor]  # keys and values of one layer
_CPU = torch.device("cpu")


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


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences with one new token each.

    Attributes:
        tokens: Their new tokens, shape (sequences,).
        pages: Their pages, shape (sequences * pages,), any page where there is none.
        mask: 0 at their keys, else -inf, shape (sequences, 1, 1, keys).
        padding: The padding among the keys that are read, as rows of all of them.
    """

    tokens: torch.Tensor
    pages: torch.Tensor
    mask: torch.Tensor
    padding: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Span:
    """A sequence with several new tokens, from `first` to before `last`.

    Attributes:
        first: Its first new token.
        last: Behind its last.
        pages: Its pages; None: it has nothing but its new tokens.
        known: All of its tokens.
        mask: Added to the scores, shape (new, known); None: plainly causal.
    """

    first: int
    last: int
    pages: torch.Tensor | None
    known: int
    mask: torch.Tensor | None


class PagedStep:
    """One step's attention, for all layers, by torch alone.

    Args:
        layout: Of the step.
        dtype: Of keys and queries.
        device: Of keys and queries.
        window: Keys that a token attends to, its own included; None: all before it.

    Attributes:
        slots: Place of each new token's key, counted in tokens from the first page.
    """

    def __init__(
        self,
        layout: StepLayout,
        dtype: torch.dtype,
        device: torch.device = _CPU,
        window: int | None = None,
    ) -> None:
        kind = _Kind(dtype, device, window)
        self.slots = torch.from_numpy(layout.written()).to(device)
        ends = layout.new.cumsum()
        self._groups = list(_groups(layout, ends, kind))
        self._spans = [
            _span(layout, row, int(ends[row]), kind)
            for row in np.flatnonzero(layout.new > 1).tolist()
        ]

    def attend(self, new: New, cache: Cache, scaling: float) -> torch.Tensor:
        """Write and attend, as `Step.attend`."""
        write(new, cache, self.slots)
        return self.attend_written(new, cache, scaling)

    def attend_written(self, new: New, cache: Cache, scaling: float) -> torch.Tensor:
        """Attend, as `Step.attend_written`."""
        query, key, value = new
        output = query.new_empty(query.shape[1], query.shape[0], query.shape[2])
        for group in self._groups:
            output[group.tokens] = _attend_group(query, group, cache, scaling)
        for span in self._spans:
            own = slice(span.first, span.last)
            keys, values = key[:, own], value[:, own]
            if span.pages is not None:
                keys, values = (
                    pages.index_select(0, span.pages).flatten(0, 1)[: span.known].transpose(0, 1)
                    for pages in cache
                )
            attended = functional.scaled_dot_product_attention(
                query[None, :, own], keys[None], values[None], attn_mask=span.mask,
                is_causal=span.mask is None, scale=scaling,
                enable_gqa=query.shape[0] != key.shape[0],
            )  # fmt: skip
            output[own] = attended[0].transpose(0, 1)
        return output


@dataclass(frozen=True, slots=True)
class _Kind:
    """What masks are made for; `window` as of `PagedStep`."""

    dtype: torch.dtype
    device: torch.device
    window: int | None


def _attend_group(
    query: torch.Tensor,
    group: _Group,
    cache: Cache,
    scaling: float,
) -> torch.Tensor:
    heads, _, size = query.shape
    count, key_heads = group.tokens.shape[0], cache[0].shape[2]
    # The heads that share keys become rows: keys and values are not repeated.
    queries = query[:, group.tokens].transpose(0, 1)
    queries = queries.reshape(count, key_heads, heads // key_heads, size)
    keys, values = (_read(pages, group).transpose(1, 2) for pages in cache)
    attended = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=group.mask, scale=scaling
    )
    return attended.reshape(count, heads, size)


def _read(pages: torch.Tensor, group: _Group) -> torch.Tensor:
    """Copy a group's keys, shape (sequences, keys, key heads, head size).

    The padding becomes zero: a page may hold what another request left, even nan, which no weight
    of zero takes away.
    """
    keys = pages.index_select(0, group.pages).flatten(0, 1)
    if group.padding.numel():
        keys.index_fill_(0, group.padding, 0)
    return keys.unflatten(0, (group.tokens.shape[0], -1))


def _groups(layout: StepLayout, ends: Numbers, kind: _Kind) -> Iterator[_Group]:
    """Group the sequences with one new token, the longest first."""
    single = np.flatnonzero(layout.new == 1)
    order = single[np.argsort(-layout.known[single], kind="stable")].tolist()
    known = layout.known.tolist()
    group: list[int] = []
    needed = 0
    for row in order:
        needed += known[row]
        if group and known[group[0]] * (len(group) + 1) > _MAX_PADDING * needed:
            yield _group(layout, group, ends, kind)
            group, needed = [], known[row]
        group.append(row)
    if group:
        yield _group(layout, group, ends, kind)


def _group(layout: StepLayout, rows: Sequence[int], ends: Numbers, kind: _Kind) -> _Group:
    known = layout.known[rows]
    shortest, num_pages = int(known.min()), -(-int(known.max()) // layout.page_size)
    num_keys = num_pages * layout.page_size
    is_padding = np.arange(shortest, num_keys) >= known[:, None]
    mask = torch.zeros(len(rows), 1, 1, num_keys, dtype=kind.dtype)
    mask[:, 0, 0, shortest:].masked_fill_(torch.from_numpy(is_padding), -torch.inf)
    if kind.window is not None:
        is_over = np.arange(num_keys) < known[:, None] - kind.window
        mask[:, 0, 0].masked_fill_(torch.from_numpy(is_over), -torch.inf)
    row, key = is_padding.nonzero()
    return _Group(
        tokens=torch.from_numpy(ends[rows] - 1).to(kind.device),
        pages=torch.from_numpy(layout.pages[rows, :num_pages].clip(min=0).ravel()).to(kind.device),
        mask=mask.to(kind.device),
        padding=torch.from_numpy(row * num_keys + shortest + key).to(kind.device),
    )


def _span(layout: StepLayout, row: int, end: int, kind: _Kind) -> _Span:
    new, known = int(layout.new[row]), int(layout.known[row])
    past = known - new
    pages = None
    if past:
        pages = torch.from_numpy(layout.pages[row, : -(-known // layout.page_size)].copy())
        pages = pages.to(kind.device)
    is_cut = kind.window is not None and known > kind.window
    if not past and not is_cut:
        return _Span(end - new, end, None, known, None)
    hidden = torch.full((new, known), -torch.inf, dtype=kind.dtype, device=kind.device)
    mask = hidden.triu(past + 1)
    if kind.window is not None:
        mask += hidden.tril(past - kind.window)
    return _Span(end - new, end, pages, known, mask)
