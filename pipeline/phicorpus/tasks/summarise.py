"""Summarise a passage of text in a few sentences."""

from __future__ import annotations

from phicorpus.tasks.task import Task, parse_text

SUMMARISE = Task(
    name="summarise",
    version=1,
    kinds=frozenset({"passage"}),
    modality="text",
    prompt="Summarize the document in at most three sentences.",
    max_new_tokens=192,
    parse=parse_text,
    may_be_empty=False,
)
