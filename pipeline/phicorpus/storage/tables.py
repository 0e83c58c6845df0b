"""Read the Parquet files of an output; one that is torn is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from phicorpus.errors import StoreError
from phicorpus.storage.store import Store


class TornFile(StoreError):
    """A file of the output is not what was written there: somebody else cut or changed it.

    Attributes:
        path: The file.
    """

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path


def read_table(store: Store, path: str, columns: Collection[str] | None = None) -> pa.Table:
    """Read a file, or those of its columns that it has: an older release may have written fewer.

    Raises:
        TornFile: it is no Parquet file, or not a whole one.
        StoreError: the store failed or refused.
    """
    content = store.read(path)
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        names: list[str] = file.schema_arrow.names
        wanted = None if columns is None else [name for name in names if name in columns]
        return file.read(columns=wanted, use_threads=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise torn(path, error) from error


def rows_hash(table: pa.Table) -> str:
    """Hash a table's rows by value, so that a file that was written again with others is found.

    Returns:
        32 hex digits; equal for equal rows, however they lie in memory or in the file.
    """
    digest = hashlib.blake2b(digest_size=16)
    for row in table.to_pylist():
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def read_metadata(store: Store, path: str) -> dict[str, str]:
    """Read what a file says of itself: `phicorpus.num_ok`, `phicorpus.unit_id`, ...

    Raises:
        As `read_table`.
    """
    metadata = read_schema(store, path).metadata or {}
    try:
        return {name.decode(): value.decode() for name, value in metadata.items()}
    except UnicodeDecodeError as error:
        raise torn(path, error) from error


def read_schema(store: Store, path: str) -> pa.Schema:
    """Read which columns a file has, and of which types.

    Raises:
        As `read_table`.
    """
    content = store.read(path)
    try:
        return pq.read_schema(pa.BufferReader(content))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise torn(path, error) from error


def torn(path: str, error: Exception | str) -> TornFile:
    """Return the error that names a file which is torn, and what helps."""
    why = " ".join(str(error).split())
    return TornFile(f"{path} is torn: {why}; `phicorpus verify --mend` sets it aside", path)
