"""Read what a PPTX says about itself: text, titles, notes, tables and chart data, with python-pptx.

The file must have passed `package.check` first.
"""

from __future__ import annotations

import html
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue] - has no stubs
from pptx import Presentation
from pptx.enum.shapes import PP_PLACEHOLDER
from pptx.exc import PythonPptxError
from pptx.presentation import Presentation as PptxDeck
from pptx.shapes.autoshape import Shape
from pptx.shapes.base import BaseShape
from pptx.shapes.graphfrm import GraphicFrame
from pptx.shapes.group import GroupShape
from pptx.slide import Slide as PptxSlide

from pipeline.errors import DecodeError
from pipeline.media import chart
from pipeline.media.pdf import clean_lines
from pipeline.media.piece import Chart, Native

# What python-pptx and lxml raise for a damaged file: they read attributes of what is not there.
BROKEN: Final = (
    PythonPptxError,
    etree.LxmlError,
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    RuntimeError,
    ZeroDivisionError,
    OverflowError,
    MemoryError,
)

_PARAGRAPH = "{http://schemas.openxmlformats.org/drawingml/2006/main}p"
_TYPEFACE = re.compile(rb'typeface="([^"+][^"]*)"')
_BENT = "./p:txBody/a:bodyPr/a:prstTxWarp[@prst != 'textNoShape']"
_TEXT_RUN = "{http://schemas.openxmlformats.org/drawingml/2006/main}t"
_DIAGRAM_DATA = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}relIds"
_DIAGRAM_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}dm"
_BAND_EMU = 228_600  # a quarter of an inch: shapes nearer than that stand on one line
_TITLES = {PP_PLACEHOLDER.TITLE, PP_PLACEHOLDER.CENTER_TITLE, PP_PLACEHOLDER.VERTICAL_TITLE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slide:
    """One slide as its file defines it.

    Attributes:
        native: What can be seen of it, and its notes; None where the slide itself is damaged.
        drawn_text: The part of the text that a renderer may draw as shapes: bent letters, formulas.
        typefaces: Fonts that the deck names anywhere.
        flags: "native_unreadable", "native_incomplete" where one of its shapes is damaged, or
            "chart_unreadable" where a chart's data is.
    """

    native: Native | None
    hidden: bool | None
    drawn_text: tuple[str, ...] = ()
    typefaces: frozenset[str] = frozenset()
    flags: tuple[str, ...] = ()


def slides(content: bytes) -> list[Slide]:
    """Read all slides of a PPTX, hidden ones too, in the deck's order.

    Raises:
        DecodeError: not a readable presentation, or one without slides.
    """
    try:
        deck = Presentation(io.BytesIO(content))
        num_slides = len(deck.slides)
    except BROKEN as error:
        raise DecodeError(f"not a readable presentation: {_words(error)}") from error
    if not num_slides:
        raise DecodeError("a presentation without slides")
    typefaces = _typefaces(deck)
    return [_slide(deck, index, typefaces) for index in range(num_slides)]


def _slide(deck: PptxDeck, index: int, typefaces: frozenset[str]) -> Slide:
    try:
        slide = cast("PptxSlide", deck.slides[index])
        hidden = slide._element.get("show") in {"0", "false"}
        title = _title(slide)
        content = _Content(slide.part)
        content.add([shape for shape in slide.shapes if not _outside(shape, deck)])
        content.add_alternatives(slide)
        return Slide(
            native=Native(
                title=title,
                text=clean_lines(content.text),
                notes=_notes(slide),
                tables=tuple(content.tables),
                charts=tuple(content.charts),
            ),
            hidden=hidden,
            drawn_text=tuple(content.drawn),
            typefaces=typefaces,
            flags=tuple(dict.fromkeys(content.flags)),
        )
    except BROKEN:
        return Slide(native=None, hidden=None, flags=("native_unreadable",))


def _title(slide: PptxSlide) -> str | None:
    shape = slide.shapes.title
    words = clean_lines(shape.text_frame.text.splitlines()) if shape is not None else ()
    return " ".join(words) or None


def _notes(slide: PptxSlide) -> str | None:
    frame = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
    return "\n".join(clean_lines(frame.text.splitlines())) or None if frame is not None else None


class _Content:
    """Collects what the shapes of a slide hold, in reading order."""

    def __init__(self, part: Any) -> None:  # noqa: ANN401 - python-pptx exports no such type
        self._part = part
        self.text: list[str] = []
        self.drawn: list[str] = []
        self.tables: list[tuple[tuple[str, ...], ...]] = []
        self.charts: list[Chart] = []
        self.flags: list[str] = []

    def add(self, shapes: Sequence[BaseShape]) -> None:
        for shape in sorted(shapes, key=_place):
            if shape._element.xpath("./*/p:cNvPr[@hidden='1' or @hidden='true']"):
                continue
            try:
                self._add_shape(shape)
            except BROKEN:
                self.flags.append("native_incomplete")

    def add_alternatives(self, slide: PptxSlide) -> None:
        """Add the text of shapes in a newer dialect, such as formulas; python-pptx skips them."""
        for choice in slide._element.iterfind(".//{*}AlternateContent/{*}Choice"):
            for paragraph in choice.iter(_PARAGRAPH):
                text = "".join(run.text or "" for run in paragraph.iter("{*}t"))
                self.text.append(text)
                self.drawn.append(text)

    def _add_shape(self, shape: BaseShape) -> None:
        if isinstance(shape, GroupShape):
            self.add(list(shape.shapes))
        elif isinstance(shape, GraphicFrame):
            self._add_frame(shape)
        elif isinstance(shape, Shape) and shape.has_text_frame:
            paragraphs = [paragraph.text for paragraph in shape.text_frame.paragraphs]
            self.text += paragraphs
            if shape._element.xpath(_BENT):
                self.drawn += paragraphs

    def _add_frame(self, frame: GraphicFrame) -> None:
        if frame.has_table:
            rows = frame.table.rows
            self.tables.append(
                tuple(
                    tuple(" ".join(clean_lines(cell.text.splitlines())) for cell in row.cells)
                    for row in rows
                )
            )
        elif frame.has_chart:
            try:
                self.charts += chart.read(frame.chart)
            except BROKEN:
                self.flags.append("chart_unreadable")
        else:
            self.text += _diagram_text(frame, self._part)


def _typefaces(deck: PptxDeck) -> frozenset[str]:
    markup = [part.blob for part in deck.part.package.iter_parts() if part.partname.ext == "xml"]
    found = {name for part in markup for name in _TYPEFACE.findall(part)}
    return frozenset(html.unescape(name.decode("utf-8", "replace")) for name in found)


def _outside(shape: BaseShape, deck: PptxDeck) -> bool:
    """Tell whether a shape lies beside the slide, where authors leave what nobody shall see."""
    width, height = deck.slide_width or 0, deck.slide_height or 0
    if not width or not height or shape.left is None or shape.top is None:
        return False
    right, bottom = shape.left + (shape.width or 0), shape.top + (shape.height or 0)
    return right < 0 or bottom < 0 or shape.left > width or shape.top > height


def _place(shape: BaseShape) -> tuple[bool, int, int]:
    """Order shapes as one reads: the title, then line by line from the left."""
    title = shape.is_placeholder and shape.placeholder_format.type in _TITLES
    return (not title, (shape.top or 0) // _BAND_EMU, shape.left or 0)


def _diagram_text(frame: GraphicFrame, part: Any) -> Iterator[str]:  # noqa: ANN401 - as in _Content
    """Read a SmartArt diagram, which python-pptx does not know."""
    for reference in frame._element.iter(_DIAGRAM_DATA):
        data = part.related_part(reference.get(_DIAGRAM_ID)).blob
        parser = etree.XMLParser(resolve_entities=False, no_network=True)
        for paragraph in etree.fromstring(data, parser).iter(_PARAGRAPH):
            yield "".join(run.text or "" for run in paragraph.iter(_TEXT_RUN))


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]
