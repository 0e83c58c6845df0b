"""Publish what a deck's own file says of a page: text, notes, tables, charts. No model is asked."""

from __future__ import annotations

import json
from dataclasses import replace

from pipeline.media.piece import Native
from pipeline.tasks import ocr
from pipeline.tasks.task import Answer, Task, parse_text


def from_native(native: Native) -> Answer | None:
    """Give the page's text as the text, and all of its native content as the value."""
    return replace(ocr.from_native(native), value=json.loads(native.to_json()))


NATIVE = Task(
    name="native",
    version=1,
    kinds=frozenset({"page"}),
    modality="vision",
    prompt=None,
    max_new_tokens=0,
    parse=parse_text,
    from_native=from_native,
)
