"""Read the Parquet files of an output; one that is torn is named."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.storage.store import Store


class TornFile(StoreError):
    """A file of the output is not what was written there: somebody else cut or changed it."""


def read_table(store: Store, path: str, columns: Collection[str] | None = None) -> pa.Table:
    """Read a file, or those of its columns that it has: an older release may have written fewer.

    Raises:
        TornFile: it is no Parquet file, or not a whole one.
        StoreError: the store failed or refused.
    """
    content = store.read(path)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        names: list[str] = file.schema_arrow.names
        wanted = None if columns is None else [name for name in names if name in columns]
        return file.read(columns=wanted, use_threads=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _torn(path, error) from error


def read_metadata(store: Store, path: str) -> dict[str, str]:
    """Read what a file says of itself: `phicorpus.num_ok`, `phicorpus.unit_id`, ...

    Raises:
        As `read_table`.
    """
    metadata = read_schema(store, path).metadata or {}
    try:
        return {name.decode(): value.decode() for name, value in metadata.items()}
    except UnicodeDecodeError as error:
        raise _torn(path, error) from error


def read_schema(store: Store, path: str) -> pa.Schema:
    """Read which columns a file has, and of which types.

    Raises:
        As `read_table`.
    """
    content = store.read(path)
    try:
        return pq.read_schema(pa.BufferReader(content))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _torn(path, error) from error


def _torn(path: str, error: Exception) -> TornFile:
    why = " ".join(str(error).split())
    return TornFile(f"{path} is torn: {why}; take it away, and the next run makes it again")
