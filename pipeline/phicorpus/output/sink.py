"""Sinks, which write the tables of an output.

A Parquet file that is created if absent is the commit, and what a plan looks for. A sink that
writes more lies beside this module, keeps that promise, and has an entry in SINKS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import pyarrow as pa

from phicorpus.output.parquet import ParquetSink
from phicorpus.schemas.paths import FileKey
from phicorpus.storage.store import Store


class Sink(Protocol):
    """Writes the tables of an output."""

    def create(
        self, key: FileKey, number: int, rows: pa.Table, description: Mapping[str, str]
    ) -> bool:
        """Publish a round of a file, whole, if it is absent.

        Args:
            key: The file.
            number: Of the round; 0: the first.
            rows: In the schema of the file's table.
            description: What the file says of itself.

        Returns:
            True if this call published it, False if it was there.

        Raises:
            StoreError: the store failed or refused.
        """
        ...


SINKS: Mapping[str, Callable[[Store], Sink]] = {"parquet": ParquetSink}
"""By format."""

SINK = SINKS["parquet"]
"""The class that first runs and retries write with; no setting chooses another."""
