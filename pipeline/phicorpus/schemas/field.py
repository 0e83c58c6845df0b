"""A field that says what it means, and a schema that says its version."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

FIRST_RELEASE = "0.1.0"
"""The release that every column is of that does not say `since`."""


def field(
    name: str,
    kind: pa.DataType,
    meaning: str,
    *,
    unit: str = "",
    nullable: bool = True,
    since: str = FIRST_RELEASE,
) -> pa.Field:
    """Declare a column with its meaning, its unit where it has one, and the release it came with.

    Example:
        >>> field("start_s", pa.float64(), "Start", unit="seconds").metadata
        {b'meaning': b'Start', b'unit': b'seconds'}
    """
    metadata = {"meaning": meaning} | ({"unit": unit} if unit else {})
    metadata |= {"since": since} if since != FIRST_RELEASE else {}
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


def schema(name: str, version: int, fields: Sequence[pa.Field]) -> pa.Schema:
    """Declare a schema; its metadata carry name and version into every file.

    Example:
        >>> schema("asset", 1, [field("uri", pa.string(), "Where")]).metadata
        {b'schema': b'asset', b'schema_version': b'1'}
    """
    return pa.schema(list(fields), metadata={"schema": name, "schema_version": str(version)})
