"""A task as one job asks it: the task, with the config's settings in place of its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config import RetryConfig, TaskConfig
from pipeline.errors import ConfigError
from pipeline.tasks.task import Task


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
        ConfigError: the config names a task that does not exist, or sets the prompt of one that
            asks no model.
    """
    asked: dict[str, Question] = {}
    for name, settings in config.items():
        task = tasks.get(name)
        if task is None:
            raise ConfigError(f"tasks: there is no task {name!r}; there are {sorted(tasks)}")
        if settings.prompt is not None and task.prompt is None:
            raise ConfigError(f"tasks.{name}.prompt: this task asks no model")
        asked[name] = Question(
            task=task,
            prompt=settings.prompt or task.prompt,
            max_new_tokens=settings.max_new_tokens or task.max_new_tokens,
            temperature=settings.temperature,
            seed=settings.seed,
            retry=settings.retry,
        )
    return asked
