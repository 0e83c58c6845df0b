"""infer: segments to replies, with one model replica."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from phicorpus.engine import fallback
from phicorpus.engine.engine import Engine, Guide, Request
from phicorpus.engine.fallback import Reply
from phicorpus.errors import DecodeError, EngineDied, SegmentError
from phicorpus.media.kinds import KIND_OF_SEGMENT
from phicorpus.media.segment import Native
from phicorpus.models.model import Canvas, Clip, Turn
from phicorpus.schemas import REPLY
from phicorpus.schemas.error import error_columns
from phicorpus.tasks.question import Question, about_text
from phicorpus.tasks.task import Answer

_ROWS_AT_ONCE = 16
_NO_ERROR = dict.fromkeys(("error_stage", "error_type", "error_message"))
_KEPT = [name for name in REPLY.names if name != "task"]


class Infer:
    """Ask the model every pending question about each segment (one actor, one replica).

    Reads   SEGMENT. Rows that carry an error or a reason to skip are not asked; what their file
            says of them stands.
    Writes  REPLY, in the order in which they finish.
    Rows    1 -> n, one per task of the row.
    Raises  EngineDied: the replica is lost, and with it what it had in flight.
    """

    def __init__(
        self, load: Callable[[], Engine] | None, questions: Mapping[str, Question]
    ) -> None:
        """Load the model.

        Args:
            load: Gives a started engine; None when no task of this flow asks a model.
            questions: What is asked, by task name.
        """
        self._engine = load() if load else None
        self._questions = questions

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        asked = [
            asyncio.ensure_future(self._reply(segment, task))
            for segment in _segments(batch)
            for task in segment["tasks"]
        ]
        rows: list[dict[str, Any]] = []
        try:
            for reply in asyncio.as_completed(asked):
                rows.append(await reply)
                if len(rows) == _ROWS_AT_ONCE:
                    yield pa.Table.from_pylist(rows, schema=REPLY)
                    rows = []
            yield pa.Table.from_pylist(rows, schema=REPLY)
        finally:
            for request in asked:
                request.cancel()

    async def _reply(self, segment: dict[str, Any], task: str) -> dict[str, Any]:
        row = {name: segment.get(name) for name in _KEPT} | {"task": task}
        question = self._questions[task]
        is_answered_by_file = question.prompt is None and segment["native"] is not None
        if segment["error_type"] is not None and not is_answered_by_file:
            return row | {"status": "error"}
        try:
            return row | _NO_ERROR | await self._answered(segment, question)
        except SegmentError as error:
            return row | {"status": "error"} | error_columns(error)

    async def _answered(self, segment: dict[str, Any], question: Question) -> dict[str, Any]:
        native = _native_answer(segment, question)
        if question.prompt is None or (native and segment["skip_reason"] == "not_rendered"):
            if native is None and segment["native_error"] is not None:
                raise DecodeError(segment["native_error"])
            if native is None:
                return {"status": "skipped", "skip_reason": "no_native_content"}
            return _ok(segment, native) | {"source": "native", "skip_reason": None}
        if segment["skip_reason"] is not None:
            return {"status": "skipped"}
        if self._engine is None:
            raise EngineDied(f"task {question.task.name} asks a model, and none was loaded")
        request = _request(segment, question, question.prompt)
        reply = await fallback.ask(self._engine, request, question)
        return _ok(segment, reply.answer) | _figures(segment, reply)


def _segments(batch: pa.Table) -> list[dict[str, Any]]:
    """Rows as dictionaries, their bytes as views of the Arrow buffer rather than copies."""
    rows: list[dict[str, Any]] = batch.drop_columns(["data"]).to_pylist()
    for row, data in zip(rows, batch["data"], strict=True):
        row["data"] = data.as_buffer() if data.is_valid else None
    return rows


def _native_answer(segment: dict[str, Any], question: Question) -> Answer | None:
    read_native = question.task.read_native
    if read_native is None or segment["native"] is None:
        return None
    return read_native(Native.from_json(segment["native"]))


def _request(segment: dict[str, Any], question: Question, prompt: str) -> Request:
    schema = question.task.json_schema
    return Request(
        request_id=f"{segment['asset_id']}/{segment['segment_index']}/{question.task.name}",
        turns=(Turn("user", _content(segment, prompt)),),
        max_new_tokens=question.max_new_tokens,
        temperature=question.temperature,
        seed=question.seed,
        guide=None if schema is None else Guide(json_schema=schema),
    )


def _content(segment: dict[str, Any], prompt: str) -> tuple[str | Canvas | Clip, ...]:
    if KIND_OF_SEGMENT[segment["segment_kind"]].modality == "text":
        return (about_text(segment["data"].to_pybytes().decode(), prompt),)
    return (_media(segment), prompt)


def _media(segment: dict[str, Any]) -> Canvas | Clip:
    key = f"{segment['sha256']}/{segment['segment_index']}"
    if KIND_OF_SEGMENT[segment["segment_kind"]].modality == "speech":
        numbers, size = np.frombuffer(segment["data"], np.float32), segment["feature_size"]
        if size is None:
            return Clip(samples=numbers, key=key, rate_hz=segment["rate_hz"])
        features = numbers.reshape(-1, size)
        return Clip(samples=numbers[:0], features=features, key=key, rate_hz=segment["rate_hz"])
    pixels = np.frombuffer(segment["data"], np.uint8)
    return Canvas(
        pixels=pixels.reshape(segment["height_px"], segment["width_px"], 3),
        valid_width_px=segment["valid_width_px"],
        valid_height_px=segment["valid_height_px"],
        key=key,
    )


def _ok(segment: dict[str, Any], answer: Answer) -> dict[str, Any]:
    value = None if answer.value is None else json.dumps(answer.value, ensure_ascii=False)
    flags = [*(segment["flags"] or ()), *answer.flags]
    return {"status": "ok", "text": answer.text, "answer": value, "flags": flags}


def _figures(segment: dict[str, Any], reply: Reply) -> dict[str, Any]:
    completion = reply.completion
    cut = {"length": "cut_at_max_new_tokens", "loop": "loop", "deadline": "deadline"}
    why = [cut[completion.finish_reason]] if completion.finish_reason in cut else []
    degenerate = ["degenerate"] if reply.is_degenerate else []
    return {
        "source": "model",
        "flags": [*(segment["flags"] or ()), *reply.answer.flags, *why, *degenerate],
        "attempts": reply.attempts,
        "finish_reason": completion.finish_reason,
        "mean_logprob": completion.mean_logprob,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": len(completion.token_ids),
        "regime": completion.regime,
    }
