"""An asset as its decoder gets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from phicorpus.config import DecodeConfig
from phicorpus.errors import SegmentError
from phicorpus.media.office.office_zip import Package
from phicorpus.media.sandbox import Sandbox
from phicorpus.media.segment import Bytes, Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An asset as its decoder gets it.

    Attributes:
        content: Recordings are read where they lie; of other assets this is a copy.
        media_type: As found in the content.
        declared: As the manifest or the name says.
        package: Office decks: the checked file.
        rendered: Office decks: their PDF, or why there is none.
    """

    content: Bytes
    media_type: str
    declared: str | None = None
    package: Package | None = None
    rendered: bytes | SegmentError | None = None


Decoder = Callable[[Source, DecodeConfig, Sandbox], Iterator[Segment]]
"""Decodes a source to its segments, in order, or raises a SegmentError."""
