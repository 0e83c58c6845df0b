"""Encoded media: a cache of feature rows, and token ids that name them.

The decoder's embedding is wrapped so that an id at or above the vocabulary's size names a row of
the cache. An id is never used for two contents: the KV cache knows a prefix by its ids.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from transformers import Phi3ForCausalLM

LAST_ID = 2**31  # ids are int32 in the library


class _IdsUsedUp(Exception):
    """No id is left."""


def word_embedding(decoder: Phi3ForCausalLM) -> nn.Embedding:
    """Return the decoder's own embedding."""
    return cast("nn.Embedding", decoder.get_input_embeddings())


class VirtualEmbedding(nn.Module):
    """An embedding whose ids beyond the vocabulary name feature rows.

    Args:
        words: The decoder's own embedding.
        num_rows: Feature rows.
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
    """The run of rows of one medium.

    Attributes:
        key: Names the medium.
        start: Absolute row: only grows, over the cache's whole life.
        num_rows: Length of the run.
        holders: Number of sequences that need it, and 1 for the encoder while it writes.
        encoded: True when the rows are written.
    """

    key: Hashable
    start: int
    num_rows: int
    holders: int = 0
    encoded: bool = False


def _run_now(action: Callable[[], None]) -> None:
    action()


class EncoderCache:
    """Gives out runs of rows, and ids for them. Used by one thread.

    A place moves forward through the rows, past the runs that are held, so an id, which counts the
    rows passed, never comes twice. Runs that are not held stay until their rows are needed; the
    least recently used go first.

    Args:
        num_rows: Size of the cache.
        first_id: The id of absolute row 0.
        last_id: Ids stay below it. When they are used up they begin anew.
        between_steps: Runs an action, here `restart`, while the decoder runs no step, and makes it
            forget all cached prefixes, which are known by their ids.

    Example:
        >>> cache = EncoderCache(num_rows=10, first_id=100)
        >>> (one,) = cache.hold([("a", 6)]) or []
        >>> cache.ids(one), cache.hold([("b", 6)])
        (range(100, 106), None)
        >>> cache.release(one)
        >>> (two,) = cache.hold([("b", 6)]) or []
        >>> cache.ids(two)
        range(110, 116)
    """

    def __init__(
        self,
        *,
        num_rows: int,
        first_id: int,
        last_id: int = LAST_ID,
        between_steps: Callable[[Callable[[], None]], None] = _run_now,
    ) -> None:
        self.num_rows = num_rows
        self._first_id = first_id
        self._last_id = last_id
        self._between_steps = between_steps
        self._runs: OrderedDict[Hashable, Features] = OrderedDict()
        self._next = 0
        self.num_held = 0  # rows of runs that are held

    def ids(self, features: Features) -> range:
        """Return the token ids of a run."""
        start = self._first_id + features.start
        return range(start, start + features.num_rows)

    def hold(self, wanted: Sequence[tuple[Hashable, int]]) -> list[Features] | None:
        """Hold the runs of all wanted (key, rows), making those that are new; all or none.

        Returns:
            One run per wanted key, each held once more; None if there is no room now.
        """
        try:
            held = self._try_hold(wanted)
            if held is None and not self.num_held:  # what is left unheld cuts the room in pieces
                self._runs.clear()
                held = self._try_hold(wanted)
        except _IdsUsedUp:
            if self.num_held:
                return None
            self._between_steps(self.restart)
            return self.hold(wanted)
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
        """Begin the ids anew; no run may be held."""
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
                    raise _IdsUsedUp
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
        """Return the next absolute row with `num_rows` free from it, dropping unheld runs."""
        while (start := self._gap(num_rows)) is None:
            unheld = next((run for run in self._runs.values() if not run.holders), None)
            if unheld is None:
                return None
            self.drop(unheld)
        return start

    def _gap(self, num_rows: int) -> int | None:
        turn, row = divmod(self._next, self.num_rows)
        if not self._runs and row:  # an empty cache: the whole of it, in one piece
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
