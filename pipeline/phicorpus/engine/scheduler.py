"""Choose the sequences that may run: by KV pages and rows, shared prefix, LongRoPE regime. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from phicorpus.models.model import Regime

_OTHER: dict[Regime, Regime] = {"short": "long", "long": "short"}


class Schedulable(Protocol):
    """The part of a sequence that scheduling needs."""

    @property
    def num_pages(self) -> int:
        """KV pages of its prompt and its longest answer."""
        ...

    @property
    def rope_regime(self) -> Regime:
        """Its LongRoPE factors."""
        ...

    @property
    def group(self) -> Hashable | None:
        """Equal for sequences that share a prefix; None: it shares none."""
        ...


SequenceT = TypeVar("SequenceT", bound=Schedulable)


@dataclass(slots=True)
class _Group(Generic[SequenceT]):
    leader: SequenceT
    has_token: bool = False
    members: set[SequenceT] = field(default_factory=set)


class Scheduler(Generic[SequenceT]):
    """Lets waiting sequences run, in order, as far as pages and rows allow.

    - The first sequence of a group leads: the others wait for its first token, when the shared
      prefix is in the KV cache. If it ends before, the next one leads.
    - All that run share one regime. It changes when its sequences are used up, or when so many of
      them overtook one of the other regime that its turn has come; the running ones end first.
    - A suspect, which ran when the decoding loop died, runs alone, before all others.

    Sequences are compared by identity.

    Args:
        num_pages: KV pages that may be promised.
        num_rows: Sequences at once.
        turn: Sequences of one regime that may overtake one of the other.
    """

    def __init__(self, *, num_pages: int, num_rows: int, turn: int) -> None:
        self.num_pages_taken = 0
        self.running: set[SequenceT] = set()
        self._num_pages = num_pages
        self._num_rows = num_rows
        self._turn = turn
        self._waiting: dict[Regime, dict[SequenceT, None]] = {"short": {}, "long": {}}
        self._suspects: dict[SequenceT, None] = {}
        self._alone: SequenceT | None = None
        self._groups: dict[Hashable, _Group[SequenceT]] = {}
        self._regime: Regime = "short"
        self._overtaken = 0

    @property
    def num_waiting(self) -> int:
        """Sequences that wait here."""
        return sum(map(len, (self._suspects, *self._waiting.values())))

    def waiting(self) -> list[SequenceT]:
        """Return the waiting sequences, suspects first."""
        return [*self._suspects, *self._waiting["short"], *self._waiting["long"]]

    def add(self, sequence: SequenceT, *, suspect: bool = False) -> None:
        """Add a sequence behind the others."""
        (self._suspects if suspect else self._waiting[sequence.rope_regime])[sequence] = None

    def add_first(self, sequence: SequenceT) -> None:
        """Add a sequence in front of all others of its regime."""
        queue = self._waiting[sequence.rope_regime]
        self._waiting[sequence.rope_regime] = {sequence: None, **queue}

    def remove(self, sequence: SequenceT) -> bool:
        """Remove a waiting sequence; False if it does not wait."""
        for queue in (self._suspects, self._waiting[sequence.rope_regime]):
            if sequence in queue:
                del queue[sequence]
                return True
        return False

    def schedule(self) -> Iterator[SequenceT]:
        """Yield the sequences that may run now, all of one regime."""
        while (sequence := self._next()) is not None:
            self._start(sequence)
            yield sequence

    def on_first_token(self, sequence: SequenceT) -> None:
        """Let the rest of a sequence's group run: its whole prompt is in the KV cache."""
        group = self._groups.get(sequence.group) if sequence.group is not None else None
        if group is not None and group.leader is sequence:
            group.has_token = True

    def release(self, sequence: SequenceT) -> None:
        """Free the pages of a running sequence, which is over."""
        self.running.discard(sequence)
        self.num_pages_taken -= sequence.num_pages
        if self._alone is sequence:
            self._alone = None
        group = self._groups.get(sequence.group) if sequence.group is not None else None
        if group is not None:
            group.members.discard(sequence)
            if not group.members or (group.leader is sequence and not group.has_token):
                del self._groups[sequence.group]

    def _start(self, sequence: SequenceT) -> None:
        if sequence in self._suspects:
            self._alone = sequence
        if sequence.rope_regime != self._regime:
            self._regime = sequence.rope_regime
            self._overtaken = 0
        elif self._waiting[_OTHER[self._regime]]:
            self._overtaken += 1
        self.remove(sequence)
        self.running.add(sequence)
        self.num_pages_taken += sequence.num_pages
        if sequence.group is not None:
            self._groups.setdefault(sequence.group, _Group(leader=sequence)).members.add(sequence)

    def _next(self) -> SequenceT | None:
        if self._alone is not None or len(self.running) >= self._num_rows:
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

    def _first(self, regime: Regime) -> tuple[SequenceT | None, bool]:
        """Return the first of a regime that may run, and whether one is there that has to wait.

        A sequence that finds too few pages blocks those behind it, or it would never run.
        """
        for sequence in self._waiting[regime]:
            group = self._groups.get(sequence.group) if sequence.group is not None else None
            if group is None or group.has_token:
                fits = self.num_pages_taken + sequence.num_pages <= self._num_pages
                return (sequence if fits else None), True
        return None, bool(self._waiting[regime])
