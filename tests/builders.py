"""Builders with good defaults: a test names only what it is about."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image, ImageDraw

from phicorpus.commands.annotate import Execution, publication, record
from phicorpus.commands.prepare import Prepared, prepare
from phicorpus.config import RunConfig, parse_config
from phicorpus.engine.backend import Backend, scripted_backend
from phicorpus.engine.loaded import LoadedReplica
from phicorpus.engine.scripted import Script
from phicorpus.engine.slots import ReplicaSlots
from phicorpus.errors import CheckpointError, FetchError
from phicorpus.manifest.units import FileShare, Unit
from phicorpus.models.model import Modality
from phicorpus.models.phi4_multimodal.image import ImagePreparation
from phicorpus.output.runs import write_start
from phicorpus.output.write import RunPublisher
from phicorpus.schemas import REPLY, SEGMENT
from phicorpus.schemas.error import error_columns
from phicorpus.schemas.paths import TableKey, annotations_of, documents_of
from phicorpus.schemas.segment import FETCHED
from phicorpus.stages.assemble import assemble
from phicorpus.stages.commit import Commit

PREPARATION = ImagePreparation(crop_size_px=56, patch_size_px=14, max_crops=4)


def an_image(text: str = "hello", size: tuple[int, int] = (80, 60), fmt: str = "PNG") -> bytes:
    picture = Image.new("RGB", size, "white")
    ImageDraw.Draw(picture).text((5, 5), text, fill="black")
    file = io.BytesIO()
    picture.save(file, format=fmt)
    return file.getvalue()


def a_pdf(num_pages: int = 2) -> bytes:
    pages = [Image.new("RGB", (200, 150), (250, 250 - 20 * i, 250)) for i in range(num_pages)]
    file = io.BytesIO()
    pages[0].save(file, format="PDF", save_all=True, append_images=pages[1:])
    return file.getvalue()


def a_tone(seconds: float = 2.0, rate_hz: int = 16_000) -> bytes:
    time_s = np.arange(int(seconds * rate_hz)) / rate_hz
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 220 * time_s), rate_hz, format="WAV")
    return file.getvalue()


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_manifest(
    path: Path, rows: Sequence[Mapping[str, Any]], texts: Sequence[str] = ()
) -> Path:
    """Write a manifest; `texts` are columns of text, whatever the rows hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, pa.string()) for name in texts]) if texts else None
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), path)
    return path


def a_corpus(folder: Path, num_images: int = 5) -> Path:
    """Some images, a PDF deck, a recording and a broken image; gives the manifest's path."""
    files = {f"image{i}.png": an_image(f"image {i}") for i in range(num_images)}
    files |= {"deck.pdf": a_pdf(3), "tone.wav": a_tone(), "broken.png": an_image()[:60]}
    write_files(folder, files)
    rows = [{"uri": name, "owner": f"team {len(name)}"} for name in files]
    return write_manifest(folder / "manifest.parquet", rows)


def a_config(folder: Path, **settings: Any) -> RunConfig:
    """A job over `folder`'s manifest, with small units and every task."""
    values: dict[str, Any] = {
        "manifest": str(folder / "manifest.parquet"),
        "output": str(folder / "output"),
        "model": "scripted",
        "tasks": ["ocr", "caption", "transcribe", "native"],
        "units": {"image": 2, "deck": 1, "audio": 1},
        "audio": {"vad": False},
        "cluster": {"cpus_per_replica": 0.25},
    }
    return parse_config(values | settings)


def a_backend(**script: Any) -> Backend:
    return scripted_backend(Script(**script), PREPARATION)


def a_backend_that_does_not_load() -> Backend:
    return replace(a_backend(), load=_does_not_load)


def _does_not_load(modality: Modality, _slots: ReplicaSlots | None = None) -> LoadedReplica:
    raise CheckpointError(f"no weights for {modality}")


def fetched(**columns: Any) -> pa.Table:
    row = {"unit_id": "u", "asset_id": "a", "uri": "/a.png", "tasks": ["ocr"]} | columns
    return pa.Table.from_pylist([row], schema=FETCHED)


