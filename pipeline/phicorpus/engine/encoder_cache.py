"""Encoded media as token ids: a table of feature rows, and ids that name them.

The decoder's embedding is wrapped so that an id at or above the vocabulary's size names a row of
the table. An id is never used for two contents: the KV cache knows a prefix by its ids.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers import Phi3ForCausalLM

LAST_ID = 2**31  # ids are int32 in the library


class IdsUsedUp(Exception):
    """No id is left: drain, forget all cached prefixes, and `FeatureTable.restart`."""


def word_embedding(decoder: Phi3ForCausalLM) -> nn.Embedding:
    """The decoder's own embedding."""
    return cast("nn.Embedding", decoder.get_input_embeddings())


class VirtualEmbedding(nn.Module):
    """An embedding whose ids beyond the vocabulary name rows of a table.

    Args:
        words: The decoder's own embedding.
        num_rows: Size of the table.
    """

    rows: torch.Tensor

    def __init__(self, words: nn.Embedding, num_rows: int) -> None:
        super().__init__()
        self.words = words
        self.num_tokens = 0  # embedded so far
        empty = torch.zeros(
            num_rows, words.embedding_dim, dtype=words.weight.dtype, device=words.weight.device
        )
        self.register_buffer("rows", empty, persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """The vocabulary's embeddings, as a head that is tied to them expects."""
        return self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed ids of any shape; the result has shape (*ids.shape, hidden)."""
        self.num_tokens += ids.numel()
        first = self.words.num_embeddings
        virtual = ids >= first
        embedded = self.words(ids.masked_fill(virtual, 0))
        rows = self.rows[(ids - first).clamp(min=0).long() % self.rows.shape[0]]
        return torch.where(virtual[..., None], rows, embedded)

    @torch.no_grad()
    def write(self, start: int, features: torch.Tensor) -> None:
        """Store rows of shape (n, hidden) from absolute row `start`; visible when it returns."""
        row = start % self.rows.shape[0]
        self.rows[row : row + features.shape[0]].copy_(features)
        if self.rows.is_cuda:
            torch.cuda.current_stream(self.rows.device).synchronize()


@dataclass(eq=False, slots=True)
class Features:
    """The place of one medium's rows.

    Attributes:
        key: What they are of.
        start: Absolute row: only grows, over the table's whole life.
        num_rows: How many.
        holders: Who needs them: requests, and the encoder while it writes.
        encoded: Whether the rows are there.
    """

    key: Hashable
    start: int
    num_rows: int
    holders: int = 0
    encoded: bool = False


class FeatureTable:
    """Gives out runs of rows, and ids for them. Held by one thread.

    A place moves forward through the rows, past the runs that are held, so an id, which counts the
    rows passed, never comes twice. Runs that nobody holds stay until their rows are needed, the
    least recently used going first.

    Args:
        num_rows: Size of the table.
        first_id: The id of absolute row 0.
        last_id: Ids stay below it.

    Example:
        >>> table = FeatureTable(num_rows=10, first_id=100)
        >>> (one,) = table.hold([("a", 6)]) or []
        >>> table.ids(one), table.hold([("b", 6)])
        (range(100, 106), None)
        >>> table.release(one)
        >>> (two,) = table.hold([("b", 6)]) or []
        >>> table.ids(two)
        range(110, 116)
    """

    def __init__(self, *, num_rows: int, first_id: int, last_id: int = LAST_ID) -> None:
        self.num_rows = num_rows
        self._first_id = first_id
        self._last_id = last_id
        self._runs: OrderedDict[Hashable, Features] = OrderedDict()
        self._next = 0
        self.num_held = 0  # rows that somebody holds

    def ids(self, features: Features) -> range:
        """The token ids of a run."""
        start = self._first_id + features.start
        return range(start, start + features.num_rows)

    def hold(self, wanted: Sequence[tuple[Hashable, int]]) -> list[Features] | None:
        """Hold the runs of all wanted (key, rows), making those that are new; all or none.

        Returns:
            One run per wanted key, each held once more; None if the table has no room now.

        Raises:
            IdsUsedUp: no ids are left for the new rows.
        """
        held = self._try_hold(wanted)
        if held is None and not self.num_held:  # what is left unheld cuts the room in pieces
            self._runs.clear()
            held = self._try_hold(wanted)
        return held

    def retain(self, run: Features) -> None:
        """Hold a run once more."""
        self.num_held += 0 if run.holders else run.num_rows
        run.holders += 1

    def release(self, run: Features) -> None:
        """Hold a run once less."""
        run.holders -= 1
        self.num_held -= 0 if run.holders else run.num_rows

    def drop(self, run: Features) -> None:
        """Forget a run that could not be encoded: its key is new again, its rows are free."""
        if self._runs.get(run.key) is run:
            del self._runs[run.key]

    def restart(self) -> None:
        """Begin the ids anew; nobody may hold a run."""
        if self.num_held:
            raise RuntimeError(f"{self.num_held} rows are still held")
        self._runs.clear()
        self._next = 0

    def _try_hold(self, wanted: Sequence[tuple[Hashable, int]]) -> list[Features] | None:
        held: list[Features] = []
        for key, num_rows in wanted:
            run = self._runs.get(key)
            if run is None:
                start = self._room(num_rows)
                if start is None:
                    self._undo(held)
                    return None
                if self._first_id + start + num_rows > self._last_id:
                    self._undo(held)
                    raise IdsUsedUp
                self._next = start + num_rows
                run = self._runs[key] = Features(key=key, start=start, num_rows=num_rows)
            self.retain(run)
            self._runs.move_to_end(key)
            held.append(run)
        return held

    def _undo(self, held: Sequence[Features]) -> None:
        for run in held:
            self.release(run)
            if not run.holders and not run.encoded:
                self.drop(run)

    def _room(self, num_rows: int) -> int | None:
        """The next absolute row from which `num_rows` are free, dropping unheld runs for it."""
        while (start := self._gap(num_rows)) is None:
            unheld = next((run for run in self._runs.values() if not run.holders), None)
            if unheld is None:
                return None
            self.drop(unheld)
        return start

    def _gap(self, num_rows: int) -> int | None:
        turn, row = divmod(self._next, self.num_rows)
        if not self._runs and row:  # an empty table: the whole of it, in one piece
            turn, row = turn + 1, 0
        taken = sorted(
            (run.start % self.num_rows, run.start % self.num_rows + run.num_rows)
            for run in self._runs.values()
        )
        taken.append((self.num_rows, self.num_rows))
        for lap_turn, free in ((turn, row), (turn + 1, 0)):
            for begin, end in taken:
                if begin - free >= num_rows:
                    return lap_turn * self.num_rows + free
                free = max(free, end)  # noqa: PLW2901 the scan's own place
        return None
