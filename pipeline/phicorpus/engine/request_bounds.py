"""How long the requests of a job can become, by its config alone. No torch."""

from __future__ import annotations

from phicorpus.config import RunConfig
from phicorpus.models.model import Modality
from phicorpus.tasks import TASKS
from phicorpus.tasks.question import Question, about_text, questions

_FORMAT_TOKENS = 32  # of the chat format: roles, ends, line breaks


def longest_request(modality: Modality, config: RunConfig, segment_rows: int) -> tuple[int, str]:
    """Bound prompt and answer of what a job asks of one modality.

    A text of n bytes is counted as n tokens: of some languages it has as many.

    Args:
        modality: Whose tasks.
        config: The job's.
        segment_rows: Most feature rows of an image or window; 0 for texts.

    Returns:
        (tokens, task): the bound, and the task that has it; (0, "") if there is none.
    """
    bounds = {
        name: _bound(question, config, segment_rows)
        for name, question in questions(config.tasks, TASKS).items()
        if question.task.modality == modality and question.prompt is not None
    }
    longest = max(bounds, key=lambda name: bounds[name], default="")
    return bounds.get(longest, 0), longest


def _bound(question: Question, config: RunConfig, segment_rows: int) -> int:
    prompt = question.prompt or ""
    if question.task.modality == "text":
        asked = config.texts.max_passage_bytes + len(about_text("", prompt).encode())
    else:
        asked = segment_rows + len(prompt.encode())
    return asked + _FORMAT_TOKENS + question.max_new_tokens
