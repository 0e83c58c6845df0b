"""The golden job: the demo's corpus and two texts, answered by a script, told as plain values."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from phicorpus.commands.annotate import RunReport, annotate
from phicorpus.commands.status import status
from phicorpus.commands.verify import verify
from phicorpus.config import RunConfig, parse_config
from phicorpus.demo.corpus import write_corpus
from phicorpus.engine.engine import Request
from phicorpus.models.model import Canvas, Clip
from phicorpus.storage.store import open_store
from tests.baseline.rows import Row, rows_of
from tests.builders import a_backend, write_manifest

GOLDEN = Path(__file__).parent / "golden"
SCALE = 0.15

_TEXTS = {"long": "A paragraph of some words.\n\n" * 500, "short": "Who wrote this? Ada."}

_LEFT_OUT_OF_THE_RUN = (
    *("run_id", "started_at", "ended_at", "elapsed_s", "rows_per_s"),  # other in every run
    *("engine", "replicas"),  # seconds, and the machine
    *("num_delivered_again", "num_kept"),  # of a worker that Ray started anew
)


def golden_config(folder: Path) -> RunConfig:
    """Return the job: every task, small units; decks of PPTX from their own text.

    It needs no LibreOffice, and no cut of a recording depends on what a network makes of silence.
    """
    return parse_config(
        {
            "manifest": str(folder / "manifest.parquet"),
            "output": str(folder / "output"),
            "model": "scripted",
            "tasks": {
                **{name: {} for name in ("ocr", "caption", "chart", "transcribe", "native")},
                "summarise": {},
                "ask": {"prompt": "Who wrote it?"},
            },
            "units": {"image": 4, "deck": 2, "audio": 2, "text": 2},
            "audio": {"vad": False, "min_window_s": 2.5, "max_window_s": 6},
            "decks": {"render": "native", "dpi": 75},
            "cluster": {"cpus_per_replica": 0.25},
        }
    )


def run_golden_job(folder: Path) -> tuple[dict[str, Row], dict[str, Any]]:
    """Run the job in an empty folder; a Ray cluster is there.

    Returns:
        The rows of its output by name, and what the run and its readers said.
    """
    write_corpus(folder / "corpus", scale=SCALE)
    write_manifest(
        folder / "manifest.parquet", list(_assets(folder)), texts=("uri", "owner", "text")
    )
    config = golden_config(folder)
    report = annotate(config, backend=a_backend(answer=answer_of))
    rows = rows_of(folder / "output", folder / "corpus")
    return rows, _said(folder / "output", report)


def answer_of(request: Request) -> str:
    """Answer by the segment, the prompt and the size of what is shown; never by its pixels.

    Charts get a table where the asset's number is even, and words where it is not.
    """
    asset_id, _, task = request.request_id.rsplit("/", 2)
    said = f"{request.request_id}, {', '.join(_parts(request))}"
    if task == "chart" and zlib.crc32(asset_id.encode()) % 2 == 0:
        return f"| about | said |\n| --- | --- |\n| {asset_id} | {said} |"
    return f"An answer about {said}"


def _parts(request: Request) -> Iterator[str]:
    for turn in request.turns:
        for part in turn.content:
            if isinstance(part, Canvas):
                height_px, width_px, _ = part.pixels.shape
                valid = f"{part.valid_width_px} x {part.valid_height_px}"
                yield f"{valid} of {width_px} x {height_px} pixels"
            elif isinstance(part, Clip):
                yield f"{len(part.samples)} samples at {part.rate_hz} Hz"
            elif isinstance(part, str):
                yield f"a text of {len(part)} characters and checksum {zlib.crc32(part.encode())}"


def _assets(folder: Path) -> Iterator[Row]:
    uris = {p.relative_to(folder).as_posix() for p in folder.glob("corpus/*/*")}
    for number, uri in enumerate(sorted(uris)):
        yield {"uri": uri, "owner": f"team {number % 3}", "text": None}
    for name, text in _TEXTS.items():
        yield {"uri": f"corpus/{name}", "owner": "the editors", "text": text}


def _said(output: Path, report: RunReport) -> dict[str, Any]:
    store = open_store(str(output))
    verified = verify(store)
    (record,) = (json.loads(path.read_text()) for path in output.glob("runs/*.json"))
    paths = sorted(p.relative_to(output) for p in output.glob("*/**/*.parquet"))
    first = {folder: next(p for p in paths if p.parts[0] == folder)
             for folder in ("annotations", "documents")}  # fmt: skip
    return {
        "files": [path.as_posix() for path in paths],
        "columns": {
            folder: {field.name: str(field.type) for field in pq.read_schema(output / path)}
            for folder, path in first.items()
        },
        "fingerprints": json.loads(record["fingerprints"]),
        "report": _kept(asdict(report)),
        "record": {name: value for name, value in record.items() if name.startswith("num_")},
        "status": _kept(asdict(status(store))),
        "verify": _kept(asdict(verified)) | {"is_right": verified.is_right},
    }


def _kept(said: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what differs from run to run, in mappings below too."""
    return {
        name: _kept(value) if isinstance(value, Mapping) else value
        for name, value in said.items()
        if name not in _LEFT_OUT_OF_THE_RUN
    }
