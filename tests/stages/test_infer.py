import asyncio
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from phicorpus.config import TaskConfig
from phicorpus.engine.engine import Request
from phicorpus.engine.scripted import Script, ScriptedEngine
from phicorpus.errors import EngineDied
from phicorpus.media.segment import Chart, Native
from phicorpus.models.model import Canvas, Clip
from phicorpus.schemas import REPLY
from phicorpus.stages.infer import Infer
from phicorpus.tasks import TASKS
from phicorpus.tasks.question import questions
from tests.builders import a_segment, segments

ASKED = questions(
    {name: TaskConfig(prompt="Why?" if name == "ask" else None) for name in TASKS},
    TASKS,
)


def answered(*rows: dict[str, Any], **script: Any) -> list[dict[str, Any]]:
    async def run() -> list[pa.Table]:
        stage = Infer(lambda: ScriptedEngine(Script(**script)), ASKED)
        return [table async for table in stage(segments(*rows))]

    tables = asyncio.run(run())
    assert all(table.schema == REPLY for table in tables)
    replies = pa.concat_tables(tables).to_pylist()
    return sorted(replies, key=lambda row: (row["segment_index"], row["task"]))


def test_every_task_of_a_segment_is_one_reply() -> None:
    rows = answered(a_segment(tasks=["ocr", "caption"]), answer={"sentence": "a cat", "": "words"})

    assert [(row["task"], row["text"]) for row in rows] == [("caption", "a cat"), ("ocr", "words")]
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["source"] for row in rows} == {"model"}


def test_one_bad_request_does_not_lose_the_batch() -> None:
    rows = answered(
        a_segment(segment_index=0),
        a_segment(segment_index=1, asset_id="bad", sha256="bad"),
        a_segment(segment_index=2),
        fail_when=("bad",),
    )

    assert [row["status"] for row in rows] == ["ok", "error", "ok"]
    assert rows[1]["error_type"] == "InferError"
    assert rows[1]["error_stage"] == "infer"


def test_a_row_with_an_error_is_not_asked_and_answers_for_every_task() -> None:
    broken = a_segment(
        tasks=["ocr", "caption"], error_type="DecodeError", error_message="torn", data=None
    )

    rows = answered(broken)

    assert [row["status"] for row in rows] == ["error", "error"]
    assert [row["error_message"] for row in rows] == ["torn", "torn"]
    assert [row["prompt_tokens"] for row in rows] == [None, None]


def test_silence_is_skipped_with_its_reason() -> None:
    silence = a_segment(
        tasks=["transcribe"], segment_kind="window", data=None, skip_reason="no_speech"
    )

    (row,) = answered(silence)

    assert (row["status"], row["skip_reason"]) == ("skipped", "no_speech")


def test_a_page_without_pixels_is_answered_by_its_own_file_where_it_can() -> None:
    chart = Chart(kind="bar", title=None, categories=("x",), series=(("s", (1.5,)),))
    native = Native(title="Sales", text=("up",), charts=(chart,))
    page = a_segment(
        tasks=["ocr", "chart", "caption", "native"],
        segment_kind="page",
        data=None,
        native=native.to_json(),
        skip_reason="not_rendered",
    )

    caption, charts, whole, ocr = answered(page)

    assert (ocr["text"], ocr["source"], ocr["skip_reason"]) == ("Sales\n\nup", "native", None)
    assert json.loads(charts["answer"])["charts"][0]["rows"] == [["x", "1.5"]]
    assert Native.from_json(whole["answer"]) == native
    assert (caption["status"], caption["skip_reason"]) == ("skipped", "not_rendered")


def test_native_content_does_not_replace_the_model_where_there_are_pixels() -> None:
    page = a_segment(segment_kind="page", native=Native(text=("own text",)).to_json())

    (row,) = answered(page, answer="model text")

    assert (row["text"], row["source"]) == ("model text", "model")


def test_a_page_whose_picture_failed_keeps_what_its_file_says() -> None:
    native = Native(title="Sales", text=("up",))
    page = a_segment(
        tasks=["ocr", "caption", "native"],
        segment_kind="page",
        data=None,
        native=native.to_json(),
        error_stage="decode",
        error_type="RenderError",
        error_message="no PDF",
    )

    caption, whole, ocr = answered(page)

    for row in (caption, ocr):
        assert (row["status"], row["error_type"]) == ("error", "RenderError")
    assert (whole["status"], whole["text"], whole["source"]) == ("ok", "Sales\n\nup", "native")
    assert (whole["error_stage"], whole["error_type"], whole["error_message"]) == (None,) * 3


