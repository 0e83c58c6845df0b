"""Texts that are none, that are too long, or that have no place to be cut."""

from __future__ import annotations

from collections.abc import Iterator

from phicorpus.media.media_types import MARKDOWN, PLAIN_TEXT, PPTX
from tests.hostile.attack import Attack, attack


def attacks() -> Iterator[Attack]:
    text = {"media_type": PLAIN_TEXT}
    yield attack("a text without a byte", b"", "ok", **text)
    yield attack("a text in Latin-1", "na\xefve".encode("latin-1"), "NotUtf8", says="0xef", **text)
    yield attack("a text in UTF-16", "text".encode("utf-16"), "NotUtf8", says="UTF-16", **text)
    yield attack("a text with a NUL", b"a\0b", "NotUtf8", says="NUL at byte 1", **text)
    overlong = b"\xc0\xaf\xe0\x80\xaf"
    yield attack("a text of overlong forms", overlong, "NotUtf8", says="0xc0", **text)
    surrogates = b"\xed\xa0\x80\xed\xb0\x80"
    yield attack("a text of surrogates", surrogates, "NotUtf8", says="0xed", **text)
    too_long = b"w" * (11 * 1024**2)
    yield attack("a text of 11 MB", too_long, "LimitExceeded", says=r"texts\.max_bytes", **text)
    spaces = b"\n \t" * 1024**2
    yield attack("three million white spaces", spaces, "ok", media_type=MARKDOWN)
    words = b"x" * (4 * 1024**2)
    yield attack("a word of four million letters", words, "ok", media_type=MARKDOWN)
    marks = "\u0301".encode() * 500_000
    yield attack("half a million accents on nothing", marks, "ok", media_type=MARKDOWN)
    yield attack(
        "a text that says it is a deck",
        b"words",
        "UnsupportedMedia",
        says="text/plain",
        media_type=PPTX,
    )
