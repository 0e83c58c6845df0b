"""How long the requests of a job can become, by its config alone. No torch."""

from __future__ import annotations

import math

from phicorpus.config import RunConfig
from phicorpus.models.model import Modality
from phicorpus.models.phi4_multimodal import audio
from phicorpus.models.preparation import Preparation
from phicorpus.tasks import TASKS
from phicorpus.tasks.question import Question, about_text, questions

_FORMAT_TOKENS = 32  # of the chat format: roles, ends, line breaks


def longest_request(
    modality: Modality, config: RunConfig, preparation: Preparation | None
) -> tuple[int, str]:
    """Bound prompt and answer of what a job asks of one modality.

    A text of n bytes is counted as n tokens: of some languages it has as many.

    Args:
        modality: Whose tasks.
        config: The job's.
        preparation: Of images, as the job wants them; None where there are none.

    Returns:
        (tokens, task): the bound, and the task that has it; (0, "") if there is none.
    """
    bounds = {
        name: _bound(question, config, preparation)
        for name, question in questions(config.tasks, TASKS).items()
        if question.task.modality == modality and question.prompt is not None
    }
    longest = max(bounds, key=lambda name: bounds[name], default="")
    return bounds.get(longest, 0), longest


def _bound(question: Question, config: RunConfig, preparation: Preparation | None) -> int:
    prompt = question.prompt or ""
    if question.task.modality == "text":
        asked = config.texts.max_passage_bytes + len(about_text("", prompt).encode())
    elif question.task.modality == "speech":
        samples = math.ceil(config.audio.max_window_s * audio.RATE_HZ)
        asked = audio.num_rows(samples) + len(prompt.encode())
    else:
        asked = (preparation.most_rows if preparation else 0) + len(prompt.encode())
    return asked + _FORMAT_TOKENS + question.max_new_tokens
