"""The paths of an output's files: a path is its file's key, and its existence is the commit."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

_PATH = re.compile(
    r"^(?:annotations/task=(?P<task>[^/]+)|documents)"
    r"/fingerprint=(?P<fingerprint>[^/]+)/(?P<file_id>[^/.]+)(?:\.r(?P<round>[1-9]\d*))?\.parquet$"
)


class TableKey(NamedTuple):
    """A table of the output: a task's annotations, or documents, of one fingerprint.

    Attributes:
        name: The table's schema and folder.
        task: None for documents.
        fingerprint: Of the task's answers; of documents, of all of a kind's tasks together.
    """

    name: Literal["annotations", "documents"]
    task: str | None
    fingerprint: str

    @property
    def folder(self) -> str:
        """Its files' folder.

        Example:
            >>> annotations_of("ocr", "f3a").folder, documents_of("f3a").folder
            ('annotations/task=ocr/fingerprint=f3a', 'documents/fingerprint=f3a')
        """
        of_task = "" if self.task is None else f"task={self.task}/"
        return f"{self.name}/{of_task}fingerprint={self.fingerprint}"


class FileKey(NamedTuple):
    """A file of the output, together with its later rounds."""

    table: TableKey
    file_id: str

    @property
    def kind(self) -> str:
        """The kind of its assets.

        Example:
            >>> FileKey(documents_of("f3a"), "deck-07").kind
            'deck'
        """
        return self.file_id.partition("-")[0]

    def path(self, number: int = 0) -> str:
        """Return the path of the file, or of one of its later rounds.

        Example:
            >>> FileKey(annotations_of("ocr", "f3a"), "image-07").path()
            'annotations/task=ocr/fingerprint=f3a/image-07.parquet'
            >>> FileKey(documents_of("f3a"), "deck-07").path(2)
            'documents/fingerprint=f3a/deck-07.r2.parquet'
        """
        return f"{self.table.folder}/{self.file_id}{f'.r{number}' if number else ''}.parquet"


def annotations_of(task: str, fingerprint: str) -> TableKey:
    """Return the table of a task's annotations."""
    return TableKey("annotations", task, fingerprint)


def documents_of(fingerprint: str) -> TableKey:
    """Return the table of documents that are assembled from the answers of some fingerprints."""
    return TableKey("documents", None, fingerprint)


def parse_path(path: str) -> tuple[FileKey, int] | None:
    """Parse a path of the output into file and round; None for any other file.

    Example:
        >>> parse_path("documents/fingerprint=f3a/deck-07.parquet")[0].file_id
        'deck-07'
        >>> parse_path("annotations/task=ocr/fingerprint=f3a/deck-07.r2.parquet")[1]
        2
        >>> parse_path("annotations/readme.txt") is None
        True
    """
    match = _PATH.match(path)
    if match is None:
        return None
    task, fingerprint, file_id, number = match.groups()
    table = documents_of(fingerprint) if task is None else annotations_of(task, fingerprint)
    return FileKey(table, file_id), int(number or 0)