def a_segment(**columns: Any) -> dict[str, Any]:
    pixels = np.zeros((56, 56, 3), np.uint8)
    return {
        "unit_id": "u",
        "asset_id": "a",
        "uri": "/a.png",
        "sha256": "0" * 64,
        "tasks": ["ocr"],
        "segment_index": 0,
        "segment_count": 1,
        "segment_kind": "image",
        "data": pixels.tobytes(),
        "width_px": 56,
        "height_px": 56,
        "valid_width_px": 56,
        "valid_height_px": 56,
    } | columns


def segments(*rows: Mapping[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([dict(row) for row in rows], schema=SEGMENT)


def a_reply(**columns: Any) -> dict[str, Any]:
    return {
        "unit_id": "u",
        "asset_id": "a",
        "uri": "/a.png",
        "task": "ocr",
        "segment_index": 0,
        "segment_count": 1,
        "segment_kind": "image",
        "status": "ok",
        "source": "model",
        "text": "text",
        "prompt_tokens": 10,
        "completion_tokens": 2,
    } | columns


def replies(*rows: Mapping[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([dict(row) for row in rows], schema=REPLY)


def annotation_rows(output: Path) -> list[dict[str, Any]]:
    """Every annotation of an output, `task` and `fingerprint` from the path, in key order."""
    rows: list[dict[str, Any]] = []
    for path in sorted(output.glob("annotations/task=*/fingerprint=*/*.parquet")):
        task, fingerprint = (part.split("=")[1] for part in path.parts[-3:-1])
        table = pq.ParquetFile(path).read().to_pylist()
        rows += [{**row, "task": task, "fingerprint": fingerprint} for row in table]
    return sorted(rows, key=lambda row: (row["asset_id"], row["segment_index"], row["task"]))


def a_unit_of(
    rows: pa.Table,
    asked: Mapping[str, tuple[str, ...]],
    *,
    unit_id: str = "u",
    committed: Collection[str] = (),
    documents: bool = True,
) -> Unit:
    """A unit whose files are named by it."""
    assets: dict[TableKey, tuple[str, ...]] = {
        annotations_of(task, f"f-{task}"): tuple(a for a, names in asked.items() if task in names)
        for task in sorted({task for names in asked.values() for task in names})
    }
    assets |= {documents_of("f-doc"): tuple(asked)} if documents else {}
    shares = {table: FileShare(file_id=unit_id, assets=names) for table, names in assets.items()}
    return Unit(
        unit_id=unit_id,
        kind="image",
        rows=rows,
        asked=asked,
        todo={table: share for table, share in shares.items() if table.task not in committed},
        done={table: (share,) for table, share in shares.items() if table.task in committed},
    )


def an_execution(run_id: str, job: Prepared, commit: Commit) -> Execution:
    return Execution(run_id=run_id, started=datetime.now(UTC), work=job.plan, commit=commit)


def a_finished_output(folder: Path, num_images: int, failed: Sequence[str] = ()) -> Path:
    """An output as a run leaves it, made by the commit stage alone, without Ray or a model."""
    config = a_config(folder, tasks=["ocr", "caption"])
    write_manifest(
        folder / "manifest.parquet",
        [{"uri": f"/{i}.png", "asset_id": str(i)} for i in range(num_images)],
    )
    job = prepare(config, a_backend())
    commit = Commit(RunPublisher(job.plan.output, publication(job, "run-1")), assemble)
    write_start(job.store, record(job, an_execution("run-1", job, commit), "running"))
    for unit in job.plan.units():
        commit.expect(unit)
        for asset_id, tasks in unit.asked.items():
            for task in tasks:
                bad = {"status": "error", "text": None} | error_columns(FetchError("gone"))
                row = a_reply(unit_id=unit.unit_id, asset_id=asset_id, task=task)
                commit.add(replies(row | bad if asset_id in failed else row))
    return Path(config.output)
