"""The demo as a newcomer runs it: a process of its own, real files, a real model, a real Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from phicorpus import errors
from phicorpus.schemas import ANNOTATION

pytestmark = pytest.mark.ray  # a cluster of its own

SCALE = "0.15"


def phicorpus(*arguments: str, cwd: Path, status: int = 0) -> str:
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", "from phicorpus.cli import main; main()", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "140"},
        timeout=280,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    shown = phicorpus("demo", "demo", "--scale", SCALE, cwd=folder)
    assert "announced" in shown
    return folder / "demo"


@pytest.fixture(scope="module")
def rows(demo: Path) -> list[dict[str, Any]]:
    dataset = ds.dataset(demo / "output" / "annotations", format="parquet", partitioning="hive")
    return dataset.to_table().to_pylist()


def test_every_asset_of_the_manifest_is_accounted_for(
    demo: Path, rows: list[dict[str, Any]]
) -> None:
    manifest = pq.read_table(demo / "manifest.parquet")["uri"].to_pylist()

    assert {row["uri"] for row in rows} == set(manifest)
    keys = Counter((row["asset_id"], row["segment_index"], row["task"]) for row in rows)
    assert set(keys.values()) == {1}
    segments = {(r["asset_id"], r["task"]): r["segment_count"] for r in rows}
    announced = sum(segments.values())
    assert announced == len(rows)
    (record,) = (json.loads(p.read_text()) for p in (demo / "output" / "runs").glob("*.json"))
    assert record["num_announced"] == announced
    assert record["num_ok"] + record["num_error"] + record["num_skipped"] == announced


def test_images_decks_and_recordings_have_answers(rows: list[dict[str, Any]]) -> None:
    answered = {
        (row["segment_kind"], row["task"]) for row in rows if row["status"] == "ok" and row["text"]
    }

    assert answered >= {
        ("image", "ocr"),
        ("image", "caption"),
        ("image", "chart"),
        ("page", "ocr"),
        ("page", "native"),
        ("window", "transcribe"),
    }


def test_exactly_the_broken_files_are_errors_and_name_the_reason(
    demo: Path, rows: list[dict[str, Any]]
) -> None:
    truth = pq.read_table(demo / "corpus" / "truth.parquet").to_pylist()
    expected = {Path(r["uri"]).name: r["expected_error"] for r in truth if r["expected_error"]}

    failed = {Path(r["uri"]).name: r["error_type"] for r in rows if r["status"] == "error"}

    assert failed.keys() == expected.keys()
    for name, error_type in failed.items():
        assert issubclass(getattr(errors, error_type), getattr(errors, expected[name])), name
    assert all(r["error_message"] for r in rows if r["status"] == "error")


def test_native_text_of_decks_is_what_the_truth_says(
    demo: Path, rows: list[dict[str, Any]]
) -> None:
    truth = pq.read_table(demo / "corpus" / "truth.parquet").to_pylist()
    native = {
        (Path(r["uri"]).name, r["segment_index"]): " ".join(r["text"].split())
        for r in rows
        if r["task"] == "native" and r["status"] == "ok"
    }
    expected = [r for r in truth if r["family"] == "pptx" and r["task"] == "ocr"]

    assert expected
    for page in expected:
        found = native[Path(page["uri"]).name, page["segment_index"]]
        words = set(page["expected_text"].split()) - {"-"}  # the truth marks bullets
        assert words <= set(found.split()), page["uri"]


def test_duckdb_polars_and_pandas_read_the_same_rows(
    demo: Path, rows: list[dict[str, Any]]
) -> None:
    pattern = f"{demo}/output/annotations/**/*.parquet"

    in_duckdb = duckdb.execute(
        "SELECT task, status, count(*) FROM read_parquet(?, hive_partitioning=true) GROUP BY ALL",
        [pattern],
    ).fetchall()
    in_polars = pl.scan_parquet(pattern, hive_partitioning=True).collect()
    in_pandas = pd.read_parquet(f"{demo}/output/annotations")

    counts = Counter((row["task"], row["status"]) for row in rows)
    assert {(task, status): n for task, status, n in in_duckdb} == counts
    assert Counter(zip(in_polars["task"], in_polars["status"], strict=True)) == counts
    assert Counter(zip(in_pandas["task"], in_pandas["status"], strict=True)) == counts
    assert {str(name) for name in in_polars["fingerprint"]} == {r["fingerprint"] for r in rows}


def test_files_have_the_declared_schema_and_pass_columns_through(demo: Path) -> None:
    for path in (demo / "output" / "annotations").glob("*/*/*.parquet"):
        schema = pq.read_schema(path)
        assert schema.names == [*ANNOTATION.names, "size_bytes"]
        assert schema.field("status").metadata == ANNOTATION.field("status").metadata


def test_documents_hold_whole_decks_and_transcripts(demo: Path) -> None:
    documents = ds.dataset(
        demo / "output" / "documents", format="parquet", partitioning="hive"
    ).to_table()
    by_name = {Path(row["uri"]).name: row for row in documents.to_pylist()}

    assert len(by_name) == pq.read_metadata(demo / "manifest.parquet").num_rows
    deck = by_name["deck_000.pptx"]
    assert deck["markdown"].count("## Page") == deck["num_segments"]
    recording = by_name["recording_000.flac"]
    assert recording["transcript"]
    ends = [span["end_s"] for span in recording["spans"]]
    assert ends == sorted(ends)
    assert recording["duration_s"] == ends[-1]


def test_a_second_time_nothing_is_run(demo: Path) -> None:
    before = sorted((demo / "output").rglob("*"))

    shown = phicorpus("demo", "demo", "--scale", SCALE, cwd=demo.parent)

    assert "Nothing to do" in shown
    assert sorted((demo / "output").rglob("*")) == before
