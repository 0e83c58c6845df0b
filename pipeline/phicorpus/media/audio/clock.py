"""Place frames on a recording's own clock: from the start of its container, holes and overlaps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from av.audio.frame import AudioFrame

TOLERANCE_S: Final = 0.04
"""Time stamps of containers are rounded; what is off by less is right."""

# So far it looks ahead: a late packet, a stamp that jitters, or a wrong one is no hole.
_AHEAD_S, _AHEAD_FRAMES = 0.35, 3
_RESET_S: Final = 1.0
"""Stamps that go back so far begin anew, as where files were joined; nothing is left out then."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A frame, and what it takes to have it at its time.

    Attributes:
        silence_s: Goes before it: nothing was recorded, or what was is lost.
        overlap_s: Of its beginning was heard before.
        follows_overlap: So was a whole frame before it, which is left out.
    """

    frame: AudioFrame
    silence_s: float = 0.0
    overlap_s: float = 0.0
    follows_overlap: bool = False


class Clock:
    """Compares the time stamps of frames with what came before them; sums, so errors never add up.

    Args:
        origin_s: The time stamp at which the recording begins; None: the first frame's.
        most_s: Gives the longest silence that is believed before a place, in seconds.
        drops: Whether what overlaps is left out; else only holes are filled.
    """

    def __init__(
        self, origin_s: float | None, most_s: Callable[[float], float], *, drops: bool
    ) -> None:
        self._origin_s = origin_s
        self._most_s = most_s
        self._drops = drops
        self._position_s = 0.0
        self._has_dropped = False

    def placed(self, frames: Iterator[AudioFrame]) -> Iterator[Placed]:
        """Yield each frame with the silence before it, or with what of it overlaps."""
        waiting: deque[AudioFrame] = deque()
        waiting_s = 0.0
        for frame in frames:
            waiting.append(frame)
            waiting_s += _length_s(frame)
            while len(waiting) > _AHEAD_FRAMES and waiting_s - _length_s(waiting[0]) > _AHEAD_S:
                waiting_s -= _length_s(waiting[0])
                yield from self._next(waiting)
        while waiting:
            yield from self._next(waiting)

    def _next(self, waiting: deque[AudioFrame]) -> Iterator[Placed]:
        off_s = self._off_s(waiting)
        frame = waiting.popleft()
        length_s = _length_s(frame)
        silence_s = overlap_s = 0.0
        if off_s > TOLERANCE_S:
            silence_s = min(off_s, max(0.0, self._most_s(self._position_s)))
            self._shift(off_s - silence_s)
        elif off_s < -_RESET_S:
            self._shift(off_s)
        elif off_s < -TOLERANCE_S and self._drops:
            overlap_s = min(-off_s, length_s)
        self._position_s += silence_s + length_s - overlap_s
        if length_s > 0 and overlap_s == length_s:
            self._has_dropped = True
            return
        follows, self._has_dropped = self._has_dropped, False
        yield Placed(frame, silence_s, overlap_s, follows_overlap=follows)

    def _off_s(self, waiting: deque[AudioFrame]) -> float:
        """Return by how much the next frames are late (above 0) or early, all of them alike."""
        latest, earliest = -float("inf"), float("inf")
        position_s = self._position_s
        for frame in waiting:
            if frame.time is not None:
                if self._origin_s is None:
                    self._origin_s = frame.time - position_s
                off_s = frame.time - self._origin_s - position_s
                latest, earliest = max(latest, off_s), min(earliest, off_s)
            position_s += _length_s(frame)
        if earliest > latest:
            return 0.0
        return max(earliest, 0.0) or min(latest, 0.0)

    def _shift(self, by_s: float) -> None:
        if by_s and self._origin_s is not None:
            self._origin_s += by_s


def _length_s(frame: AudioFrame) -> float:
    return frame.samples / frame.sample_rate if frame.sample_rate else 0.0
