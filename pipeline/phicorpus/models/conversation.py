"""What every chat format asks of a conversation."""

from __future__ import annotations

from collections.abc import Sequence

from phicorpus.errors import RequestRefused
from phicorpus.models.model import Tools, Turn


def check_turns(turns: Sequence[Turn]) -> None:
    """Refuse a conversation that cannot be answered.

    Raises:
        RequestRefused: it has no turns, an empty turn, tools outside a system turn, or does not end
            with a user turn.
    """
    if not turns or turns[-1].role != "user":
        raise RequestRefused("a conversation has to end with a user turn")
    for number, turn in enumerate(turns, start=1):
        if not any(not isinstance(part, str) or part.strip() for part in turn.content):
            raise RequestRefused(f"turn {number} ({turn.role}) is empty")
        if turn.role != "system" and any(isinstance(part, Tools) for part in turn.content):
            raise RequestRefused(f"turn {number} ({turn.role}) has tools; the system turn has them")
