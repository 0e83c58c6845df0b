"""Read the shapes of a PPTX slide in reading order: text, tables, charts and diagrams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from phicorpus.config import DeckConfig
from phicorpus.media.charts import chartex, pptx_chart
from phicorpus.media.charts.chart import ChartError
from phicorpus.media.decks import diagram, geometry
from phicorpus.media.decks.geometry import Box, Frame
from phicorpus.media.lines import joined
from phicorpus.media.office.drawing_text import Paragraph, paragraphs, text_lines
from phicorpus.media.office.ooxml import (
    PartError,
    Parts,
    alternatives,
    children,
    descendants,
    fallback,
    is_true,
    tag,
)
from phicorpus.media.segment import Chart

_SHAPE, _GROUP, _FRAME = tag("p:sp"), tag("p:grpSp"), tag("p:graphicFrame")
_PLACED: Final[Mapping[str, str]] = {
    _GROUP: f"{tag('p:grpSpPr')}/{tag('a:xfrm')}",
    _FRAME: tag("p:xfrm"),
}
_ELSEWHERE: Final = f"{tag('p:spPr')}/{tag('a:xfrm')}"
_BAND_EMU: Final = 228_600  # a quarter of an inch: shapes nearer than that stand on one line
_TITLES: Final = {"title", "ctrTitle"}
_MAX_DEPTH: Final = 64  # of groups in groups
_NOWHERE: Final = Box(0, 0, 0, 0)
_EXPECTED: Final[Mapping[str, str]] = {
    "table": "native_incomplete",
    "chart": "chart_unreadable",
    "chartex": "chart_unreadable",
    "diagram": "native_incomplete",
}

Table = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What a slide's shapes are read with.

    Attributes:
        part: The slide's own name.
        width, height: Of its deck's slides, EMU; 0 where the deck does not say.
        fields: What fields say on it, by type.
        inherited: The place of a placeholder that has none of its own.
    """

    parts: Parts
    part: str
    width: float
    height: float
    fields: Mapping[str, str]
    inherited: Callable[[Any], Box | None]
    config: DeckConfig


