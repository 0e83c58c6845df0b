"""Describe a picture to someone who cannot see it: an example of a task, in a file of its own."""

from __future__ import annotations

from phicorpus.tasks.task import Task, parse_text

ALT_TEXT = Task(
    name="alt_text",
    version=1,
    kinds=frozenset({"image", "page"}),
    modality="vision",
    prompt="Describe this image to someone who cannot see it.",
    max_new_tokens=128,
    parse=parse_text,
    may_be_empty=False,
    in_document=lambda text: f"> {text}",
    demo_tokens=24,
)
