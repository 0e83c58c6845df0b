"""The fingerprint: a hash of everything that can change a task's answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from phicorpus.config import RunConfig
from phicorpus.tasks.native import NATIVE
from phicorpus.tasks.question import Question

ANSWERS_VERSION = 1
"""Raised by hand when a change of this software changes answers beyond what is listed here."""

_RENDERING: Mapping[str, tuple[str, frozenset[str]]] = {
    "image": ("images", frozenset({"max_crops"})),
    "deck": ("decks", frozenset({"render", "dpi", "max_side_px"})),
    "audio": (
        "audio",
        frozenset({"channels", "min_window_s", "max_window_s", "vad", "speech_threshold"}),
    ),
    "text": ("texts", frozenset({"max_passage_bytes"})),
}


def fingerprint(question: Question, kind: str, config: RunConfig, model_identity: str) -> str:
    """Name the answers of one task about one kind of asset.

    Limits are left out: they decide what is an error, not what an answer is. So are device and
    batch settings, which must not change answers.

    Returns:
        "f" and 11 hex digits. The letter keeps readers of Hive partitions from taking it for a
        number.
    """
    section, names = _RENDERING[kind]
    rendering: dict[str, Any] = getattr(config, section).model_dump(include=set(names))
    if kind == "deck" and config.images.max_crops is not None:
        rendering["max_crops"] = config.images.max_crops  # a page becomes a canvas as an image does
    asks_model = question.prompt is not None
    if kind == "deck" and config.decks.render == "native" and question.task.from_native:
        rendering["native_version"] = NATIVE.version  # the file itself may answer
    again = {"generation": config.generation} if config.generation else {}
    return _digest(
        {
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
    )


def combined(fingerprints: Iterable[str]) -> str:
    """Name what is assembled from several tasks' answers.

    Example:
        >>> combined(["f1", "f2"]) == combined(["f2", "f1"])
        True
    """
    return _digest(sorted(fingerprints))


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return "f" + hashlib.blake2b(text.encode(), digest_size=8).hexdigest()[:11]
