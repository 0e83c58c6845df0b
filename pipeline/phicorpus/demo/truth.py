"""Ground truth of a demo corpus: what every file really says."""

from __future__ import annotations

import pyarrow as pa

from phicorpus.schemas.field import field, schema

TRUTH = schema(
    "truth",
    1,
    [
        field("uri", pa.string(), "The file, relative to the corpus folder", nullable=False),
        field("kind", pa.string(), "image, deck, audio or broken", nullable=False),
        field(
            "family",
            pa.string(),
            "How it was made: page, chart, scene, pptx, pdf, recording, broken",
            nullable=False,
        ),
        field("task", pa.string(), "ocr, caption, chart or transcribe; null for broken files"),
        field(
            "segment_index",
            pa.int32(),
            "Page of a deck or TIFF from 0; null for recordings, whose windows are not fixed",
        ),
        field("part_index", pa.int32(), "Sentence of a recording, from 0"),
        field("expected_text", pa.string(), "Text, caption, Markdown table or sentence"),
        field("expected_json", pa.string(), "The same with its structure, as JSON"),
        field("start_s", pa.float64(), "Start of the sentence or silence", unit="seconds"),
        field("end_s", pa.float64(), "End of the sentence or silence", unit="seconds"),
        field("hidden", pa.bool_(), "The slide is hidden"),
        field("notes", pa.string(), "Speaker notes of the slide"),
        field(
            "expected_error",
            pa.string(),
            "For broken files: class of phicorpus.errors; a subclass of it is right too",
        ),
        field("seed", pa.int64(), "Seed of the corpus", nullable=False),
    ],
)
