"""Who waits for an answer: everybody gets one, once, and is counted once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import InvalidStateError
from dataclasses import replace

from phicorpus.engine.engine import Completion, EngineStats, Request
from phicorpus.engine.frontend import Reception
from phicorpus.engine.sequence import Job
from phicorpus.errors import EngineDied, InferError, RequestRefused


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

    def cancel(self, request_id: str, end: Callable[[Job], None]) -> bool:
        """Have all requests of an id ended; see `Engine.cancel`.

        Args:
            request_id: Of any number of requests.
            end: Called for each that is open; may come before its `arrive`. The job tells it too.
        """
        with self._lock:
            jobs = [job for job in self._open if job.request.request_id == request_id]
            for job in jobs:
                job.is_cancelled = True
        for job in jobs:
            end(job)
        return bool(jobs)

    def complete(self, job: Job) -> None:
        """Answer a job that is over or cancelled, with what it has or with why there is nothing."""
        failure = _failure(job)
        if failure is not None:
            self.fail(job, InferError(f"{job.request.request_id}: {failure}"))
            return
        completion = _completion(job)
        with self._lock:
            if not self._close(job):
                return
            if job.is_cancelled:  # though it may just have ended by itself: `cancel` said so
                completion = replace(completion, finish_reason="cancelled")
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


def _failure(job: Job) -> str | None:
    """Say why a job gets no completion, if it gets none."""
    answer = job.answer
    if answer is not None and answer.failure is not None:
        return answer.failure
    if job.is_cancelled or (answer is not None and answer.reason not in (None, "cancelled")):
        return None
    return "cancelled" if job.future.done() else "the engine ended it early"


def _completion(job: Job) -> Completion:
    if job.answer is not None:
        return job.answer.completion(prompt_tokens=job.num_tokens, regime=job.regime)
    return Completion(
        text="",
        token_ids=(),
        prompt_tokens=job.num_tokens,
        finish_reason="cancelled",
        mean_logprob=None,
        regime=job.regime,
    )
