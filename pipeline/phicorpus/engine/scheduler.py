"""Who may decode now: by KV pages and rows, by shared prefix, by LongRoPE regime. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from phicorpus.engine.engine import Regime

_OTHER: dict[Regime, Regime] = {"short": "long", "long": "short"}


class Admissible(Protocol):
    """What is needed of a request to admit it."""

    @property
    def pages(self) -> int:
        """KV pages of its prompt and its longest answer."""
        ...

    @property
    def regime(self) -> Regime:
        """Its LongRoPE factors."""
        ...

    @property
    def group(self) -> Hashable | None:
        """Requests of an equal group share a prefix; None: it shares none."""
        ...


JobT = TypeVar("JobT", bound=Admissible)


@dataclass(slots=True)
class _Group(Generic[JobT]):
    leader: JobT
    has_token: bool = False
    members: set[JobT] = field(default_factory=set)


class Admission(Generic[JobT]):
    """Admits waiting requests, in order, as far as pages and rows allow.

    - The first request of a group leads: the others wait for its first token, when the shared
      prefix is in the cache. If it ends before, the next one leads.
    - All that run share one regime. It changes when its requests are used up, or when so many of
      them overtook one of the other regime that its turn has come; the running ones end first.
    - A suspect, which was there when the loop died, runs alone, before all others.

    Jobs are compared by identity.

    Args:
        pages: KV pages that may be promised.
        rows: Requests at once.
        turn: Requests of one regime that may overtake one of the other.
    """

    def __init__(self, *, pages: int, rows: int, turn: int) -> None:
        self.pages_taken = 0
        self.running: set[JobT] = set()
        self._pages = pages
        self._rows = rows
        self._turn = turn
        self._waiting: dict[Regime, dict[JobT, None]] = {"short": {}, "long": {}}
        self._suspects: dict[JobT, None] = {}
        self._alone: JobT | None = None
        self._groups: dict[Hashable, _Group[JobT]] = {}
        self._regime: Regime = "short"
        self._overtaken = 0

    @property
    def num_waiting(self) -> int:
        """Requests that wait here."""
        return sum(map(len, (self._suspects, *self._waiting.values())))

    def waiting(self) -> list[JobT]:
        """The waiting requests, suspects first."""
        return [*self._suspects, *self._waiting["short"], *self._waiting["long"]]

    def add(self, job: JobT, *, suspect: bool = False) -> None:
        """Let a request wait."""
        (self._suspects if suspect else self._waiting[job.regime])[job] = None

    def add_first(self, job: JobT) -> None:
        """Let a request wait before all others of its regime."""
        queue = self._waiting[job.regime]
        self._waiting[job.regime] = {job: None, **queue}

    def remove(self, job: JobT) -> bool:
        """Take back a waiting request; False if it does not wait."""
        for queue in (self._suspects, self._waiting[job.regime]):
            if job in queue:
                del queue[job]
                return True
        return False

    def take(self) -> Iterator[JobT]:
        """Admit what may run now, all of one regime."""
        while (job := self._next()) is not None:
            self._admit(job)
            yield job

    def on_first_token(self, job: JobT) -> None:
        """The request's whole prompt is in the cache: who shares its prefix may follow."""
        group = self._groups.get(job.group) if job.group is not None else None
        if group is not None and group.leader is job:
            group.has_token = True

    def release(self, job: JobT) -> None:
        """A running request is over."""
        self.running.discard(job)
        self.pages_taken -= job.pages
        if self._alone is job:
            self._alone = None
        group = self._groups.get(job.group) if job.group is not None else None
        if group is not None:
            group.members.discard(job)
            if not group.members or (group.leader is job and not group.has_token):
                del self._groups[job.group]

    def _admit(self, job: JobT) -> None:
        if job in self._suspects:
            self._alone = job
        if job.regime != self._regime:
            self._regime = job.regime
            self._overtaken = 0
        elif self._waiting[_OTHER[self._regime]]:
            self._overtaken += 1
        self.remove(job)
        self.running.add(job)
        self.pages_taken += job.pages
        if job.group is not None:
            self._groups.setdefault(job.group, _Group(leader=job)).members.add(job)

    def _next(self) -> JobT | None:
        if self._alone is not None or len(self.running) >= self._rows:
            return None
        if self._suspects:
            return None if self.running else next(iter(self._suspects))
        other = _OTHER[self._regime]
        if self._overtaken < self._turn or not self._waiting[other]:
            found, blocked = self._first(self._regime)
            if found is not None or blocked:
                return found
        if self.running:
            return None  # a change of regime waits for them
        found, _ = self._first(other)
        return found

    def _first(self, regime: Regime) -> tuple[JobT | None, bool]:
        """The first of a regime that may run, and whether one is there that has to wait.

        A request that finds too few pages blocks those behind it, or it would never run.
        """
        for job in self._waiting[regime]:
            group = self._groups.get(job.group) if job.group is not None else None
            if group is None or group.has_token:
                fits = self.pages_taken + job.pages <= self._pages
                return (job if fits else None), True
        return None, bool(self._waiting[regime])
