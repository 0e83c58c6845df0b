"""Run a stage with a crash log and a watchdog. No Ray here: a test calls it plainly."""

from __future__ import annotations

import asyncio
import faulthandler
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

import pyarrow as pa

from phicorpus.workers.quarantine import Key, Stage, finished, keys_of, split

_STANDARD_ERROR = 2
"""File descriptor: the traceback of a process that hangs goes to the worker's log."""

_PART_ROWS = 4
"""Of a batch, that begin and end together: one long answer keeps few places empty."""

AskModel = Callable[[pa.Table], AsyncIterator[pa.Table]]


class AnyCrashLog(Protocol):
    """A crash log, in this process or another."""

    def begin(self, keys: Sequence[Key]) -> list[int]:
        """See `CrashLog.begin`."""
        ...

    def begin_alone(self, key: Key) -> None:
        """See `CrashLog.begin_alone`; returns when it is noted."""
        ...

    def done(self, keys: Sequence[Key]) -> None:
        """See `CrashLog.done`; need not wait."""
        ...


class Watchdog:
    """Ends this process when a block under watch takes too long.

    The timer is a thread of its own that needs no Python lock: a loop in C does not stop it.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._waiting = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Watch the time in this block; any other block that ends starts the count anew."""
        self._waiting += 1
        self._start()
        try:
            yield
        finally:
            self._waiting -= 1
            self._start()

    def _start(self) -> None:
        if self._waiting:
            faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=_STANDARD_ERROR)
        else:
            faulthandler.cancel_dump_traceback_later()


def watched(
    batch: pa.Table,
    *,
    name: Stage,
    stage: Callable[[pa.Table], Iterator[pa.Table]],
    crash_log: AnyCrashLog,
    timeout_s: float,
) -> Iterator[pa.Table]:
    """Run a stage of plain tasks on a batch: fetch or decode.

    Reads   What the stage reads.
    Writes  What the stage writes. Quarantined rows pass with their error.
    Rows    As the stage.
    Raises  As the stage.
    """
    watchdog = Watchdog(timeout_s)
    keys = keys_of(name, batch)
    parts = split(name, batch, crash_log.begin(keys))
    if parts.together.num_rows:
        yield from _each(stage(parts.together), watchdog)
        crash_log.done(keys_of(name, parts.together))
    for key, row in parts.alone:
        crash_log.begin_alone(key)
        yield from _each(stage(row), watchdog)
        crash_log.done([key])
    if parts.quarantined is not None:
        yield from [parts.quarantined] if name == "fetch" else stage(parts.quarantined)


def _each(tables: Iterator[pa.Table], watchdog: Watchdog) -> Iterator[pa.Table]:
    """Yield the tables one by one; only the time that they take to come is watched."""
    while True:
        with watchdog.waiting():
            table = next(tables, None)
        if table is None:
            return
        yield table


class WatchedModel:
    """A model's stage in an actor that answers several batches at once.

    Args:
        ask: The stage.
        crash_log: Where rows begin and are done.
        timeout_s: Longest time without any reply.
        max_rows: Rows, of all batches, that are asked at once, or up to three more, so that no
            place stays empty: the others have not begun yet, and are not blamed where the process
            dies.
    """

    def __init__(
        self, ask: AskModel, crash_log: AnyCrashLog, timeout_s: float, max_rows: int
    ) -> None:
        self._ask = ask
        self._crash_log = crash_log
        self._watchdog = Watchdog(timeout_s)
        self._lock = _SharedLock()
        self._places = _Places(max_rows)

    async def answer(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Answer a batch; rows that have to be alone wait until nothing else runs here.

        Reads   SEGMENT.
        Writes  REPLY.
        Rows    1 -> n, one per task of the row.
        Raises  As the model's stage.
        """
        starts = range(0, batch.num_rows, _PART_ROWS)
        parts = [asyncio.ensure_future(self._part(batch.slice(at, _PART_ROWS))) for at in starts]
        try:
            for replies in asyncio.as_completed(parts):
                yield await replies
        finally:
            for part in parts:
                part.cancel()

    async def _part(self, rows: pa.Table) -> pa.Table:
        async with self._places.taken(rows.num_rows):
            return pa.concat_tables([replies async for replies in self._answered(rows)])

    async def _answered(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        keys = keys_of("infer", batch)
        async with self._lock.shared():  # who waits while one is alone has not begun
            parts = split("infer", batch, await asyncio.to_thread(self._crash_log.begin, keys))
            if parts.together.num_rows:
                async for replies in self._asked(parts.together):
                    yield replies
        for key, segment in parts.alone:
            async with self._lock.alone():
                await asyncio.to_thread(self._crash_log.begin_alone, key)
                alone = [replies async for replies in self._asked(segment)]
            yield pa.concat_tables(alone)
        if parts.quarantined is not None:
            async for replies in self._ask(parts.quarantined):
                yield replies

    async def _asked(self, segments: pa.Table) -> AsyncIterator[pa.Table]:
        answers = self._ask(segments)
        while True:
            with self._watchdog.waiting():
                replies = await anext(answers, None)
            if replies is None:
                return
            self._crash_log.done(finished(replies))
            yield replies


class _Places:
    """So many places; whoever wants some waits until one is free, in the order of asking.

    The last one in may take more than are free, so that none stays empty.
    """

    def __init__(self, number: int) -> None:
        self._free = number
        self._changed = asyncio.Condition()
        self._door = asyncio.Lock()  # held by the one who is next

    @asynccontextmanager
    async def taken(self, number: int) -> AsyncIterator[None]:
        async with self._door, self._changed:
            await self._changed.wait_for(lambda: self._free > 0)
            self._free -= number
        try:
            yield
        finally:
            async with self._changed:
                self._free += number
                self._changed.notify_all()


class _SharedLock:
    """Held by many, or by one alone, which comes before those that would share it."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._num_inside = 0
        self._num_waiting_alone = 0

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._num_waiting_alone)
            self._num_inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._num_inside -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        self._num_waiting_alone += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._num_inside)
                self._num_inside += 1
            try:
                yield
            finally:
                self._num_inside -= 1
        finally:
            self._num_waiting_alone -= 1
            async with self._changed:
                self._changed.notify_all()
