"""Read what an ODP says beside its pages: titles, notes, tables, charts, and hidden slides.

The file must have passed `package.check` first. The text of a page is read from its PDF; where
there is none, from the file.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue] - has no stubs

from phicorpus.config import DeckConfig
from phicorpus.errors import DecodeError
from phicorpus.media.charts import odf_chart
from phicorpus.media.charts.chart import ChartError
from phicorpus.media.lines import joined
from phicorpus.media.office.odf import MAX_REPEATED, cells, parsed, tag, text_lines, whole
from phicorpus.media.segment import Chart

_BROKEN: Final = (etree.LxmlError, zipfile.BadZipFile, zlib.error, OSError, KeyError, ValueError)
_FRAME, _CLASS = tag("draw:frame"), tag("presentation:class")
_NOTES, _TABLE = tag("presentation:notes"), tag("table:table")
_PARAGRAPHS: Final = (tag("text:p"), tag("text:h"))

Table = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a slide has beside its text; of that, which part is the title."""

    title: str | None = None
    hidden: bool | None = False
    notes: str | None = None
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    flags: tuple[str, ...] = ()


def extras(content: bytes, config: DeckConfig | None = None) -> list[Extras]:
    """Read every slide, in order.

    Raises:
        DecodeError: the file cannot be read.
    """
    with _opened(content) as (archive, root):
        reader = _Reader(archive, _hidden_styles(root), config or DeckConfig())
        return [reader.of(page) for page in root.iter(tag("draw:page"))]


def texts(content: bytes) -> list[tuple[str, ...]]:
    """Read the text of every slide, in the file's order: for slides that have no page.

    Raises:
        DecodeError: the file cannot be read.
    """
    with _opened(content) as (_, root):
        return [tuple(_own_text(page)) for page in root.iter(tag("draw:page"))]


@contextmanager
def _opened(content: bytes) -> Iterator[tuple[zipfile.ZipFile, Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield archive, parsed(archive.read("content.xml"))
    except _BROKEN as error:
        raise DecodeError(f"broken ODP: {type(error).__name__}: {error}") from error


class _Reader:
    def __init__(self, archive: zipfile.ZipFile, hidden: set[str], config: DeckConfig) -> None:
        self._archive = archive
        self._hidden = hidden
        self._config = config

    def of(self, page: Any) -> Extras:  # noqa: ANN401 - lxml's element
        notes = page.find(_NOTES)
        lines = [] if notes is None else _lines_of_class(notes, "notes")
        flags: list[str] = []
        tables: list[Table] = []
        for table in page.iter(_TABLE):
            if not _inside(table, notes):
                rows = self._rows(table)
                flags += ["native_incomplete"] if rows is None else []
                tables += [rows] if rows else []
        charts: list[Chart] = []
        for object_ in page.iter(tag("draw:object")):
            if not _inside(object_, notes):
                found, more = self._charts(object_)
                charts += found
                flags += more
        return Extras(
            title=joined(_lines_of_class(page, "title")) or None,
            hidden=page.get(tag("draw:style-name")) in self._hidden,
            notes="\n".join(lines) or None,
            tables=tuple(tables),
            charts=tuple(charts),
            flags=tuple(dict.fromkeys(flags)),
        )

    def _charts(self, object_: Any) -> tuple[tuple[Chart, ...], tuple[str, ...]]:  # noqa: ANN401
        """Read an embedded object's charts; one that is none has neither charts nor flags."""
        folder = (object_.get(tag("xlink:href")) or "").removeprefix("./").rstrip("/")
        try:
            root = parsed(self._archive.read(f"{folder}/content.xml"))
            if next(root.iter(tag("chart:chart")), None) is None:
                return (), ()
            reading = odf_chart.read(root, self._styles(folder), self._config)
        except (*_BROKEN, ChartError):
            return (), ("chart_unreadable",)
        return reading.charts, reading.flags

    def _styles(self, folder: str) -> Any:  # noqa: ANN401 - lxml's element
        try:
            return parsed(self._archive.read(f"{folder}/styles.xml"))
        except _BROKEN:
            return None  # styles of the content itself are enough for most

    def _rows(self, table: Any) -> Table | None:  # noqa: ANN401 - lxml's element
        """Read a table as a rectangle; None where it is larger than its limit."""
        rows = [_row(row) for row in table.iter(tag("table:table-row"))]
        width = max(map(len, rows), default=0)
        if width * len(rows) > self._config.max_table_cells:
            return None
        return tuple((*row, *("",) * (width - len(row))) for row in rows)


def _row(row: Any) -> list[str]:  # noqa: ANN401 - lxml's element
    width = 0
    for cell in row:
        if cell.tag in {tag("table:table-cell"), tag("table:covered-table-cell")}:
            times = whole(cell.get(tag("table:number-columns-repeated")))
            width += min(times, MAX_REPEATED)
    texts = [""] * width
    for at, cell in cells(row, width):
        texts[at] = cell.text
    return texts


def _own_text(page: Any) -> Iterator[str]:  # noqa: ANN401 - lxml's element
    """Yield the lines of a page that are neither in its tables nor in its notes."""
    apart = {_TABLE, _NOTES, tag("office:annotation")}
    for paragraph in page.iter(*_PARAGRAPHS):
        outer = {one.tag for one in paragraph.iterancestors()}
        if not outer & apart:
            yield from text_lines(paragraph)


def _lines_of_class(element: Any, name: str) -> list[str]:  # noqa: ANN401 - lxml's element
    frames = [frame for frame in element.iter(_FRAME) if frame.get(_CLASS) == name]
    return [line for frame in frames for line in text_lines(frame)]


def _hidden_styles(root: Any) -> set[str]:  # noqa: ANN401 - lxml's element
    return {
        style.get(tag("style:name"))
        for style in root.iter(tag("style:style"))
        for properties in style.iter(tag("style:drawing-page-properties"))
        if properties.get(tag("presentation:visibility")) == "hidden"
    }


def _inside(element: Any, outer: Any) -> bool:  # noqa: ANN401 - lxml's elements
    return outer is not None and any(parent is outer for parent in element.iterancestors())
