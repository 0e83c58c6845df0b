"""A sink: with each Parquet file its rows as JSON lines, for whoever reads nothing else.

The lines come first, so that they are there where the Parquet file is, which is the commit. They
are named by their run too: one that died in between leaves lines that no Parquet file names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa

from phicorpus.output.parquet import ParquetSink
from phicorpus.schemas.paths import FileKey
from phicorpus.storage.store import Store


class LinesSink:
    """Writes JSON lines to a folder of their own, and then what `ParquetSink` writes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._parquet = ParquetSink(store)

    def create(
        self, key: FileKey, number: int, rows: pa.Table, description: Mapping[str, str]
    ) -> bool:
        lines = "".join(f"{json.dumps(row, default=str)}\n" for row in rows.to_pylist())
        path = key.path(number).removesuffix(".parquet")
        self._store.create(f"lines/{path}-{description['run_id']}.jsonl", lines.encode())
        return self._parquet.create(key, number, rows, description)
