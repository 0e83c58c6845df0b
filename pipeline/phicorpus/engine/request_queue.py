"""Where a request is between its reception and its answer: encoding, waiting, running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from phicorpus.engine.encode_queue import Intake
from phicorpus.engine.encoder_cache import Features
from phicorpus.engine.engine import Completion, Request
from phicorpus.engine.open_requests import Callers
from phicorpus.engine.scheduler import Admission
from phicorpus.engine.sequence import Job
from phicorpus.errors import InferError

TURN_FACTOR = 2  # times an engine's `max_requests` may overtake the other regime


class Lobby:
    """What stands before a decoder that answers many requests at once.

    Held by one thread, the engine's coordinator; only `submit` and `cancel` are for any.

    Args:
        callers: Who is answered.
        intake: Where requests wait for their media.
        admission: Where they wait for the decoder, and who runs.
        post: Has something done on the coordinator's thread, which then takes who may run.
    """

    def __init__(
        self,
        callers: Callers,
        intake: Intake,
        admission: Admission[Job],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self.admission = admission
        self._callers = callers
        self._intake = intake
        self._post = post

    async def submit(self, request: Request) -> Completion:
        """Answer one request; see `Engine.submit`. From any event loop, of any thread."""
        return await self._callers.submit(
            request,
            arrive=lambda job: self._post(partial(self._on_arrival, job)),
            leave=lambda job: self._post(partial(self._on_cancel, job)),
        )

    def cancel(self, request_id: str) -> bool:
        """End requests with what they have; see `Engine.cancel`. From any thread."""
        return self._callers.cancel(
            request_id, end=lambda job: self._post(partial(self._on_cancel, job))
        )

    def on_encoded(self, features: Features, error: Exception | None) -> None:
        """A medium is encoded, or could not be."""
        for job in self._intake.on_encoded(features, failed=error is not None):
            if error is None:
                self.admission.add(job)
            else:
                self.fail(job, f"cannot encode: {error!r}")

    def take(self, restart: Callable[[], None]) -> Iterator[Job]:
        """Admit who may run now.

        Args:
            restart: See `Intake.place`.
        """
        for job in self._intake.place(restart):
            self.admission.add(job)
        yield from self.admission.take()
        self._publish()

    def finish(self, job: Job) -> None:
        """A running request is over: answer it with what its answer has become."""
        self.admission.release(job)
        self._intake.release(job)
        self._publish()
        self._callers.complete(job)

    def drop(self, job: Job) -> None:
        """Answer an unwanted request that is nowhere any more with what it has."""
        self._intake.release(job)
        self._publish()
        self._callers.complete(job)

    def fail(self, job: Job, why: str) -> None:
        """Answer a request that is nowhere any more with an error."""
        self._intake.release(job)
        self._publish()
        self._callers.fail(job, InferError(f"{job.request.request_id}: {why}"))

    def _on_arrival(self, job: Job) -> None:
        if job.is_unwanted:
            self.drop(job)
        elif job.slots:
            self._intake.add(job)
        else:
            self.admission.add(job)

    def _on_cancel(self, job: Job) -> None:
        if job in self.admission.running:
            if job.answer is not None:
                job.answer.cancel()  # ends at its next token
        elif self._intake.remove(job) or self.admission.remove(job):
            self.drop(job)

    def _publish(self) -> None:
        if self._callers.has_ended:
            return
        with self._callers.counting() as stats:
            stats.num_running = len(self.admission.running)
            stats.num_waiting = len(self._intake) + self.admission.num_waiting
            stats.media_encoded = self._intake.num_encoded
            stats.media_reused = self._intake.num_reused
            stats.extra["kv_pages"] = self.admission.pages_taken
            stats.extra["feature_rows"] = self._intake.num_rows_held
