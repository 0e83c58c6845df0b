"""Paths of the output's files: a path is its key, and its existence is the commit."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PATH = re.compile(
    r"^(?P<folder>annotations|documents)(?:/task=(?P<task>[^/]+))?"
    r"/fingerprint=(?P<fingerprint>[^/]+)/(?P<unit_id>[^/.]+)(?:\.r(?P<round>[1-9]\d*))?\.parquet$"
)


@dataclass(frozen=True, slots=True)
class OutputPath:
    """A path, taken apart."""

    folder: str
    task: str | None
    fingerprint: str
    unit_id: str
    round: int = 0


def annotation_path(task: str, fingerprint: str, unit_id: str, number: int = 0) -> str:
    """Return the path of one unit's annotations of one task, or of a later round of them.

    Example:
        >>> annotation_path("ocr", "f3a", "image-07")
        'annotations/task=ocr/fingerprint=f3a/image-07.parquet'
        >>> annotation_path("ocr", "f3a", "image-07", 2)
        'annotations/task=ocr/fingerprint=f3a/image-07.r2.parquet'
    """
    return f"annotations/task={task}/fingerprint={fingerprint}/{unit_id}{_round(number)}.parquet"


def document_path(fingerprint: str, unit_id: str, number: int = 0) -> str:
    """Return the path of one unit's documents, or of a later round of them.

    Example:
        >>> document_path("f3a", "deck-07")
        'documents/fingerprint=f3a/deck-07.parquet'
    """
    return f"documents/fingerprint={fingerprint}/{unit_id}{_round(number)}.parquet"


def folder_of(folder: str, task: str | None, fingerprint: str) -> str:
    """Return the folder of one fingerprint's files.

    Example:
        >>> folder_of("annotations", "ocr", "f3a"), folder_of("documents", None, "f3a")
        ('annotations/task=ocr/fingerprint=f3a', 'documents/fingerprint=f3a')
    """
    return f"{folder}/{f'task={task}/' if task else ''}fingerprint={fingerprint}"


def path_of(parsed: OutputPath) -> str:
    """Put a path together again.

    Example:
        >>> path_of(OutputPath("annotations", "ocr", "f3a", "image-07", 2))
        'annotations/task=ocr/fingerprint=f3a/image-07.r2.parquet'
    """
    if parsed.task is None:
        return document_path(parsed.fingerprint, parsed.unit_id, parsed.round)
    return annotation_path(parsed.task, parsed.fingerprint, parsed.unit_id, parsed.round)


def _round(number: int) -> str:
    return f".r{number}" if number else ""


def parse_path(path: str) -> OutputPath | None:
    """Take a path of the output apart; None for any other file.

    Example:
        >>> parse_path("documents/fingerprint=f3a/deck-07.parquet").unit_id
        'deck-07'
        >>> parse_path("documents/fingerprint=f3a/deck-07.r2.parquet").round
        2
        >>> parse_path("annotations/readme.txt") is None
        True
    """
    match = _PATH.match(path)
    if match is None:
        return None
    folder, task, fingerprint, unit_id, number = match.groups()
    return OutputPath(folder, task, fingerprint, unit_id, int(number or 0))
