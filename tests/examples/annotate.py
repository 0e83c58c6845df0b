"""Annotate the files that a manifest names, without Ray, by the package that this is run on.

Prints, per unit: its kind and fingerprint, the answers in order, and the documents' Markdown.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pyarrow as pa

from phicorpus.config import RunConfig, parse_config
from phicorpus.engine.engine import Request
from phicorpus.engine.scripted import Script, ScriptedEngine
from phicorpus.fingerprint import fingerprint
from phicorpus.manifest.build import build
from phicorpus.manifest.manifest import open_manifest
from phicorpus.manifest.units import Cut, Cutter
from phicorpus.media.kinds import KINDS
from phicorpus.schemas import ASSET
from phicorpus.stages.assemble import assemble
from phicorpus.stages.decode import decode
from phicorpus.stages.fetch import fetch
from phicorpus.stages.infer import Infer
from phicorpus.tasks import TASKS, fits
from phicorpus.tasks.question import questions


def repeat(request: Request) -> str:
    """Answer with what is asked."""
    return "; ".join(str(part) for turn in request.turns for part in turn.content)


def annotate(config: RunConfig, cut: Cut) -> dict[str, object]:
    """Run one unit through the stages."""
    asked = questions(config.tasks, TASKS)
    tasks = [name for name in asked if fits(TASKS[name], cut.kind)]
    rows = [
        {**row, "unit_id": cut.unit_id, "tasks": tasks}
        for row in cut.rows.select(
            [n for n in cut.rows.column_names if n in ASSET.names]
        ).to_pylist()
    ]
    fetched = pa.concat_tables(
        fetch(pa.Table.from_pylist(rows, schema=ASSET), config=config.fetching)
    )
    segments = pa.concat_tables(decode(fetched, config=config.decoding, preparation=None))

    async def infer() -> list[dict[str, object]]:
        stage = Infer(lambda: ScriptedEngine(Script(answer=repeat)), asked)
        return [row async for table in stage(segments) for row in table.to_pylist()]

    answered = sorted(asyncio.run(infer()), key=lambda row: str(row["segment_index"]))
    return {
        "kind": cut.kind,
        "fingerprint": fingerprint(asked[tasks[0]], cut.kind, config, "a model"),
        "segment_kinds": [row["segment_kind"] for row in answered],
        "media_types": [row["media_type"] for row in answered],
        "errors": [row["error_message"] for row in answered],
        "texts": [row["text"] for row in answered],
        "markdown": [document["markdown"] for document in assemble(cut.kind, answered)],
    }


def main(folder: str, settings: str) -> None:
    """Annotate a folder's files."""
    manifest = Path(folder, "manifest.parquet")
    build(folder, str(manifest))
    config = parse_config(
        {"manifest": str(manifest), "output": "output", "model": "scripted", **json.loads(settings)}
    )
    parts = open_manifest(str(manifest)).parts()
    cutter = Cutter(config.units, lambda _name: False)
    print(json.dumps([annotate(config, cut) for cut in cutter.cuts(parts, KINDS)]))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
