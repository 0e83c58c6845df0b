"""What a hostile file is, and what must become of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One file that somebody may hand in.

    Attributes:
        name: What it tries.
        content: Its bytes.
        ends: Every segment of it ends as one of these: "ok", or an error's class.
        says: A regular expression that an error's message matches; a limit's name where one is hit.
        media_type: What the manifest declares.
        is_endless: No time would be enough for it: it is given a few seconds, others many.
    """

    name: str
    content: bytes
    ends: frozenset[str]
    says: str = ""
    media_type: str | None = None
    is_endless: bool = False


def attack(name: str, content: bytes, *ends: str, **more: Any) -> Attack:
    return Attack(name=name, content=content, ends=frozenset(ends), **more)