@dataclass(slots=True)
class Content:
    """What the shapes of a slide hold, in reading order.

    Attributes:
        drawn: The part of the text that a renderer may draw as shapes: bent letters, formulas.
        placeholders: What a renderer that does not know a chart writes in its place.
    """

    around: Around
    title: str | None = None
    text: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    placeholders: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)

    def add(self, tree: Any) -> None:  # noqa: ANN401 - lxml's element
        """Read the shapes of a p:spTree that lie on the slide and are not hidden."""
        shapes = [shape for shape in children(tree) if not _is_hidden(shape)]
        self.title = next((found for shape in shapes if (found := _title(shape))), None)
        self._add_all([s for s in shapes if not self._is_outside(s)], Frame(), 0)

    def _add_all(self, shapes: Iterable[Any], frame: Frame, depth: int) -> None:
        for shape in sorted(shapes, key=lambda one: self._place(one, frame)):
            if _is_hidden(shape):
                continue
            if shape.tag == _GROUP:
                inner = geometry.frame(shape.find(_PLACED[_GROUP]), frame)
                if depth < _MAX_DEPTH:
                    self._add_all(children(shape), inner, depth + 1)
                else:
                    self.flags.append("native_incomplete")
            elif shape.tag == _FRAME:
                self._add_frame(shape)
            elif shape.tag == _SHAPE:
                self._add_text(shape)

    def _add_text(self, shape: Any) -> None:  # noqa: ANN401 - lxml's element
        body = shape.find(tag("p:txBody"))
        if body is None:
            return
        is_drawn = _is_bent(body) or alternatives(shape) is not None
        self._add_paragraphs(paragraphs(body, self.around.fields), is_drawn=is_drawn)

    def _add_paragraphs(self, found: Iterable[Paragraph], *, is_drawn: bool) -> None:
        for paragraph in found:
            self.text += paragraph.lines
            if is_drawn or paragraph.has_formula:
                self.drawn += paragraph.lines

    def _add_frame(self, shape: Any) -> None:  # noqa: ANN401 - lxml's element
        data = next(descendants(shape, "a:graphicData"), None)
        held = [] if data is None else list(children(data))
        is_read = False
        for element in held:
            reader = _READERS.get(element.tag)
            if reader is not None:
                is_read = True
                reader(self, element)
        kind = "" if data is None else (data.get("uri") or "").rpartition("/")[2]
        if not is_read and kind in _EXPECTED:
            self.flags.append(_EXPECTED[kind])

    def _add_table(self, table: Any) -> None:  # noqa: ANN401 - lxml's element
        cells = [list(descendants(row, "a:tc")) for row in descendants(table, "a:tr")]
        width = max(map(len, cells), default=0)
        if width * len(cells) > self.around.config.max_table_cells:
            self.flags.append("native_incomplete")
            return
        rows = tuple(tuple(map(_cell, row)) + ("",) * (width - len(row)) for row in cells)
        if width:
            self.tables.append(rows)
        has_formula = any(True for _ in descendants(table, "m:t"))
        if has_formula or alternatives(table) is not None:
            self.drawn += [cell for row in rows for cell in row]

    def _add_chart(self, reference: Any) -> None:  # noqa: ANN401 - lxml's element
        is_newer = reference.tag == tag("cx:chart")
        read = chartex.read if is_newer else pptx_chart.read
        around = self.around
        try:
            part = around.parts.target(around.part, reference.get(tag("r:id")))
            reading = read(around.parts, part, around.config)
        except (PartError, ChartError):
            self.flags.append("chart_unreadable")
        else:
            self.charts += reading.charts
            self.flags += reading.flags
        outer = alternatives(reference)
        if is_newer and outer is not None:
            self.placeholders += text_lines(fallback(outer))

    def _add_diagram(self, reference: Any) -> None:  # noqa: ANN401 - lxml's element
        around = self.around
        try:
            part = around.parts.target(around.part, reference.get(tag("r:dm")))
            self.text += diagram.text(around.parts.markup(part))
        except PartError:
            self.flags.append("native_incomplete")

    def _place(self, shape: Any, frame: Frame) -> tuple[bool, float, float]:  # noqa: ANN401
        """Order shapes as one reads: the title, then line by line from the left."""
        box = frame.placed(self._box(shape) or _NOWHERE)
        is_title = _placeholder_type(shape) in _TITLES
        return (not is_title, box.top // _BAND_EMU, box.left)

    def _is_outside(self, shape: Any) -> bool:  # noqa: ANN401 - lxml's element
        """Check whether a shape lies beside the slide, where authors leave what none shall see."""
        box, around = self._box(shape), self.around
        if box is None or not around.width or not around.height:
            return False
        return box.is_outside(around.width, around.height)

    def _box(self, shape: Any) -> Box | None:  # noqa: ANN401 - lxml's element
        own = geometry.box(shape.find(_PLACED.get(shape.tag, _ELSEWHERE)))
        if own is None and (placeholder := placeholder_of(shape)) is not None:
            return self.around.inherited(placeholder)
        return own


_READERS: Final[Mapping[str, Callable[[Content, Any], None]]] = {
    tag("a:tbl"): Content._add_table,
    tag("c:chart"): Content._add_chart,
    tag("cx:chart"): Content._add_chart,
    tag("dgm:relIds"): Content._add_diagram,
}


def placeholder_of(shape: Any) -> Any:  # noqa: ANN401 - lxml's element
    """Find the p:ph of a shape; None where it is no placeholder."""
    return next(iter(shape.iterfind(f"*/{tag('p:nvPr')}/{tag('p:ph')}")), None)


def _placeholder_type(shape: Any) -> str | None:  # noqa: ANN401 - lxml's element
    placeholder = placeholder_of(shape)
    return None if placeholder is None else placeholder.get("type", "obj")


def _title(shape: Any) -> str | None:  # noqa: ANN401 - lxml's element
    if shape.tag != _SHAPE or _placeholder_type(shape) not in _TITLES:
        return None
    body = shape.find(tag("p:txBody"))
    return None if body is None else joined(text_lines(body)) or None


def _cell(cell: Any) -> str:  # noqa: ANN401 - lxml's element
    """Read a cell; one that another was merged with is not seen, whatever it holds."""
    if is_true(cell.get("hMerge")) or is_true(cell.get("vMerge")):
        return ""
    return joined(_lines(cell))


def _lines(cell: Any) -> Iterator[str]:  # noqa: ANN401 - lxml's element
    for body in descendants(cell, "a:txBody"):
        yield from text_lines(body)


def _is_hidden(shape: Any) -> bool:  # noqa: ANN401 - lxml's element
    return any(is_true(one.get("hidden")) for one in shape.iterfind(f"*/{tag('p:cNvPr')}"))


def _is_bent(body: Any) -> bool:  # noqa: ANN401 - lxml's element
    warps = body.iterfind(f"{tag('a:bodyPr')}/{tag('a:prstTxWarp')}")
    return any(warp.get("prst") != "textNoShape" for warp in warps)
