"""The output: one row per segment and task."""

from __future__ import annotations

import pyarrow as pa

from phicorpus.schemas.field import field, schema
from phicorpus.schemas.segment import ANSWER, PART

ANNOTATION = schema(
    "annotation",
    1,
    [
        field("asset_id", pa.string(), "The asset, as the manifest names it", nullable=False),
        field("uri", pa.string(), "Where the asset's bytes are", nullable=False),
        field("media_type", pa.string(), "MIME type as found in the bytes"),
        field("sha256", pa.string(), "Checksum of the bytes that were read"),
        *(part for part in PART if part.name != "segment_count"),
        field("segment_count", pa.int32(), "How many segments the asset has", nullable=False),
        *ANSWER,
        field("model", pa.string(), "Model and revision that answered"),
        field("unit_id", pa.string(), "The unit that this row was committed with", nullable=False),
        field("round", pa.int32(), "0: the first run; n: came with the n-th retry of its file"),
        field(
            "etag",
            pa.string(),
            "The store's name for the content, as the manifest or else the store gave it",
        ),
        field(
            "asset_version",
            pa.int32(),
            "0: the asset's first content; higher when the manifest named another sha256 or etag. "
            "Of a task and fingerprint, the rows of an asset's highest version hold",
        ),
    ],
)
"""`task` and `fingerprint` are in the path: annotations/task=.../fingerprint=.../UNIT.parquet. The
manifest's further columns follow by name."""

KEY = ("asset_id", "asset_version", "segment_index", "task")
"""The columns that make a row unique among those of one fingerprint."""
