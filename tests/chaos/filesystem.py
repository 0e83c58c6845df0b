"""A disk that kills the process which writes to it, at a named point. fsspec finds it as crash://"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem


class CrashingFileSystem(AbstractFileSystem):
    """Local files behind "create if absent"; SIGKILL at the n-th write of a folder.

    `point` is "before:annotations:2": before the second file of annotations/ is created; "after:"
    is when it is there. "before:annotations/deck:1" is before the first of them about decks.
    """

    protocol = "crash"
    cachable = False

    def __init__(self, point: str = "", **options: Any) -> None:
        super().__init__(**options)
        self._when, where, number = (point or "::0").split(":")
        self._folder, _, self._kind = where.partition("/")
        self._left = int(number)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        assert mode == "create"
        target = Path(self._strip_protocol(path))
        fits = f"/{self._folder}/" in str(target) and target.name.startswith(self._kind)
        struck = fits and self._is_the_one()
        if struck and self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".tmp-{os.getpid()}")
        temporary.write_bytes(value)
        try:
            os.link(temporary, target)
        finally:
            temporary.unlink()
        if struck:
            os.kill(os.getpid(), signal.SIGKILL)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        return Path(self._strip_protocol(path)).read_bytes()[start:end]

    def find(self, path: str, *_: Any, **__: Any) -> list[str]:
        folder = Path(self._strip_protocol(path))
        return sorted(str(found) for found in folder.rglob("*") if found.is_file())

    def invalidate_cache(self, path: str | None = None) -> None:
        """Nothing is cached."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("crash://")

    def _is_the_one(self) -> bool:
        self._left -= 1
        return self._left == 0


def register() -> None:
    """Make crash:// known to fsspec in this process."""
    fsspec.register_implementation("crash", CrashingFileSystem, clobber=True)
