"""A text asset through the stages, to a small real model."""

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa

from phicorpus.config import DecodeConfig, FetchConfig, TextConfig, parse_config
from phicorpus.engine.backend import phi_backend
from phicorpus.schemas import ASSET
from phicorpus.stages.decode import decode
from phicorpus.stages.fetch import fetch
from phicorpus.stages.infer import Infer
from phicorpus.tasks import TASKS
from phicorpus.tasks.question import questions

CUT = DecodeConfig(texts=TextConfig(max_passage_bytes=64))


def test_passages_of_a_text_are_answered_by_a_model(tiny_folder: Path) -> None:
    job = {"manifest": "m", "output": "o", "model": str(tiny_folder)}
    tasks = {"ask": {"prompt": "Who?", "max_new_tokens": 4}, "summarise": {"max_new_tokens": 4}}
    config = parse_config(job | {"tasks": tasks, "engine": {"max_batch_tokens": 64}})
    backend = phi_backend(config)
    text = "The first paragraph.<|end|>\n\n" * 5
    asset = {"unit_id": "u", "asset_id": "a", "uri": "held", "tasks": list(tasks)}
    asset |= {"text": text, "media_type": "text/plain"}
    assets = pa.Table.from_pylist([asset], schema=ASSET)

    fetched = pa.concat_tables(fetch(assets, config=FetchConfig()))
    segments = pa.concat_tables(decode(fetched, config=CUT, preparation=None))
    stage = Infer(lambda: backend.load("text").engine, questions(config.tasks, TASKS))

    async def replies() -> list[dict[str, Any]]:
        return [row async for table in stage(segments) for row in table.to_pylist()]

    rows = asyncio.run(replies())
    assert len(rows) == 2 * segments.num_rows == 6
    assert {row["status"] for row in rows} == {"ok"}
    assert {(row["start_char"], row["end_char"]) for row in rows} == {
        (0, 58),
        (58, 116),
        (116, 145),
    }
    assert all(
        0 < row["completion_tokens"] <= 4 for row in rows if row["finish_reason"] == "length"
    )
