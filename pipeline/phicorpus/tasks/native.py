"""Publish what a deck's own file says of a page: text, notes, tables, charts. No model is asked."""

from __future__ import annotations

import json

from phicorpus.media.segment import Native
from phicorpus.tasks import page_text
from phicorpus.tasks.task import Answer, Task, parse_text


def read_native(native: Native) -> Answer | None:
    """Return the page's text, tables and charts as text, and all that is native as the value."""
    parts = page_text.parts(native)
    return Answer(
        text="\n\n".join(parts),
        value=json.loads(native.to_json()),
        flags=() if parts else ("empty",),
    )


NATIVE = Task(
    name="native",
    version=2,
    kinds=frozenset({"page"}),
    modality="vision",
    prompt=None,
    max_new_tokens=0,
    parse=parse_text,
    read_native=read_native,
)
