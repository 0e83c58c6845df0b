"""Claims, by which drivers that share an output leave each other's units alone; no more than that.

Whoever publishes a unit first has published it, claimed or not; a claim only saves the work of
doing it twice. Claims are a log in the output, `claims/<hour>/<number>.json`, each entry created if
absent: so all drivers read the same entries in the same order. A driver that claims says until when
it is to be believed, and renews that while it lives; a dead one's claims expire. In each new hour a
driver states all of its claims again, so that whoever joins reads two hours of the log and no more.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, takewhile
from typing import Any, Protocol

from phicorpus.errors import StoreError
from phicorpus.manifest.units import Unit, in_waves
from phicorpus.models.model import Modality
from phicorpus.storage.store import Store

log = logging.getLogger(__name__)

_RENEWALS = 3
"""Within the time that a claim is believed: two may fail."""
_LONGEST_RENEWAL_S = 1200.0
"""So that no driver leaves out an hour."""
_LONGEST_WAIT_S = 15.0
_THREADS = 16

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Claim:
    holder: str
    number: int


class Claims:
    """One driver's view of the log, and its own entries."""

    def __init__(
        self, store: Store, holder: str, expiry_s: float, clock: Clock = time.time
    ) -> None:
        """Read what is claimed.

        Args:
            store: The output.
            holder: Names this driver.
            expiry_s: How long an entry is believed; clocks of drivers may differ by less.
            clock: Seconds since 1970.

        Raises:
            StoreError: the log cannot be read.
        """
        self._store = store
        self._holder = holder
        self._expiry_s = expiry_s
        self._clock = clock
        self._lock = threading.Lock()
        self._next: dict[str, int] = {}
        self._num_read = 0
        self._mark = 0
        self._expires: dict[str, float] = {}
        self._claims: dict[str, _Claim] = {}
        self._stated = _hour(clock())
        self.mark()

    def mark(self) -> None:
        """Note that the output is going to be listed: what is claimed until now is known by it."""
        with self._lock:
            self._read()
            self._mark = self._num_read

    def take(self, units: Sequence[Unit]) -> list[Unit]:
        """Claim units, but for those that others hold.

        A unit that was claimed since the output was last listed is left alone even if its holder
        is gone: it may be finished.

        Raises:
            StoreError: the log cannot be read or written.
        """
        with self._lock:
            while True:
                self._read()
                free = [unit for unit in units if self._is_free(unit.unit_id)]
                if not free or self._write([unit.unit_id for unit in free]):
                    return free

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew this driver's claims in this block; give them up where it ends by an exception."""
        ended = threading.Event()
        renewing = threading.Thread(target=self._renew, args=[ended], daemon=True)
        renewing.start()
        try:
            yield
        except BaseException:
            self._end(ended, renewing)
            with self._lock:
                self._append([], expires=0.0)
            raise
        self._end(ended, renewing)

    def _end(self, ended: threading.Event, renewing: threading.Thread) -> None:
        ended.set()
        renewing.join()

    def _renew(self, ended: threading.Event) -> None:
        while not ended.wait(min(self._expiry_s / _RENEWALS, _LONGEST_RENEWAL_S)):
            try:
                self.renew()
            except StoreError as error:
                log.warning("claims were not renewed", extra={"why": str(error)})

    def renew(self) -> None:
        """Renew this driver's claims; once an hour, list them again, for drivers that join."""
        with self._lock:
            now = self._clock()
            hour = _hour(now)
            mine = [u for u, claim in self._claims.items() if claim.holder == self._holder]
            self._append(mine if hour != self._stated else [], expires=now + self._expiry_s)
            self._stated = hour

    def _is_free(self, unit_id: str) -> bool:
        claim = self._claims.get(unit_id)
        if claim is None or claim.holder == self._holder:
            return True
        return claim.number < self._mark and self._expires[claim.holder] <= self._clock()

    def _append(self, unit_ids: Sequence[str], expires: float) -> None:
        while not self._write(unit_ids, expires):
            self._read()

    def _write(self, unit_ids: Sequence[str], expires: float | None = None) -> bool:
        """Add an entry; False if another driver was faster, whose entry has to be read first."""
        now = self._clock()
        until = now + self._expiry_s if expires is None else expires
        entry = {"holder": self._holder, "renewed": now, "expires": until, "units": [*unit_ids]}
        hour = _hour(now)
        path = _path(hour, self._next.get(hour, 0))
        if not self._store.create(path, json.dumps(entry).encode()):
            return False
        self._count(hour, entry)
        return True

    def _read(self) -> None:
        """Read the entries that others added, of the hour before and this one.

        And of the next: clocks of drivers differ.
        """
        now = self._clock()
        with ThreadPoolExecutor(_THREADS) as pool:
            for hour in (_hour(now, -1), _hour(now), _hour(now, 1)):
                there = set(self._store.list_files(f"claims/{hour}"))
                first = self._next.get(hour, 0)
                paths = takewhile(there.__contains__, (_path(hour, n) for n in count(first)))
                for content in pool.map(self._store.read, list(paths)):
                    self._count(hour, json.loads(content))

    def _count(self, hour: str, entry: dict[str, Any]) -> None:
        self._next[hour] = self._next.get(hour, 0) + 1
        self._expires[entry["holder"]] = entry["expires"]
        for unit_id in entry["units"]:
            self._claims[unit_id] = _Claim(entry["holder"], self._num_read)
        self._num_read += 1


def _hour(now: float, hours: int = 0) -> str:
    return f"{datetime.fromtimestamp(now, UTC) + timedelta(hours=hours):%Y-%m-%dT%H}"


def _path(hour: str, number: int) -> str:
    return f"claims/{hour}/{number:06}.json"


class PlannedUnits(Protocol):
    """The units that are left to do: the planner's `Plan`."""

    def units(self, modality: Modality | None = None) -> Iterator[Unit]:
        """Return the units of a modality that have something left to do, in order."""
        ...

    def refresh(self) -> object:
        """List the output again: units that others have published are done."""
        ...


class ClaimedWork:
    """A plan's units, but for those that other drivers work on; in the end nothing is left over."""

    def __init__(
        self,
        plan: PlannedUnits,
        claims: Claims,
        expiry_s: float,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._plan = plan
        self._claims = claims
        self._wait_s = min(expiry_s / 4, _LONGEST_WAIT_S)
        self._wait = wait

    def waves(self, modality: Modality, size: int) -> Iterator[list[Unit]]:
        """Return claimed units, so many at a time, until everything of a modality is published.

        What others hold is looked at again when this driver has nothing else to do: then it is
        published, or its holder is dead and its claim expires.
        """
        while True:
            num_taken = num_left = 0
            for wave in in_waves(self._plan.units(modality), size):
                taken = self._claims.take(wave)
                num_taken += len(taken)
                num_left += len(wave) - len(taken)
                if taken:
                    yield taken
            if not num_left:
                return
            if not num_taken:
                self._wait(self._wait_s)
            self._claims.mark()
            self._plan.refresh()
