"""The actor that a run's workers report to: beside the driver, it outlives them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from phicorpus.engine.engine import EngineStats
from phicorpus.storage.store import Store
from phicorpus.workers.logs import LogBook, LogLine
from phicorpus.workers.metrics import Description, Ledger, Use
from phicorpus.workers.quarantine import CrashLog, Key

log = logging.getLogger(__name__)

_NOTED_WITHIN_S = 5.0


class _Reports(CrashLog):
    """A run's crash log, engine counters and log book, in one process beside the driver."""

    def __init__(self, store: Store, folder: str) -> None:
        super().__init__(store, folder)
        self._ledger = Ledger()
        self._book = LogBook()
        self._num_signs = 0

    def begin(self, keys: Sequence[Key]) -> list[int]:
        self._num_signs += 1
        return super().begin(keys)

    def done(self, keys: Iterable[Key]) -> None:
        self._num_signs += 1
        super().done(keys)

    def note(self, flow: str, replica: str, counts: EngineStats) -> None:
        self._num_signs += 1
        self._ledger.note(flow, replica, counts)

    def sign(self) -> int:
        """Count a worker's sign of life; return how many there were."""
        self._num_signs += 1
        return self._num_signs

    def signs(self) -> int:
        return self._num_signs

    def uses(self) -> dict[str, Use]:
        return self._ledger.uses()

    def describe(self, flow: str, replica: str, description: Description) -> None:
        self._num_signs += 1
        self._ledger.describe(flow, replica, description)

    def descriptions(self) -> dict[str, list[Description]]:
        return self._ledger.descriptions()

    def log(self, line: LogLine) -> None:
        self._book.add(line)

    def lines(self) -> list[LogLine]:
        return self._book.take()


class RemoteCrashLog:
    """A run's crash log, engine counters and log book, in an actor that outlives the workers."""

    def __init__(self, store: Store, folder: str = "attempts") -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Reports)
        self._actor = actor.options(scheduling_strategy=here).remote(store, folder)
        self._asked: ray.ObjectRef[list[LogLine]] | None = None  # for lines, and not answered yet

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_asked": None}  # only the driver asks

    def begin(self, keys: Sequence[Key]) -> list[int]:
        """See `CrashLog.begin`."""
        return ray.get(self._actor.begin.remote(keys))

    def begin_alone(self, key: Key) -> None:
        """See `CrashLog.begin_alone`."""
        ray.get(self._actor.begin_alone.remote(key))

    def done(self, keys: Sequence[Key]) -> None:
        """See `CrashLog.done`; does not wait."""
        self._actor.done.remote(keys)

    def note(self, flow: str, counts: EngineStats) -> None:
        """Note what this process's engine counts; see `Ledger.note`.

        Waits until it is noted, but not for long: no row depends on it.
        """
        replica = ray.get_runtime_context().get_worker_id()
        ray.wait([self._actor.note.remote(flow, replica, counts)], timeout=_NOTED_WITHIN_S)

    def sign(self) -> None:
        """Note that a worker is at work; does not wait."""
        self._actor.sign.remote()

    def signs(self) -> int | None:
        """Return the number of signs of life of the workers; None if it cannot be read just now."""
        try:
            return ray.get(self._actor.signs.remote(), timeout=_NOTED_WITHIN_S)
        except (RayError, ConnectionError):
            return None

    def uses(self) -> Mapping[str, Use]:
        """Return what the engines did, by flow; nothing if the actor is lost."""
        try:
            return ray.get(self._actor.uses.remote(), timeout=_NOTED_WITHIN_S)
        except (RayError, ConnectionError) as error:
            log.warning("what the engines did is not known", extra={"why": str(error)})
            return {}

    def describe(self, flow: str, description: Description) -> None:
        """Note what this process's replica runs on; see `Ledger.describe`."""
        replica = ray.get_runtime_context().get_worker_id()
        self._actor.describe.remote(flow, replica, description)

    def descriptions(self) -> Mapping[str, Sequence[Description]]:
        """Return what the replicas run on, by flow; nothing if the actor is lost."""
        try:
            return ray.get(self._actor.descriptions.remote(), timeout=_NOTED_WITHIN_S)
        except (RayError, ConnectionError):
            return {}

    def log(self, line: LogLine) -> None:
        """Add a line of this process's log; of a warning, waits until it is there.

        This process may end right after it. Nothing is raised: the line is in its own log, too.
        """
        try:
            noted = self._actor.log.remote(line)
            if line.level >= logging.WARNING:
                ray.wait([noted], timeout=_NOTED_WITHIN_S)
        except (RayError, ConnectionError):
            return

    def lines(self) -> Sequence[LogLine]:
        """Return the lines of the workers that came since the last call; none if it cannot ask.

        Lines that come too late for one call are those of the next.
        """
        asked = self._asked
        try:
            asked = self._actor.lines.remote() if asked is None else asked
            lines = ray.get(asked, timeout=_NOTED_WITHIN_S)
        except GetTimeoutError:
            self._asked = asked
            return []
        except (RayError, ConnectionError):
            lines = []
        self._asked = None
        return lines
