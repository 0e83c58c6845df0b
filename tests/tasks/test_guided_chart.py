"""The chart task held to its JSON Schema, through decoding, a small random model and parsing."""

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from phicorpus.config import DecodeConfig, FetchConfig, RunConfig, TaskConfig, parse_config
from phicorpus.engine.backend import Backend, phi_backend
from phicorpus.errors import AnswerError, ConfigError
from phicorpus.fingerprint import fingerprint
from phicorpus.models.random_checkpoint import write_tiny
from phicorpus.schemas import ASSET
from phicorpus.stages.decode import decode
from phicorpus.stages.fetch import fetch
from phicorpus.stages.infer import Infer
from phicorpus.tasks import TASKS, chart
from phicorpus.tasks.question import questions

pytestmark = pytest.mark.slow

NUM_IMAGES = 6
PLAIN = {"ocr": {"max_new_tokens": 24}, "caption": {"max_new_tokens": 24}}
GUIDED = {"chart": {"guide": True, "max_new_tokens": 8192}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tiny(folder, seed=5)
    return folder


def a_job(model: Path, tasks: dict[str, Any]) -> RunConfig:
    named = {"name": str(model), "device": "cpu"}
    return parse_config({"manifest": "m", "output": "o", "model": named, "tasks": tasks})


def images(folder: Path, tasks: list[str]) -> pa.Table:
    draw = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for index in range(NUM_IMAGES):
        path = folder / f"{index}.png"
        Image.fromarray(draw.integers(0, 256, (40 + index, 60, 3), np.uint8)).save(path)
        asset = {"unit_id": "u", "asset_id": str(index), "media_type": "image/png"}
        rows.append({**asset, "uri": str(path), "tasks": tasks})
    return pa.Table.from_pylist(rows, schema=ASSET)


def annotated(model: Path, folder: Path, tasks: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Run images through the stages; rows by task, in the order of the images."""
    config = a_job(model, tasks)
    backend: Backend = phi_backend(config)
    assets = images(folder, list(tasks))
    fetched = pa.concat_tables(fetch(assets, config=FetchConfig()))
    preparation = backend.preparation
    segments = pa.concat_tables(decode(fetched, config=DecodeConfig(), preparation=preparation))
    stage = Infer(lambda: backend.load("vision").engine, questions(config.tasks, TASKS))

    async def replies() -> list[dict[str, Any]]:
        return [row async for table in stage(segments) for row in table.to_pylist()]

    rows = sorted(asyncio.run(replies()), key=lambda row: row["asset_id"])
    return {task: [row for row in rows if row["task"] == task] for task in tasks}


def test_every_guided_answer_validates_and_its_neighbours_answer_as_without_it(
    model: Path, tmp_path: Path
) -> None:
    together = annotated(model, tmp_path, GUIDED | PLAIN)
    without = annotated(model, tmp_path, PLAIN)

    assert [row["status"] for row in together["chart"]] == ["ok"] * NUM_IMAGES
    for row in together["chart"]:
        (found,) = json.loads(row["answer"])["charts"]
        jsonschema.validate(found, chart.SCHEMA)
        assert row["finish_reason"] == "stop"
    assert len({row["answer"] for row in together["chart"]}) > 1
    for task in PLAIN:
        assert [row["text"] for row in together[task]] == [row["text"] for row in without[task]]
        assert [row["mean_logprob"] for row in together[task]] == pytest.approx(
            [row["mean_logprob"] for row in without[task]], abs=1e-4
        )


def test_a_guide_is_asked_for_and_is_part_of_the_fingerprint(model: Path) -> None:
    plain, guided = (
        questions({"chart": TaskConfig(guide=guide, prompt="Tell.")}, TASKS)["chart"]
        for guide in (False, True)
    )
    config = a_job(model, {"chart": None})

    assert plain.task is TASKS["chart"]
    assert plain.task.json_schema is None
    assert json.loads(guided.task.json_schema or "") == chart.SCHEMA
    names = {fingerprint(each, "image", config, "model") for each in (plain, guided)}
    assert len(names) == 2
    with pytest.raises(ConfigError, match=r"tasks\.ocr\.guide"):
        questions({"ocr": TaskConfig(guide=True)}, TASKS)


def test_an_answer_that_is_cut_off_is_no_answer() -> None:
    with pytest.raises(AnswerError, match="cut off after 12 characters"):
        chart.parse_json('{"title": "Q')
