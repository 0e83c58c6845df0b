"""The output, assembled: one row per asset."""

from __future__ import annotations

import pyarrow as pa

from phicorpus.schemas.field import field, schema

SPAN = pa.struct(
    [
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("status", pa.string()),
        pa.field("channel", pa.int32()),
    ]
)

DOCUMENT = schema(
    "document",
    1,
    [
        field("asset_id", pa.string(), "The asset, as the manifest names it", nullable=False),
        field("uri", pa.string(), "Where the asset's bytes are", nullable=False),
        field("kind", pa.string(), "image, deck, audio or text", nullable=False),
        field("media_type", pa.string(), "MIME type as found in the bytes"),
        field("sha256", pa.string(), "Checksum of the bytes that were read"),
        field(
            "status",
            pa.string(),
            "ok; partial: some rows are errors; error: all are",
            nullable=False,
        ),
        field("num_segments", pa.int32(), "Images, pages, windows or passages", nullable=False),
        field("num_ok", pa.int32(), "Annotations with status ok", nullable=False),
        field("num_error", pa.int32(), "Annotations with status error", nullable=False),
        field("num_skipped", pa.int32(), "Annotations with status skipped", nullable=False),
        field("markdown", pa.string(), "The whole asset as Markdown, pages in order"),
        field("transcript", pa.string(), "The recording as one text"),
        field("spans", pa.list_(SPAN), "The recording's windows in order", unit="seconds"),
        field("duration_s", pa.float64(), "End of the last window", unit="seconds"),
        field("unit_id", pa.string(), "The unit that this row was committed with", nullable=False),
        field("round", pa.int32(), "0: the first run; n: came with the n-th retry of its file"),
        field(
            "etag",
            pa.string(),
            "The store's name for the content, as the manifest or else the store gave it",
        ),
        field("asset_version", pa.int32(), "As of annotations: an asset's highest holds"),
    ],
)