def test_a_slide_that_cannot_be_read_is_an_error_of_the_task_that_reads_it() -> None:
    page = a_segment(
        tasks=["ocr", "native"],
        segment_kind="page",
        native_error="slide 2 is unreadable: the file has no part ppt/slides/slide2.xml",
        flags=["native_unreadable"],
    )

    own, ocr = answered(page, answer="model text")

    assert (ocr["status"], ocr["text"], ocr["flags"]) == ("ok", "model text", ["native_unreadable"])
    assert (own["status"], own["error_stage"], own["error_type"]) == (
        *("error", "decode", "DecodeError"),
    )
    assert own["error_message"].startswith("slide 2 is unreadable")


def test_the_engine_is_given_the_segments_pixels_and_samples() -> None:
    seen: list[Request] = []
    pixels = np.arange(56 * 56 * 3, dtype=np.uint8).reshape(56, 56, 3)
    samples = np.linspace(-1, 1, 100, dtype=np.float32)

    def answer(request: Request) -> str:
        seen.append(request)
        return ""

    answered(a_segment(data=pixels.tobytes()), answer=answer)
    answered(
        a_segment(
            tasks=["transcribe"], segment_kind="window", data=samples.tobytes(), rate_hz=8000
        ),
        answer=answer,
    )
    features = np.ones((98, 80), np.float32)
    answered(
        a_segment(
            tasks=["transcribe"],
            segment_kind="window",
            data=features.tobytes(),
            rate_hz=8000,
            feature_size=80,
        ),
        answer=answer,
    )

    canvas, clip, prepared = (request.turns[0].content[0] for request in seen)
    assert isinstance(prepared, Clip)
    assert prepared.features is not None
    assert np.array_equal(prepared.features, features)
    assert isinstance(canvas, Canvas)
    assert np.array_equal(canvas.pixels, pixels)
    assert isinstance(clip, Clip)
    assert np.array_equal(clip.samples, samples)
    assert clip.rate_hz == 8000
    assert seen[0].turns[0].content[1] == TASKS["ocr"].prompt


def test_an_empty_answer_is_flagged_and_the_segments_own_flags_stay() -> None:
    (row,) = answered(a_segment(flags=["animation"]), answer=" ")

    assert row["flags"] == ["animation", "empty"]


def test_a_cancelled_request_is_a_named_error_row_and_hurts_no_other() -> None:
    engine = ScriptedEngine(Script(answer="words", hang_when=("slow",)))
    rows = segments(a_segment(), a_segment(segment_index=1, asset_id="slow", sha256="slow"))

    async def collect() -> list[pa.Table]:
        return [table async for table in Infer(lambda: engine, ASKED)(rows)]

    async def run() -> list[pa.Table]:
        collecting = asyncio.create_task(collect())
        while not engine.cancel("slow/1/ocr"):
            await asyncio.sleep(0.01)
        return await collecting

    replies = pa.concat_tables(asyncio.run(run())).to_pylist()
    fine, cancelled = sorted(replies, key=lambda row: row["segment_index"])

    assert (fine["status"], fine["text"]) == ("ok", "words")
    assert (cancelled["status"], cancelled["text"]) == ("error", None)
    assert (cancelled["error_stage"], cancelled["error_type"]) == ("infer", "Cancelled")
    assert "slow/1/ocr: cancelled after 0 of at most" in cancelled["error_message"]


def test_a_dead_engine_ends_the_stage() -> None:
    with pytest.raises(EngineDied):
        answered(a_segment(), die_when=("",))


def test_what_stays_no_answer_is_kept_and_told_with_the_number_of_attempts() -> None:
    (row,) = answered(a_segment(tasks=["caption"]), answer="  ")

    assert (row["status"], row["attempts"]) == ("ok", 3)
    assert row["flags"] == ["empty", "degenerate"]


def test_an_answer_that_comes_at_a_further_attempt_is_an_ordinary_one() -> None:
    def answer(request: Request) -> str:
        return "a cat" if request.temperature > 0.5 else ""

    (row,) = answered(a_segment(tasks=["caption"]), answer=answer)

    assert (row["text"], row["attempts"], row["flags"]) == ("a cat", 3, [])


def test_a_passage_and_its_question_are_one_text() -> None:
    passage = {"segment_kind": "passage", "data": "D\xe9j\xe0 vu.\n".encode()}

    (row,) = answered(a_segment(tasks=["ask"], **passage), answer=_prompt_of)

    assert row["text"] == "<document>\nD\xe9j\xe0 vu.\n</document>\n\nWhy?"


def _prompt_of(request: Request) -> str:
    (content,) = request.turns[0].content
    return str(content)
