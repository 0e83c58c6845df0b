"""Read comma-separated tables: one sheet, as it stands."""

from __future__ import annotations

from collections.abc import Iterator

from phicorpus.config import DecodeConfig
from phicorpus.media import text
from phicorpus.media.sandbox import Sandbox
from phicorpus.media.segment import Segment
from phicorpus.media.source import Source


def decode_sheet(source: Source, config: DecodeConfig, _: Sandbox) -> Iterator[Segment]:
    """Give a table's first lines as the one sheet that it is."""
    lines = text.decoded(bytes(source.content)).splitlines()
    shown = "\n".join(lines[: config.sheets.max_rows])  # type: ignore[attr-defined] - of the recipe
    yield Segment(index=0, count=1, kind="sheet", text=shown)  # type: ignore[arg-type]
