"""Sequences that wait until their media are encoded."""

from __future__ import annotations

from collections.abc import Callable

from phicorpus.engine.encoder_cache import EncoderCache, Features
from phicorpus.engine.sequence import Sequence
from phicorpus.models.model import Slot


class EncodeQueue:
    """Gives out feature rows in order of arrival: all that a sequence needs, or none yet.

    So a sequence that holds rows lacks none, runs, and gives them back: no two wait for each other.
    A medium that is in the cache, or being encoded, is not encoded again. Used by one thread.

    Args:
        cache: The rows.
        encode: Starts to encode a slot; `on_encoded` is to be called at its end.
        page_size: Tokens per KV page: shorter prefixes are not shared.
    """

    def __init__(
        self, cache: EncoderCache, encode: Callable[[Slot, Features], None], *, page_size: int
    ) -> None:
        self.num_encoded = 0
        self.num_reused = 0
        self._cache = cache
        self._encode = encode
        self._page_size = page_size
        self._arrived: dict[Sequence, None] = {}
        self._encoding: dict[Sequence, None] = {}
        self._in_flight: set[Features] = set()

    def __len__(self) -> int:
        return len(self._arrived) + len(self._encoding)

    @property
    def num_rows_held(self) -> int:
        """Feature rows that a sequence or the encoder needs."""
        return self._cache.num_held

    def add(self, sequence: Sequence) -> None:
        """Add a sequence that has media."""
        self._arrived[sequence] = None

    def remove(self, sequence: Sequence) -> bool:
        """Remove a sequence; False if it does not wait here."""
        if sequence not in self._arrived and sequence not in self._encoding:
            return False
        self._arrived.pop(sequence, None)
        self._encoding.pop(sequence, None)
        self.release(sequence)
        return True

    def release(self, sequence: Sequence) -> None:
        """Release the rows that a sequence holds."""
        for features in sequence.features:
            self._cache.release(features)
        sequence.features = []

    def place(self) -> list[Sequence]:
        """Hold rows for the first sequences, as far as they go, and start to encode.

        Returns:
            The sequences of which every medium is encoded already.
        """
        ready: list[Sequence] = []
        while self._arrived:
            sequence = next(iter(self._arrived))
            held = self._cache.hold(sequence.media_sizes)
            if held is None:
                break
            del self._arrived[sequence]
            sequence.features = held
            sequence.set_group(self._page_size)
            self._encode_missing(sequence)
            if sequence.missing:
                self._encoding[sequence] = None
            else:
                ready.append(sequence)
        return ready

    def on_encoded(self, features: Features, *, failed: bool) -> list[Sequence]:
        """Note that a medium is encoded, or cannot be.

        Returns:
            The sequences that are ready by it; if it failed, those that have it, which leave.
        """
        self._in_flight.discard(features)
        self._cache.release(features)
        features.encoded = not failed
        waiting = [sequence for sequence in self._encoding if features in sequence.missing]
        if failed:
            self._cache.drop(features)
            for sequence in waiting:
                self.remove(sequence)
            return waiting
        for sequence in waiting:
            sequence.missing.discard(features)
        ready = [sequence for sequence in waiting if not sequence.missing]
        for sequence in ready:
            del self._encoding[sequence]
        return ready

    def _encode_missing(self, sequence: Sequence) -> None:
        for slot, features in zip(sequence.slots, sequence.features, strict=True):
            if features.encoded:
                self.num_reused += 1
                continue
            sequence.missing.add(features)
            if features in self._in_flight:
                self.num_reused += 1
                continue
            self._in_flight.add(features)
            self._cache.retain(features)
            self._encode(slot, features)
            self.num_encoded += 1
