"""Rows inside the flow: ASSET into fetch, SEGMENT from decode to infer, REPLY from infer to commit.

None of them is written to disk; they may change with any release.
"""

from __future__ import annotations

import pyarrow as pa

from phicorpus.schemas.field import field, schema

_IDENTITY = [
    field("unit_id", pa.string(), "The unit that this row is committed with", nullable=False),
    field("asset_id", pa.string(), "The asset, as the manifest names it", nullable=False),
    field("uri", pa.string(), "Where the asset's bytes are", nullable=False),
    field("media_type", pa.string(), "MIME type: declared, then as found in the bytes"),
    field("sha256", pa.string(), "Checksum of the bytes: declared, then as read"),
    field("etag", pa.string(), "The store's name for the content: declared, then as read"),
]

_ERROR = [
    field("error_stage", pa.string(), "Where it failed: fetch, decode, infer, parse, commit"),
    field("error_type", pa.string(), "Class of the error, as in phicorpus.errors"),
    field("error_message", pa.string(), "What was wrong, with which values, and what helps"),
]

_TASKS = [field("tasks", pa.list_(pa.string()), "Tasks to run on it", nullable=False)]

_PART = [
    field("segment_index", pa.int32(), "Position in its asset, from 0", nullable=False),
    field("segment_count", pa.int32(), "How many segments the asset has; null: not known yet"),
    field(
        "segment_kind",
        pa.string(),
        "image, page, window, passage, or asset where decoding failed",
        nullable=False,
    ),
    field("page_number", pa.int32(), "Page of a deck or TIFF, from 1"),
    field("hidden", pa.bool_(), "The slide is hidden in its deck"),
    field("start_s", pa.float64(), "Start of the window in its recording", unit="seconds"),
    field("end_s", pa.float64(), "End of the window in its recording", unit="seconds"),
    field("channel", pa.int32(), "Channel of its recording, from 1; null where they are mixed"),
    field("start_char", pa.int64(), "Start of the passage in its text", unit="characters"),
    field("end_char", pa.int64(), "End of the passage in its text", unit="characters"),
    field("flags", pa.list_(pa.string()), "What a reader should know: truncated, animation, ..."),
    field(
        "skip_reason", pa.string(), "Why the model is not asked: no_speech, no_text, not_rendered"
    ),
]

_ASSET = _IDENTITY + _TASKS

ASSET = schema(
    "asset",
    1,
    [*_ASSET, field("text", pa.large_string(), "The asset itself, where the manifest holds it")],
)

FETCHED = schema(
    "fetched",
    1,
    [
        *_ASSET,
        field("content", pa.large_binary(), "The asset's bytes; null where an error is"),
        *_ERROR,
    ],
)

SEGMENT = schema(
    "segment",
    1,
    [
        *_IDENTITY,
        *_TASKS,
        *_PART,
        field(
            "native", pa.string(), "Text, notes, tables and charts from the file itself, as JSON"
        ),
        field("native_error", pa.string(), "Why the file itself says nothing of the page"),
        field(
            "data",
            pa.large_binary(),
            "Canvas: uint8 RGB rows; window: float32 features or samples; passage: UTF-8",
        ),
        field("rate_hz", pa.int32(), "Of a window's samples: 16,000 or 8,000", unit="Hz"),
        field(
            "feature_size", pa.int32(), "Numbers per frame of a window's features; null: samples"
        ),
        field("width_px", pa.int32(), "Of the canvas", unit="pixels"),
        field("height_px", pa.int32(), "Of the canvas", unit="pixels"),
        field("valid_width_px", pa.int32(), "Canvas columns that are not padding", unit="pixels"),
        field("valid_height_px", pa.int32(), "Canvas rows that are not padding", unit="pixels"),
        *_ERROR,
    ],
)

ANSWER = [
    field("status", pa.string(), "ok, error or skipped", nullable=False),
    field("source", pa.string(), "model, or native where the file itself gave the answer"),
    field("text", pa.string(), "The answer as plain text"),
    field("answer", pa.string(), "The typed answer as JSON, for tasks that have one"),
    field("finish_reason", pa.string(), "stop, length, loop or deadline"),
    field("mean_logprob", pa.float32(), "Mean ln p of the generated tokens", unit="nats"),
    field("prompt_tokens", pa.int32(), "Tokens and feature rows of the prompt", unit="tokens"),
    field("completion_tokens", pa.int32(), "Tokens generated", unit="tokens"),
    field("attempts", pa.int32(), "Times that the model was asked; the best answer is kept"),
    field("regime", pa.string(), "LongRoPE factors of the request: short or long"),
    *_ERROR,
]

REPLY = schema(
    "reply",
    1,
    [*_IDENTITY, field("task", pa.string(), "The task", nullable=False), *_PART, *ANSWER],
)

PART = _PART
