"""start: hold back what fails at the start of a run, until it is known whose fault that is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from phicorpus.errors import StoreError
from phicorpus.storage.preflight import STORE_FAULTS

_FAULTS = frozenset(kind.__name__ for kind in STORE_FAULTS)


class Start:
    """Let replies pass, but those of a run that has read no asset yet because of its store.

    Reads   REPLY.
    Writes  REPLY.
    Rows    1 -> 1, order kept. The first assets' are held until one was read, or the stream ends.
    Raises  StoreError: the first `limit` assets all failed by their store. Nothing of them has been
            passed on: no row is blamed for a wrong endpoint, or for keys that may not read.
    """

    def __init__(self, limit: int | None) -> None:
        """Begin a run.

        Args:
            limit: How many assets; None: all replies pass.
        """
        self._limit = limit
        self._failed: set[str] = set()
        self._is_over = limit is None

    def passed(self, replies: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Pass on one stream of the run."""
        held: list[pa.Table] = []
        for table in replies:
            held.append(table)
            if not self._is_over:
                self._look(table)
            if self._is_over:
                yield from held
                held.clear()
        yield from held

    def _look(self, replies: pa.Table) -> None:
        columns = (
            replies[name].to_pylist() for name in ("asset_id", "error_type", "error_message")
        )
        for asset_id, error_type, message in zip(*columns, strict=True):
            if error_type not in _FAULTS:
                self._is_over = True
                return
            self._failed.add(asset_id)
            if len(self._failed) == self._limit:
                raise StoreError(
                    f"the first {self._limit} assets all failed by their store, at last: {message}."
                    " None of them was published; fetch.max_failures_at_start: null would have"
                )
