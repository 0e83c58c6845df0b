"""The segments of an asset as decoding yields them, before a model's own preparation."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from phicorpus.errors import SegmentError
from phicorpus.media.kinds import SegmentKind

Bytes = bytes | bytearray | memoryview
"""A file: its own bytes, or a view of them where they lie."""
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart as its file defines it.

    Attributes:
        kind: bar, line, pie, area, scatter, ...: alike in all formats; several joined by "+".
        categories: Labels of the category axis, in order.
        series: Name and values of each series; None where the file has a gap.
        category_title, value_title: What stands along the axes.
    """

    kind: str
    title: str | None
    categories: tuple[str, ...]
    series: tuple[tuple[str, tuple[float | None, ...]], ...]
    category_title: str | None = None
    value_title: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """What a page holds in its own file, without a model: text in reading order and the rest.

    The title, where the file names one, is also among the text, at its place.
    """

    title: str | None = None
    text: tuple[str, ...] = ()
    notes: str | None = None
    tables: tuple[tuple[tuple[str, ...], ...], ...] = ()
    charts: tuple[Chart, ...] = ()

    def to_json(self) -> str:
        """Encode for a column; `from_json` is its inverse."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Native:
        """Decode `to_json`'s text.

        Example:
            >>> native = Native(text=("a",), charts=(Chart(kind="bar", title=None,
            ...     categories=("x",), series=(("s", (1.0, )),)),))
            >>> Native.from_json(native.to_json()) == native
            True
        """
        values: dict[str, Any] = json.loads(text)
        return Native(
            title=values["title"],
            text=tuple(values["text"]),
            notes=values["notes"],
            tables=tuple(tuple(tuple(row) for row in table) for table in values["tables"]),
            charts=tuple(
                Chart(
                    kind=chart["kind"],
                    title=chart["title"],
                    categories=tuple(chart["categories"]),
                    series=tuple((name, tuple(points)) for name, points in chart["series"]),
                    category_title=chart.get("category_title"),
                    value_title=chart.get("value_title"),
                )
                for chart in values["charts"]
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segment:
    """One segment of an asset, decoded.

    Attributes:
        index: Position in the asset, from 0, without gaps.
        count: How many segments the asset has: known to every segment of a deck or image, and at
            least to the last window of a recording.
        image: RGB picture of an image or page; None for windows, and for pages not rendered.
        samples: shape (n,), float32 mono; None for images and pages, and for silence.
        rate_hz: Of the samples: 16,000, or 8,000 where the recording has no more.
        text: The passage, for passages.
        page_number: From 1, for pages.
        start_s: Start of the window in seconds from the beginning of the recording.
        channel: From 1, of a recording whose channels are apart.
        start_char, end_char: The passage's place in its text, in characters.
        flags: Plain words: "truncated", "animation", "fonts_missing", ...
        skip_reason: Why no model should be asked: "no_speech", "no_text", "not_rendered".
        native_error: Why a page has no `native` although its picture stands.
        error: This segment alone failed, or its picture, where it has `native`; the others stand.
    """

    index: int
    count: int | None
    kind: SegmentKind
    image: Image.Image | None = None
    samples: Samples | None = None
    rate_hz: int | None = None
    text: str | None = None
    page_number: int | None = None
    hidden: bool | None = None
    start_s: float | None = None
    end_s: float | None = None
    channel: int | None = None
    start_char: int | None = None
    end_char: int | None = None
    native: Native | None = None
    native_error: SegmentError | None = None
    flags: tuple[str, ...] = ()
    skip_reason: str | None = None
    error: SegmentError | None = None
