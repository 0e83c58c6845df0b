"""Ask a passage of text whatever the job wants to know."""

from __future__ import annotations

from phicorpus.tasks.task import Task, parse_text

ASK = Task(
    name="ask",
    version=1,
    kinds=frozenset({"passage"}),
    modality="text",
    prompt="",
    max_new_tokens=512,
    parse=parse_text,
)
"""The question is `tasks.ask.prompt` of the job."""
