"""The queue in front of a decoder that answers many requests at once: encode, wait, run."""

from __future__ import annotations

from collections.abc import Iterator

from phicorpus.engine.encode_queue import EncodeQueue
from phicorpus.engine.encoder_cache import Features
from phicorpus.engine.frontend import Frontend
from phicorpus.engine.scheduler import Scheduler
from phicorpus.engine.sequence import Sequence
from phicorpus.errors import InferError

TURN_FACTOR = 2  # times an engine's `max_requests` may overtake the other regime


class RequestQueue:
    """Moves sequences through encoding, waiting and running. Used by one thread.

    Args:
        frontend: Answers them.
        encode_queue: Holds those whose media are not encoded.
        scheduler: Holds those that wait for the decoder, and those that run.
    """

    def __init__(
        self, frontend: Frontend, encode_queue: EncodeQueue, scheduler: Scheduler[Sequence]
    ) -> None:
        self.scheduler = scheduler
        self._frontend = frontend
        self._encode_queue = encode_queue

    def add(self, sequence: Sequence) -> None:
        """Add a new sequence: to be encoded first if it has media."""
        if sequence.is_over:
            self.drop(sequence)
        elif sequence.slots:
            self._encode_queue.add(sequence)
        else:
            self.scheduler.add(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence: at its next token if it runs, else now."""
        if sequence in self.scheduler.running:
            if sequence.attempt is not None:
                sequence.attempt.cancel()
        elif self._encode_queue.remove(sequence) or self.scheduler.remove(sequence):
            self.drop(sequence)

    def on_encoded(self, features: Features, error: Exception | None) -> None:
        """Move on the sequences whose last medium is encoded; fail them if it could not be."""
        for sequence in self._encode_queue.on_encoded(features, failed=error is not None):
            if error is None:
                self.scheduler.add(sequence)
            else:
                self.fail(sequence, f"cannot encode: {error!r}")

    def schedule(self) -> Iterator[Sequence]:
        """Yield the sequences that may run now."""
        for sequence in self._encode_queue.place():
            self.scheduler.add(sequence)
        yield from self.scheduler.schedule()
        self._update_stats()

    def finish(self, sequence: Sequence) -> None:
        """Answer a running sequence, which is over."""
        self.scheduler.release(sequence)
        self.drop(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Answer a sequence that neither waits nor runs with the tokens it has."""
        self._encode_queue.release(sequence)
        self._update_stats()
        self._frontend.complete(sequence)

    def fail(self, sequence: Sequence, why: str) -> None:
        """Answer a sequence that neither waits nor runs with an error."""
        self._encode_queue.release(sequence)
        self._update_stats()
        self._frontend.fail(sequence, InferError(f"{sequence.request.request_id}: {why}"))

    def _update_stats(self) -> None:
        if self._frontend.has_ended:
            return
        with self._frontend.counting() as stats:
            stats.num_running = len(self.scheduler.running)
            stats.num_waiting = len(self._encode_queue) + self.scheduler.num_waiting
            stats.media_encoded = self._encode_queue.num_encoded
            stats.media_reused = self._encode_queue.num_reused
            stats.extra["kv_pages"] = self.scheduler.num_pages_taken
            stats.extra["feature_rows"] = self._encode_queue.num_rows_held
