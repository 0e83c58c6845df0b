"""Who waits for an answer: everybody gets one, once, and is counted once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import InvalidStateError
from dataclasses import replace

from pipeline.engine.engine import Completion, EngineStats, Request
from pipeline.engine.job import Job
from pipeline.engine.reception import Reception
from pipeline.errors import EngineDied, InferError, RequestRefused


class Callers:
    """An engine's side towards its callers, which may be of any thread and event loop.

    Args:
        reception: Makes jobs of requests.
        stats: Where they are counted.
    """

    def __init__(self, reception: Reception, stats: EngineStats) -> None:
        self._reception = reception
        self._lock = threading.Lock()  # of the next three
        self._stats = stats
        self._open: set[Job] = set()  # not answered yet
        self._ended: str | None = None

    async def submit(
        self, request: Request, arrive: Callable[[Job], None], leave: Callable[[Job], None]
    ) -> Completion:
        """Wait for an answer; see `Engine.submit`.

        Args:
            request: What is asked.
            arrive: Takes the job.
            leave: Called if the caller does not wait any longer; the job's future tells it too.
        """
        try:
            job = self._reception.admit(request)
        except RequestRefused:
            with self._lock:
                self._stats.num_requests += 1
                self._stats.num_failed += 1
            raise
        with self._lock:
            if self._ended is not None:
                raise EngineDied(self._ended)
            self._stats.num_requests += 1
            self._open.add(job)
        arrive(job)
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            job.future.cancel()
            leave(job)
            raise

    def complete(self, job: Job) -> None:
        """Answer a job whose answer is over, with that or with why there is none."""
        answer, name = job.answer, job.request.request_id
        if answer is None or (answer.reason is None and answer.failure is None):
            self.fail(job, InferError(f"{name}: the engine ended it early"))
            return
        if answer.failure is not None:
            self.fail(job, InferError(f"{name}: {answer.failure}"))
            return
        completion = answer.completion(prompt_tokens=job.num_tokens, regime=job.regime)
        with self._lock:
            if not self._close(job):
                return
            self._stats.num_completed += 1
            self._stats.prompt_tokens += job.num_tokens
            self._stats.completion_tokens += len(completion.token_ids)
        with contextlib.suppress(InvalidStateError):  # the caller may have left
            job.future.set_result(completion)

    def fail(self, job: Job, error: InferError | EngineDied) -> None:
        """Answer a job with an error."""
        with self._lock:
            if not self._close(job):
                return
            self._stats.num_failed += 1
        with contextlib.suppress(InvalidStateError):  # the caller may have left
            job.future.set_exception(error)

    def end(self, reason: str) -> list[Job]:
        """Answer everybody, and whoever comes, with EngineDied; give the jobs. May be repeated."""
        with self._lock:
            self._ended = self._ended or reason
            jobs = list(self._open)
        for job in jobs:
            self.fail(job, EngineDied(self._ended))
        with self._lock:
            self._stats.num_running = self._stats.num_waiting = 0
        return jobs

    @property
    def has_ended(self) -> bool:
        """Whether nobody is answered any more."""
        return self._ended is not None

    @contextlib.contextmanager
    def counting(self) -> Iterator[EngineStats]:
        """The counters and gauges, for writing."""
        with self._lock:
            yield self._stats

    def stats(self) -> EngineStats:
        """The counters and gauges, for reading."""
        with self._lock:
            return replace(self._stats, extra=dict(self._stats.extra))

    def _close(self, job: Job) -> bool:
        """Take a job from those that are open; False if it has been answered."""
        if job not in self._open:
            return False
        self._open.discard(job)
        return True
