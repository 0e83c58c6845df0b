"""The input table: one row per image, deck, recording or text. Only `uri` is required."""

from __future__ import annotations

import pyarrow as pa

from phicorpus.schemas.field import field, schema

MANIFEST = schema(
    "manifest",
    1,
    [
        field(
            "uri",
            pa.string(),
            "Where the asset's bytes are: s3://, gs://, file:// or a path",
            nullable=False,
        ),
        field(
            "asset_id", pa.string(), "Names the asset in every output; default: a hash of the uri"
        ),
        field("media_type", pa.string(), "MIME type; default: by the uri's extension"),
        field("sha256", pa.string(), "Checksum of the bytes, 64 hex digits; checked when given"),
        field("etag", pa.string(), "The store's name for the content; another one is new content"),
        field(
            "tasks", pa.list_(pa.string()), "Which of the job's tasks to run; default: all that fit"
        ),
        field(
            "text",
            pa.large_string(),
            "The asset itself, a short text: its uri is then a name, and nothing is read there",
        ),
    ],
)
"""Further columns are passed through to the annotations by name."""
