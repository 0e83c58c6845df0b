"""Share out a step's tokens: by KV pages, encoded media and shared prefixes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np

from phicorpus.engine.encoder_cache import EncoderCache, Medium
from phicorpus.engine.kv_cache import PageHash, PagePool
from phicorpus.engine.sequence import Sequence

Outcome = Literal["started", "later", "no pages", "no rows"]


class Scheduler:
    """Moves sequences from waiting to running, in order, and shares out a step's tokens.

    - Running sequences come first, each with its next token; then prompts, in parts where a step
      has no room for the whole. All pages that a sequence may need are held when it starts.
    - A sequence whose next page is being computed by another waits for it, and shares it.
    - A sequence waits until its media are encoded; those behind it may go first. One that finds too
      few pages lets nobody go first, or it would never run; one that finds too few rows for its
      media, nobody who needs rows that it does not hold yet.
    - A suspect, which ran when a step failed, runs alone, before all others.

    Used by one thread.

    Args:
        pool: The KV pages.
        encoder: The encoded media.
        page_size: Tokens per page.
        max_requests: Sequences at once.
        batch_tokens: Tokens per step.
        begin: Called with each sequence when it starts.

    Attributes:
        running: Those that hold pages.
        batch_tokens: May be changed between steps.
        num_prefilled: Tokens of prompts that were computed.
        num_media: Media of the sequences that were started.
    """

    def __init__(
        self,
        pool: PagePool,
        encoder: EncoderCache,
        *,
        page_size: int,
        max_requests: int,
        batch_tokens: int,
        begin: Callable[[Sequence], object],
    ) -> None:
        self.running: list[Sequence] = []
        self.batch_tokens = batch_tokens
        self.num_prefilled = 0
        self.num_media = 0
        self._pool = pool
        self._encoder = encoder
        self._page_size = page_size
        self._max_requests = max_requests
        self._begin = begin
        self._waiting: dict[Sequence, None] = {}
        self._suspects: dict[Sequence, None] = {}
        self._alone: Sequence | None = None
        self._in_flight: set[PageHash] = set()  # of the pages that running sequences compute

    @property
    def num_waiting(self) -> int:
        """Sequences that wait."""
        return len(self._waiting) + len(self._suspects)

    def add(self, sequence: Sequence, *, suspect: bool = False) -> None:
        """Add a sequence behind the others."""
        (self._suspects if suspect else self._waiting)[sequence] = None

    def add_first(self, sequences: Iterable[Sequence]) -> None:
        """Add sequences in front of all others that are no suspects."""
        self._waiting = dict.fromkeys([*sequences, *self._waiting])

    def schedule(self) -> list[Sequence]:
        """Choose the sequences of the next step, those with one new token first.

        Each has its `num_new`. Media that the first of the waiting need are queued to be encoded.
        """
        budget = self.batch_tokens
        for sequence in sorted(self.running, key=lambda one: not one.is_decoding):
            left = sequence.num_tokens - sequence.num_computed
            sequence.num_new = min(budget, max(1, left))
            budget -= sequence.num_new
        most = min(self._max_requests, self.batch_tokens)
        has_rows = True
        for sequence in self._candidates():
            if budget <= 0 or len(self.running) >= most:
                break
            outcome = self._start(sequence, may_hold=has_rows)
            if outcome == "no pages":
                break
            has_rows = has_rows and outcome != "no rows"
            if outcome == "started":
                sequence.num_new = min(budget, sequence.num_tokens - sequence.num_computed)
                budget -= sequence.num_new
        return sorted((one for one in self.running if one.num_new), key=lambda one: one.num_new > 1)

    def advance(self, batch: Iterable[Sequence]) -> None:
        """Note that a step has computed the new tokens of its sequences."""
        size = self._page_size
        for sequence in batch:
            before, sequence.num_computed = (
                sequence.num_computed,
                sequence.num_computed + sequence.num_new,
            )
            if before >= sequence.num_tokens:
                continue
            self.num_prefilled += sequence.num_new
            hashes = sequence.page_hashes
            for index in range(before // size, min(sequence.num_computed // size, len(hashes))):
                self._pool.name(int(sequence.pages[index]), hashes[index])
                self._in_flight.discard(hashes[index])
            if sequence.is_decoding:
                self._release_media(sequence)

    def forget(self, sequence: Sequence) -> None:
        """Let nobody find the pages that a running sequence has computed, and others may share."""
        self._pool.forget(sequence.pages.tolist())

    def release(self, sequence: Sequence) -> None:
        """Free what a running sequence holds; it runs no more."""
        first = sequence.num_computed // self._page_size
        self._in_flight.difference_update(sequence.page_hashes[first:])
        self._pool.release(sequence.pages.tolist())
        sequence.pages = sequence.pages[:0]
        sequence.num_computed = 0
        self._release_media(sequence)
        if self._alone is sequence:
            self._alone = None
        self.running.remove(sequence)

    def stop_all(self) -> list[Sequence]:
        """Free all that is held, also by those that wait; return the sequences that ran."""
        stopped = list(self.running)
        for sequence in stopped:
            self.release(sequence)
        for sequence in [*self._waiting, *self._suspects]:
            self._release_media(sequence)
        return stopped

    def remove_over(self) -> list[Sequence]:
        """Remove the waiting sequences of which no token is wanted, and return them."""
        over = [one for one in [*self._waiting, *self._suspects] if one.is_over]
        for sequence in over:
            self._remove(sequence)
        return over

    def remove_failed(self, failed: Iterable[Medium]) -> list[tuple[Sequence, Medium]]:
        """Remove the waiting sequences that hold one of these media, and return them with it."""
        wanted = set(failed)
        found = [
            (sequence, next(iter(wanted.intersection(sequence.media))))
            for sequence in [*self._waiting, *self._suspects]
            if not wanted.isdisjoint(sequence.media)
        ]
        for sequence, _ in found:
            self._remove(sequence)
        return found

    def _candidates(self) -> list[Sequence]:
        if self._alone is not None or (self._suspects and self.running):
            return []
        return list(self._suspects)[:1] or list(self._waiting)

    def _start(self, sequence: Sequence, *, may_hold: bool) -> Outcome:
        """Let a waiting sequence run if its media are encoded and there are pages for it.

        Args:
            sequence: It waits.
            may_hold: It may hold media that it does not hold yet.
        """
        hashes = sequence.page_hashes
        cached = self._pool.cached(hashes)
        if len(cached) < len(hashes) and hashes[len(cached)] in self._in_flight:
            return "later"
        computed = len(cached) * self._page_size
        slots = [span.slot for span in sequence.prompt.spans if span.stop > computed]
        if not {slot.key for slot in slots} <= {medium.slot.key for medium in sequence.media}:
            # All anew, where pages with the rows of some went to others while it waited.
            self._release_media(sequence)
            if self._encoder.is_batch_full or not may_hold:
                return "later"
            held = self._encoder.hold(slots)
            if held is None:
                return "no rows"
            sequence.media = held
        if any(medium.rows is None for medium in sequence.media):
            return "later"
        num_pages = math.ceil(sequence.longest / self._page_size)
        pages = self._pool.take(cached, num_pages - len(cached))
        if pages is None:
            return "no pages"
        sequence.pages = np.array(pages, np.int64)
        sequence.num_computed = computed
        self._in_flight.update(hashes[len(cached) :])
        if self._suspects:
            self._alone = sequence
        self._waiting.pop(sequence, None)
        self._suspects.pop(sequence, None)
        self.running.append(sequence)
        self.num_media += len(sequence.prompt.spans)
        self._begin(sequence)
        return "started"

    def _release_media(self, sequence: Sequence) -> None:
        self._encoder.release(sequence.media)
        sequence.media = ()

    def _remove(self, sequence: Sequence) -> None:
        self._waiting.pop(sequence, None)
        self._suspects.pop(sequence, None)
        self._release_media(sequence)
