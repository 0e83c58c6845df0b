"""A field that says what it means, and a schema that says its version."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa


def field(
    name: str, kind: pa.DataType, meaning: str, *, unit: str = "", nullable: bool = True
) -> pa.Field:
    """Declare a column with its meaning, and its unit where it has one.

    Example:
        >>> field("start_s", pa.float64(), "Start", unit="seconds").metadata
        {b'meaning': b'Start', b'unit': b'seconds'}
    """
    metadata = {"meaning": meaning} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


def schema(name: str, version: int, fields: Sequence[pa.Field]) -> pa.Schema:
    """Declare a schema; its metadata carry name and version into every file.

    Example:
        >>> schema("asset", 1, [field("uri", pa.string(), "Where")]).metadata
        {b'schema': b'asset', b'schema_version': b'1'}
    """
    return pa.schema(list(fields), metadata={"schema": name, "schema_version": str(version)})
