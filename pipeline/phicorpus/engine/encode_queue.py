"""Where requests wait until their media are encoded."""

from __future__ import annotations

from collections.abc import Callable

from phicorpus.engine.encoder_cache import Features, FeatureTable, IdsUsedUp
from phicorpus.engine.sequence import Job
from phicorpus.models.model import Slot


class Intake:
    """Gives feature rows to requests, in order of arrival: all that one needs, or none yet.

    So a request that holds rows lacks none, runs, and gives them back: no two wait for each other.
    A medium that is there, or on its way, is not encoded again. Held by one thread.

    Args:
        table: The rows.
        encode: Starts to encode a slot; its end comes to `on_encoded`.
        page_size: Tokens per KV page: shorter prefixes are not shared.
    """

    def __init__(
        self, table: FeatureTable, encode: Callable[[Slot, Features], None], *, page_size: int
    ) -> None:
        self.num_encoded = 0
        self.num_reused = 0
        self._table = table
        self._encode = encode
        self._page_size = page_size
        self._arrived: dict[Job, None] = {}
        self._encoding: dict[Job, None] = {}
        self._on_the_way: set[Features] = set()

    def __len__(self) -> int:
        return len(self._arrived) + len(self._encoding)

    @property
    def num_rows_held(self) -> int:
        """Feature rows that a request or the encoder needs."""
        return self._table.num_held

    def add(self, job: Job) -> None:
        """Let a request with media wait here."""
        self._arrived[job] = None

    def remove(self, job: Job) -> bool:
        """Take a request back; False if it does not wait here."""
        if job not in self._arrived and job not in self._encoding:
            return False
        self._arrived.pop(job, None)
        self._encoding.pop(job, None)
        self.release(job)
        return True

    def release(self, job: Job) -> None:
        """Give back the rows that a request holds."""
        for features in job.features:
            self._table.release(features)
        job.features = []

    def place(self, restart: Callable[[], None]) -> list[Job]:
        """Give out rows as far as they go.

        Args:
            restart: Called when the ids are used up and nobody holds a row: it has to forget all
                cached prefixes and restart the table.

        Returns:
            The requests of which every medium is encoded already.
        """
        ready: list[Job] = []
        while self._arrived:
            job = next(iter(self._arrived))
            try:
                held = self._table.hold(job.wanted)
            except IdsUsedUp:
                if self._table.num_held:
                    break
                restart()
                continue
            if held is None:
                break
            del self._arrived[job]
            job.features = held
            job.set_group(self._page_size)
            self._fetch(job)
            if job.missing:
                self._encoding[job] = None
            else:
                ready.append(job)
        return ready

    def on_encoded(self, features: Features, *, failed: bool) -> list[Job]:
        """A medium is encoded, or cannot be.

        Returns:
            The requests that are ready by it; those that it fails, which leave.
        """
        self._on_the_way.discard(features)
        self._table.release(features)
        features.encoded = not failed
        waiting = [job for job in self._encoding if features in job.missing]
        if failed:
            self._table.drop(features)
            for job in waiting:
                self.remove(job)
            return waiting
        for job in waiting:
            job.missing.discard(features)
        ready = [job for job in waiting if not job.missing]
        for job in ready:
            del self._encoding[job]
        return ready

    def _fetch(self, job: Job) -> None:
        for slot, features in zip(job.slots, job.features, strict=True):
            if features.encoded:
                self.num_reused += 1
                continue
            job.missing.add(features)
            if features in self._on_the_way:
                self.num_reused += 1
                continue
            self._on_the_way.add(features)
            self._table.retain(features)
            self._encode(slot, features)
            self.num_encoded += 1
