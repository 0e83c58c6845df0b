"""Find the deck that LibreOffice, on request, puts into the PDF that it makes of it: a hybrid."""

from __future__ import annotations

import re
from typing import Final

from phicorpus.errors import DecodeError
from phicorpus.media.decks import pdf

# LibreOffice 7 names it in the trailer and stores it as it is; later versions attach it.
_TRAILER_BYTES: Final = 4096
_NAMED = re.compile(rb"/AdditionalStreams\s*\[\s*/application#2Fvnd#2Eoasis\S*\s+(\d+) 0 R")
_ATTACHED: Final = "Original."


def deck(rendered: bytes, document: pdf.Document) -> bytes:
    """Read the ODP inside a PDF.

    Args:
        rendered: The PDF.
        document: The same, opened.

    Raises:
        DecodeError: there is none, or not where LibreOffice puts it.
    """
    attached = document.attachment(_ATTACHED)
    if attached is not None:
        return attached
    named = _NAMED.search(rendered, max(0, len(rendered) - _TRAILER_BYTES))
    begins = named and _search(
        rb"\n%s 0 obj\s*<</Length (\d+) 0 R>>\s*stream\r?\n", named, rendered
    )
    length = begins and _search(rb"\n%s 0 obj\s+(\d+)\s", begins, rendered, begins.end())
    if not begins or not length:
        raise DecodeError(f"no deck inside a PDF of {len(rendered)} bytes")
    return rendered[begins.end() : begins.end() + int(length[1])]


def _search(
    form: bytes, number: re.Match[bytes], content: bytes, start: int = 0
) -> re.Match[bytes] | None:
    """Find an object of a PDF by the number that another match has found."""
    return re.compile(form % number[1]).search(content, start)
