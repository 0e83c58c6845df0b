"""Read subtitles (SubRip) as the text that is spoken: without numbers, times and tags."""

from __future__ import annotations

import re
from collections.abc import Iterator

from phicorpus.config import DecodeConfig
from phicorpus.media import text
from phicorpus.media.sandbox import Sandbox
from phicorpus.media.segment import Segment
from phicorpus.media.source import Source

_TIMES = re.compile(r"\d+\s*\n\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}.*\n")


def decode_subtitles(source: Source, config: DecodeConfig, _: Sandbox) -> Iterator[Segment]:
    """Cut what is spoken into passages."""
    spoken = re.sub(r"<[^>]+>", "", _TIMES.sub("", text.decoded(bytes(source.content))))
    return text.segments(spoken.encode(), config.texts)
