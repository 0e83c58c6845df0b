"""The fingerprint: a hash of everything that can change a task's answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from phicorpus.config import RunConfig
from phicorpus.media.kinds import KINDS
from phicorpus.tasks.native import NATIVE
from phicorpus.tasks.question import Question

ANSWERS_VERSION = 1
"""Raised by hand when a change of this software changes answers beyond what is listed here."""


def fingerprint(question: Question, kind: str, config: RunConfig, model_identity: str) -> str:
    """Compute the fingerprint of one task's answers about one kind of asset.

    Limits are left out: they decide what is an error, not what an answer is. So are device and
    batch settings, which must not change answers.

    Returns:
        "f" and 11 hex digits. The letter keeps readers of Hive partitions from taking it for a
        number.
    """
    return digest(answer_settings(question, kind, config, model_identity))


def answer_settings(
    question: Question, kind: str, config: RunConfig, model_identity: str
) -> dict[str, Any]:
    """Return what a fingerprint is the hash of: everything that can change an answer."""
    entry = KINDS[kind]
    rendering = entry.rendering(config)
    asks_model = question.prompt is not None
    if entry.answers_itself(config) and question.task.read_native:
        rendering["native_version"] = NATIVE.version  # the file itself may answer
    again = {"generation": config.generation} if config.generation else {}
    return {
        **again,
        "answers_version": ANSWERS_VERSION,
        "task": question.task.name,
        "task_version": question.task.version,
        "prompt": question.prompt,
        "max_new_tokens": question.max_new_tokens,
        "temperature": question.temperature,
        "seed": question.seed,
        **({"json_schema": schema} if (schema := question.task.json_schema) else {}),
        "retry": question.retry.model_dump(mode="json") if asks_model else None,
        "model": model_identity if asks_model else None,
        "rendering": rendering if asks_model else None,
        "kind": kind,
    }


def combined(fingerprints: Iterable[str]) -> str:
    """Compute the fingerprint of what is assembled from several tasks' answers.

    Example:
        >>> combined(["f1", "f2"]) == combined(["f2", "f1"])
        True
    """
    return digest(sorted(fingerprints))


def digest(value: object) -> str:
    """Name a value that JSON can hold."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return "f" + hashlib.blake2b(text.encode(), digest_size=8).hexdigest()[:11]
