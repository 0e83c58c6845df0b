"""Sinks, which write the tables of an output; and the one that writes Parquet.

A file that is created if absent is the commit, and what a plan looks for. A sink for another table
format lies beside this module, keeps that promise, and has an entry in SINKS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

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


class ParquetSink:
    """One Parquet file per round, its description in the metadata of its schema."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(
        self, key: FileKey, number: int, rows: pa.Table, description: Mapping[str, str]
    ) -> bool:
        described = {f"phicorpus.{name}": value for name, value in description.items()}
        whole = rows.replace_schema_metadata({**(rows.schema.metadata or {}), **described})
        content = pa.BufferOutputStream()
        pq.write_table(whole, content, compression="zstd", write_page_checksum=True)
        return self._store.create(key.path(number), content.getvalue().to_pybytes())


SINKS: Mapping[str, Callable[[Store], Sink]] = {"parquet": ParquetSink}
"""By format."""

SINK = SINKS["parquet"]
"""The one that runs write to."""
