"""Names to numbers, the same in every process and version."""

from __future__ import annotations

import hashlib


def hash64(text: str) -> int:
    """Hash a text to 64 bits.

    Example:
        >>> hash64("a") == hash64("a") != hash64("b")
        True
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
