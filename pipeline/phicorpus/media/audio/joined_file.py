"""A file over bytes that are read where they lie: of hours of sound there is no second copy."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from phicorpus.media.segment import Bytes


class JoinedFile:
    """A readable file made of parts, one behind the other."""

    def __init__(self, parts: Sequence[Bytes]) -> None:
        self._parts = [memoryview(part) for part in parts]
        self._starts = [0, *accumulate(len(part) for part in self._parts)]
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, or to the end; fewer only at the end."""
        end = self._starts[-1] if size < 0 else min(self._position + size, self._starts[-1])
        found: list[bytes] = []
        while self._position < end:
            number = bisect_right(self._starts, self._position) - 1
            start = self._starts[number]
            part = bytes(self._parts[number][self._position - start : end - start])
            found.append(part)
            self._position += len(part)
        return found[0] if len(found) == 1 else b"".join(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; beyond the end too: there is nothing there."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}
        self._position = max(0, base[whence] + offset)
        return self._position

    def tell(self) -> int:
        """Return the place at which the next bytes are read."""
        return self._position
