"""Read what an ODP says beside its pages: titles, notes, tables, charts, and hidden slides.

The file must have passed `package.check` first. The text of a page is read from its PDF.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue] - has no stubs

from pipeline.errors import DecodeError
from pipeline.media.pdf import clean_lines
from pipeline.media.piece import Chart

_OASIS = "urn:oasis:names:tc:opendocument:xmlns:"
_NAMES: Mapping[str, str] = {
    **{name: f"{_OASIS}{name}:1.0" for name in ("office", "table", "text", "style", "chart")},
    "draw": f"{_OASIS}drawing:1.0",
    "presentation": f"{_OASIS}presentation:1.0",
    "xlink": "http://www.w3.org/1999/xlink",
}
_MAX_REPEATED: Final = 256  # cells that stand for many: a file may claim millions
_BROKEN = (etree.LxmlError, zipfile.BadZipFile, zlib.error, OSError, KeyError, ValueError)


def _tag(name: str) -> str:
    prefix, _, local = name.partition(":")
    return f"{{{_NAMES[prefix]}}}{local}"


_FRAME, _CLASS = _tag("draw:frame"), _tag("presentation:class")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a slide has beside its text; of that, which part is the title."""

    title: str | None = None
    hidden: bool | None = False
    notes: str | None = None
    tables: tuple[tuple[tuple[str, ...], ...], ...] = ()
    charts: tuple[Chart, ...] = ()
    flags: tuple[str, ...] = ()


def extras(content: bytes) -> list[Extras]:
    """Read every slide, in order.

    Raises:
        DecodeError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            root = _parsed(archive.read("content.xml"))
            hidden = _hidden_styles(root)
            return [_of(page, archive, hidden) for page in root.iter(_tag("draw:page"))]
    except _BROKEN as error:
        raise DecodeError(f"broken ODP: {type(error).__name__}: {error}") from error


def _of(page: Any, archive: zipfile.ZipFile, hidden: set[str]) -> Extras:  # noqa: ANN401 - lxml's
    notes = page.find(_tag("presentation:notes"))
    lines = [] if notes is None else _lines_of_class(notes, "notes")
    tables = [table for table in page.iter(_tag("table:table")) if not _inside(table, notes)]
    charts: list[Chart] = []
    flags: tuple[str, ...] = ()
    for object_ in page.iter(_tag("draw:object")):
        name = (object_.get(_tag("xlink:href")) or "").removeprefix("./") + "/content.xml"
        try:
            charts += _charts(_parsed(archive.read(name)))
        except _BROKEN:
            flags = ("chart_unreadable",)
    return Extras(
        title=" ".join(_lines_of_class(page, "title")) or None,
        hidden=page.get(_tag("draw:style-name")) in hidden,
        notes="\n".join(lines) or None,
        tables=tuple(tuple(tuple(t for t, _ in row) for row in _rows(t_)) for t_ in tables),
        charts=tuple(charts),
        flags=flags,
    )


def _lines_of_class(element: Any, name: str) -> list[str]:  # noqa: ANN401 - lxml's
    frames = [frame for frame in element.iter(_FRAME) if frame.get(_CLASS) == name]
    return [line for frame in frames for line in _lines(frame)]


def _charts(root: Any) -> Iterator[Chart]:  # noqa: ANN401 - lxml's
    """Read a chart from the table that it keeps its numbers in: series in columns."""
    for chart in root.iter(_tag("chart:chart")):
        table = chart.find(_tag("table:table"))
        if table is None:
            continue
        header, *rows = _rows(table) or [[]]
        title = chart.find(_tag("chart:title"))
        yield Chart(
            kind=(chart.get(_tag("chart:class")) or "").partition(":")[2],
            title=" ".join(_lines(title)) or None if title is not None else None,
            categories=tuple(row[0][0] for row in rows if row),
            series=tuple(
                (name, tuple(row[at][1] if at < len(row) else None for row in rows))
                for at, (name, _) in enumerate(header)
                if at
            ),
        )


def _rows(table: Any) -> list[list[tuple[str, float | None]]]:  # noqa: ANN401 - lxml's
    """Give the cells of each row: text, and number where there is one."""
    rows: list[list[tuple[str, float | None]]] = []
    for row in table.iter(_tag("table:table-row")):
        cells: list[tuple[str, float | None]] = []
        for cell in row:
            if cell.tag in {_tag("table:table-cell"), _tag("table:covered-table-cell")}:
                times = int(cell.get(_tag("table:number-columns-repeated"), "1"))
                text = " ".join(_lines(cell))
                number = _number(cell.get(_tag("office:value")))
                cells += [(text, number)] * min(max(times, 1), _MAX_REPEATED)
        rows.append(cells)
    return rows


def _number(text: str | None) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None


def _lines(element: Any) -> tuple[str, ...]:  # noqa: ANN401 - lxml's
    return clean_lines(["".join(line.itertext()) for line in element.iter(_tag("text:p"))])


def _hidden_styles(root: Any) -> set[str]:  # noqa: ANN401 - lxml's
    return {
        style.get(_tag("style:name"))
        for style in root.iter(_tag("style:style"))
        for properties in style.iter(_tag("style:drawing-page-properties"))
        if properties.get(_tag("presentation:visibility")) == "hidden"
    }


def _inside(element: Any, outer: Any) -> bool:  # noqa: ANN401 - lxml's
    return outer is not None and any(parent is outer for parent in element.iterancestors())


def _parsed(markup: bytes) -> Any:  # noqa: ANN401 - lxml's
    return etree.fromstring(markup, etree.XMLParser(resolve_entities=False, no_network=True))
