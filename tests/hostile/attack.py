"""What a hostile file is, and what must become of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One file that somebody may hand in.

    Attributes:
        name: What it tries.
        content: Its bytes.
        ends: Every segment of it ends as one of these: "ok", or an error's class.
        says: A regular expression that an error's message matches; a limit's name where one is hit.
        media_type: What the manifest declares.
    """

    name: str
    content: bytes
    ends: frozenset[str]
    says: str = ""
    media_type: str | None = None


def attack(
    name: str, content: bytes, *ends: str, says: str = "", media_type: str | None = None
) -> Attack:
    return Attack(
        name=name, content=content, ends=frozenset(ends), says=says, media_type=media_type
    )
