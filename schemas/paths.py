"""Where a file of the output lies: its path is its key, and its existence is the commit."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PATH = re.compile(
    r"^(?P<folder>annotations|documents)(?:/task=(?P<task>[^/]+))?"
    r"/fingerprint=(?P<fingerprint>[^/]+)/(?P<unit_id>[^/.]+)\.parquet$"
)


@dataclass(frozen=True, slots=True)
class OutputPath:
    """A path, taken apart."""

    folder: str
    task: str | None
    fingerprint: str
    unit_id: str


def annotation_path(task: str, fingerprint: str, unit_id: str) -> str:
    """Give the path of one unit's annotations of one task.

    Example:
        >>> annotation_path("ocr", "f3a", "image-07")
        'annotations/task=ocr/fingerprint=f3a/image-07.parquet'
    """
    return f"annotations/task={task}/fingerprint={fingerprint}/{unit_id}.parquet"


def document_path(fingerprint: str, unit_id: str) -> str:
    """Give the path of one unit's documents.

    Example:
        >>> document_path("f3a", "deck-07")
        'documents/fingerprint=f3a/deck-07.parquet'
    """
    return f"documents/fingerprint={fingerprint}/{unit_id}.parquet"


def parse_path(path: str) -> OutputPath | None:
    """Take a path of the output apart; None for any other file.

    Example:
        >>> parse_path("documents/fingerprint=f3a/deck-07.parquet").unit_id
        'deck-07'
        >>> parse_path("annotations/readme.txt") is None
        True
    """
    match = _PATH.match(path)
    return OutputPath(**match.groupdict()) if match else None
