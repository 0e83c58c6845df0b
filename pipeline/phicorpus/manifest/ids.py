"""Names to numbers, the same in every process and version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

HASH128 = np.dtype([("high", np.uint64), ("low", np.uint64)])


def hash64(text: str) -> int:
    """Hash a text to 64 bits.

    Example:
        >>> hash64("a") == hash64("a") != hash64("b")
        True
    """
    return int.from_bytes(_digest(text, num_bytes=8), "big")


def hash128(texts: Iterable[str]) -> np.ndarray:
    """Hash texts to 128 bits each: no two texts of any corpus have the same.

    Returns:
        Shape (n,), dtype HASH128: the upper and the lower 64 bits.

    Example:
        >>> hash128(["a", "b"])["high"].dtype
        dtype('uint64')
    """
    digests = b"".join(_digest(text, num_bytes=16) for text in texts)
    return np.frombuffer(digests, HASH128.newbyteorder(">")).astype(HASH128)


def _digest(text: str, *, num_bytes: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=num_bytes).digest()
