"""The sink that writes Parquet: one file per round, created if absent."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from phicorpus.schemas.paths import FileKey
from phicorpus.storage.store import Store


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
