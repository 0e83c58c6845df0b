"""Describe in a sentence what an image shows."""

from __future__ import annotations

from phicorpus.tasks.task import Task, parse_text

CAPTION = Task(
    name="caption",
    version=1,
    kinds=frozenset({"image", "page"}),
    modality="vision",
    prompt="What is shown in this image? Answer in one sentence.",
    max_new_tokens=96,
    parse=parse_text,
    may_be_empty=False,
    demo_tokens=24,
)
