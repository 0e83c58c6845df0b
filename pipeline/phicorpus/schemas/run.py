"""One execution of a job: runs/<run_id>.json, one JSON object with these fields."""

from __future__ import annotations

import pyarrow as pa

from phicorpus.schemas.field import field, schema

RUN = schema(
    "run",
    1,
    [
        field("run_id", pa.string(), "Start time and the config's digest", nullable=False),
        field("software_version", pa.string(), "Of phicorpus", nullable=False),
        field("started_at", pa.string(), "UTC, ISO 8601", nullable=False),
        field("ended_at", pa.string(), "UTC, ISO 8601"),
        field("status", pa.string(), "done, failed or interrupted", nullable=False),
        field("config", pa.string(), "The whole config as JSON", nullable=False),
        field("models", pa.string(), "Resolved model, revision and digest per modality, as JSON"),
        field("fingerprints", pa.string(), "Fingerprint per task and kind of asset, as JSON"),
        field("versions", pa.string(), "Of Python and the packages that matter, as JSON"),
        field("num_assets", pa.int64(), "Assets planned in this run", nullable=False),
        field("num_units", pa.int64(), "Units committed in this run", nullable=False),
        field("num_segments", pa.int64(), "Segments announced", nullable=False),
        field(
            "num_announced", pa.int64(), "Annotations announced: segments x tasks", nullable=False
        ),
        field("num_ok", pa.int64(), "Annotations committed with status ok", nullable=False),
        field("num_error", pa.int64(), "Annotations committed with status error", nullable=False),
        field(
            "num_skipped", pa.int64(), "Annotations committed with status skipped", nullable=False
        ),
        field("prompt_tokens", pa.int64(), "Sum over annotations", unit="tokens"),
        field("completion_tokens", pa.int64(), "Sum over annotations", unit="tokens"),
        field("elapsed_s", pa.float64(), "Wall time", unit="seconds"),
        field(
            "engine",
            pa.string(),
            "What the replicas of each flow did, as JSON: busy_share (of the time in which "
            "they were loaded), completion_tokens_per_s (per replica), seconds, tokens, media, "
            "restarts; a replica that died has taken its last seconds with it",
        ),
        field(
            "replicas",
            pa.string(),
            "What the replicas of each flow ran on, as JSON: engine, device, dtype, attention, "
            "graphs, memory plan, and num_replicas that are alike",
        ),
    ],
)
