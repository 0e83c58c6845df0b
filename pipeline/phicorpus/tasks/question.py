"""A task as one job asks it: the task, with the config's settings in place of its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from phicorpus.config import RetryConfig, TaskConfig
from phicorpus.errors import ConfigError
from phicorpus.tasks.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, and how it is answered."""

    task: Task
    prompt: str | None
    max_new_tokens: int
    temperature: float
    seed: int
    retry: RetryConfig


def questions(
    config: Mapping[str, TaskConfig], tasks: Mapping[str, Task]
) -> Mapping[str, Question]:
    """Put the config's settings over the tasks' own.

    Raises:
        ConfigError: the config names a task that does not exist, sets the prompt of one that
            asks no model, or none for one that has no question of its own, or guides one whose
            answers are free text.
    """
    asked: dict[str, Question] = {}
    for name, settings in config.items():
        task = tasks.get(name)
        if task is None:
            raise ConfigError(f"tasks: there is no task {name!r}; there are {sorted(tasks)}")
        if settings.guide:
            if task.guided is None:
                raise ConfigError(f"tasks.{name}.guide: this task's answers have no form of JSON")
            task = task.guided
        if settings.prompt is not None and task.prompt is None:
            raise ConfigError(f"tasks.{name}.prompt: this task asks no model")
        prompt = settings.prompt or task.prompt
        if prompt == "":
            raise ConfigError(f"tasks.{name}.prompt: say what to ask; this task has no question")
        asked[name] = Question(
            task=task,
            prompt=prompt,
            max_new_tokens=settings.max_new_tokens or task.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed,
            retry=settings.retry,
        )
    return asked


def about_text(passage: str, prompt: str) -> str:
    r"""Put a passage and the question about it into one text, so that each is known as what it is.

    The passage comes first: questions about the same one share its place in the KV cache.

    Example:
        >>> about_text("Sales rose.", "Did they?")
        '<document>\nSales rose.\n</document>\n\nDid they?'
    """
    return f"<document>\n{passage.strip()}\n</document>\n\n{prompt}"
