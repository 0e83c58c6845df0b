"""fetch: URI to bytes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from phicorpus.config import FetchConfig
from phicorpus.errors import (
    CredentialsMissing,
    CredentialsRefused,
    FetchError,
    PhicorpusError,
    SegmentError,
)
from phicorpus.schemas.error import error_columns
from phicorpus.schemas.segment import FETCHED
from phicorpus.storage.assets import read_asset, read_inline
from phicorpus.storage.policy import split_uri
from phicorpus.storage.redact import redacted
from phicorpus.storage.web import WEB_SCHEMES

_THREADS = 16


def fetch(batch: pa.Table, *, config: FetchConfig) -> Iterator[pa.Table]:
    """Read each asset's bytes, several at a time.

    Reads   ASSET.
    Writes  FETCHED, one table per asset, so that no block holds many large ones.
    Rows    1 -> 1, order kept. An asset that cannot be read keeps its row, with the error.
    Raises  CredentialsRefused: a bucket wants credentials, or other ones. That is no row's fault,
            and no row is blamed; of a web page that wants a login, its row is.
    """
    rows: list[dict[str, Any]] = batch.to_pylist()
    with ThreadPoolExecutor(min(_THREADS, max(1, len(rows)))) as pool:
        for row in pool.map(lambda asset: _fetched(asset, config), rows):
            yield _table(row)


def _table(row: dict[str, Any]) -> pa.Table:
    """Make a table of one row around its content, which is not copied: it may be 2 GB."""
    content = row.pop("content", None)
    table = pa.Table.from_pylist([row], schema=FETCHED)
    if content is None:
        return table
    offsets = pa.py_buffer(np.array([0, len(content)], np.int64))
    around = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(content)])
    return table.set_column(FETCHED.get_field_index("content"), FETCHED.field("content"), around)


def _fetched(asset: dict[str, Any], config: FetchConfig) -> dict[str, Any]:
    try:
        read = (
            read_asset(asset["uri"], config, sha256=asset["sha256"], etag=asset["etag"])
            if asset["text"] is None
            else read_inline(asset["text"], asset["uri"], sha256=asset["sha256"])
        )
    except CredentialsMissing as error:
        if split_uri(asset["uri"])[0] not in WEB_SCHEMES:
            raise CredentialsRefused(str(error)) from None  # its cause may repeat a secret
        return {**asset, **error_columns(error)}
    except SegmentError as error:
        return {**asset, **error_columns(error)}
    except (PhicorpusError, MemoryError):  # a bad run
        raise
    except Exception as error:  # noqa: BLE001 - the last net: one odd row must not end the run
        why = f"cannot read {asset['uri']}: {type(error).__name__}: {error}"
        named = FetchError(redacted(why, config.storage_options))
        return {**asset, **error_columns(named)}
    return {**asset, "content": read.content, "sha256": read.sha256, "etag": read.etag}
