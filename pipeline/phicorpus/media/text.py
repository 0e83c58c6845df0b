"""Cut a text into passages that fit into a prompt, at the ends of paragraphs."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from phicorpus.config import TextConfig
from phicorpus.errors import LimitExceeded, NotUtf8
from phicorpus.media.segment import Segment

# Where a passage may end, the best first: behind an empty line or a form feed, a line, a sentence,
# a word.
_ENDS: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"\n[ \t\r]*\n\s*|\f\s*",
        r"\n",
        r"[.!?]['\")\]]?\s+|[\u3002\uff01\uff1f]",
        r"\s+",
    )
)
_JOINER = "\u200d"  # of emoji, and of letters in some scripts
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def segments(content: bytes, config: TextConfig) -> Iterator[Segment]:
    """Cut a UTF-8 text into passages that cover it exactly.

    Each is as long as `texts.max_passage_bytes` allows and ends with a paragraph; where a
    paragraph alone is longer, with a line, a sentence, a word or, at last, a character with its
    accents.

    Yields:
        Segments with `text`, `start_char` and `end_char`, which count characters from the text's
        first one, a byte order mark left out. A passage of white space has the skip reason
        "no_text"; so has the one passage of an empty text.

    Raises:
        NotUtf8: names the first byte at fault.
        LimitExceeded: more than `texts.max_bytes`.
    """
    if len(content) > config.max_bytes:
        raise LimitExceeded(f"texts.max_bytes: {len(content)} bytes, limit {config.max_bytes}")
    text = decoded(content)
    ends = list(_ends(text, config.max_passage_bytes))
    for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        passage = text[start:end]
        yield Segment(
            index=index,
            count=len(ends),
            kind="passage",
            text=passage,
            start_char=start,
            end_char=end,
            skip_reason=None if passage.strip() else "no_text",
        )


def decoded(content: bytes) -> str:
    r"""Decode UTF-8, with or without a byte order mark.

    Raises:
        NotUtf8: other bytes, or a NUL, which no text holds.

    Example:
        >>> decoded(b"\xef\xbb\xbfna\xc3\xafve")
        'naïve'
    """
    if content.startswith(_UTF16_MARKS):
        raise NotUtf8("the text is UTF-16, by its byte order mark; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotUtf8(
            f"the text is not UTF-8: byte {content[error.start]:#04x} at {error.start} "
            f"of {len(content)}; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise NotUtf8(f"not a text: a NUL at byte {content.index(0)} of {len(content)}")
    return text


def is_text(content: bytes) -> bool:
    r"""Return whether bytes are a text that `segments` reads.

    Example:
        >>> is_text(b"%PDF- is how it begins"), is_text(b"\xff\xd8\xff")
        (True, False)
    """
    try:
        decoded(content)
    except NotUtf8:
        return False
    return True


def _ends(text: str, max_bytes: int) -> Iterator[int]:
    """Yield the passages' ends; at least one."""
    start = 0
    while (rest := _reach(text, start, max_bytes)) < len(text):
        start = _best_end(text, start, rest)
        yield start
    yield len(text)


def _reach(text: str, start: int, max_bytes: int) -> int:
    """Find how far a passage from `start` may go at most; at least one character."""
    head = text[start : start + max_bytes].encode()[:max_bytes]
    return start + max(1, len(head.decode("utf-8", "ignore")))


def _best_end(text: str, start: int, reach: int) -> int:
    """Choose the last of the best ends in a passage, but none that leaves less than a quarter."""
    least = start + (reach - start) // 4
    for pattern in _ENDS:
        ends = [found.end() for found in pattern.finditer(text, least, reach)]
        if ends:
            return ends[-1]
    inside = (end for end in range(reach, least, -1) if not _joins(text[end - 1 : end + 1]))
    return next(inside, reach)


def _joins(pair: str) -> bool:
    """Return whether two code points are parts of one character, as one reads it."""
    return _JOINER in pair or unicodedata.category(pair[-1]).startswith("M")
